"""What is stored of responses, and the cancelling of a response in progress."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

from aiohttp import web

from server.api.responses.state import RESPONSES, not_found
from server.auth import OWNER
from server.backend import BACKEND
from server.errors import ApiError
from server.response_store import Json

PAGE = 20  # items of one answer, where the client says nothing
LARGEST_PAGE = 100


async def retrieve(request: web.Request) -> web.Response:
    """A response that is stored, or in progress. Raises: ApiError 404."""
    id, tenant = request.match_info["id"], request[OWNER]
    responses = request.app[RESPONSES]
    if request.query.get("stream") == "true":
        raise ApiError(400, "unsupported_parameter", "stream: a stored response is not streamed again.", "stream")
    if running := responses.running.get((tenant, id)):
        return web.json_response(running.reply.response())
    return web.json_response((await responses.record(tenant, id)).body)


async def input_items(request: web.Request) -> web.Response:
    """What a stored response answered: the items of the responses before it, and its own input."""
    id, tenant = request.match_info["id"], request[OWNER]
    responses = request.app[RESPONSES]
    record = await responses.record(tenant, id)
    before = await responses.chain(tenant, record.parent) if record.parent else []
    return web.json_response(page(request, [*before, *record.items]))


async def delete(request: web.Request) -> web.Response:
    """Drop a stored response. Those that follow it can't be continued any more. Raises: ApiError 404."""
    id, tenant = request.match_info["id"], request[OWNER]
    if not (id.startswith("resp_") and await request.app[RESPONSES].store.delete(tenant, id)):
        raise not_found("response", id, "response_id")
    return web.json_response({"id": id, "object": "response", "deleted": True})


async def cancel(request: web.Request) -> web.Response:
    """Stop a response in progress; one that has ended is returned as it is. Raises: ApiError 404."""
    id, tenant = request.match_info["id"], request[OWNER]
    responses = request.app[RESPONSES]
    running = responses.running.get((tenant, id))
    if running is None:
        return web.json_response((await responses.record(tenant, id)).body)
    running.stop.ask()
    with suppress(TimeoutError):  # its end waits for a client that reads slowly, for as long as a send may take
        await asyncio.wait_for(running.ended.wait(), request.app[BACKEND].settings.limits.send_seconds)
    return web.json_response(running.reply.response())


@dataclass(frozen=True, slots=True)
class Paging:
    """Which page of a list a query asks for."""

    limit: int
    order: Literal["asc", "desc"]
    after: str  # the id of the one before it; "": from the beginning

    @classmethod
    def of(cls, request: web.Request) -> "Paging":
        """Raises: ApiError 400 for what the query says wrong."""
        query = request.query
        limit, order = query.get("limit", str(PAGE)), query.get("order", "desc")
        if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:9]) <= LARGEST_PAGE):
            raise ApiError(400, "invalid_value", f"limit: must be 1 to {LARGEST_PAGE}", "limit")
        if order not in ("asc", "desc"):
            raise ApiError(400, "invalid_value", "order: must be asc or desc", "order")
        return cls(int(limit), "asc" if order == "asc" else "desc", query.get("after", ""))


def page(request: web.Request, items: Sequence[Json]) -> Json:
    """A page of items in the order that the query asks for. Raises: ApiError 400, 404 for what it says wrong."""
    wanted = Paging.of(request)
    listed = list(items if wanted.order == "asc" else reversed(items))
    if wanted.after:
        found = [index for index, item in enumerate(listed) if item["id"] == wanted.after]
        if not found:
            raise not_found("item", wanted.after, "after")
        listed = listed[found[0] + 1 :]
    return listing(listed[: wanted.limit], more=len(listed) > wanted.limit)


def listing(shown: Sequence[Json], more: bool) -> Json:
    """A page as OpenAI's lists look."""
    return {
        "object": "list",
        "data": list(shown),
        "first_id": shown[0]["id"] if shown else "",
        "last_id": shown[-1]["id"] if shown else "",
        "has_more": more,
    }
