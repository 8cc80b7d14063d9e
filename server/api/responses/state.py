"""What the handlers of responses share: the store, and the responses in progress."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from aiohttp import web

from server.api.responses.items import Item
from server.api.responses.reply import Reply
from server.api.responses.request import ResponseRequest
from server.api.running import Stop
from server.config import ResponsesSettings
from server.errors import ApiError
from server.history.responses import HistoryStore
from server.history.store import DatabaseHistory
from server.response_store import Json, MemoryStore, Record, ResponseStore


@dataclass
class Running:
    """A response in progress."""

    reply: Reply
    stop: Stop = field(default_factory=Stop)
    ended: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Responses:
    """The responses of one server."""

    store: ResponseStore
    items: int  # of one conversation
    running: dict[tuple[str, str], Running] = field(default_factory=dict)  # by tenant and id; bounded like requests

    @contextmanager
    def in_progress(self, tenant: str, reply: Reply) -> Iterator[Running]:
        """Let others find and cancel this response while the block runs."""
        running = Running(reply)
        self.running[tenant, reply.id] = running
        try:
            yield running
        finally:
            del self.running[tenant, reply.id]
            running.ended.set()

    async def record(self, tenant: str, id: str) -> Record:
        """A stored response. Raises: ApiError 404."""
        record = await self.store.get(tenant, id) if id.startswith("resp_") else None
        if record is None:
            raise not_found("response", id, "response_id")
        return record

    async def conversation(self, tenant: str, id: str, param: str, *, to_change: bool = False) -> Record:
        """A stored conversation. Raises: ApiError 404 that names ``param``, 409 where only a session changes it."""
        record = await self.store.get(tenant, id) if id.startswith("conv_") else None
        if record is None:
            raise not_found("conversation", id, param)
        if to_change and record.kind == "realtime":
            text = f"{param}: a realtime session holds this conversation: it can be read and deleted here, not changed."
            raise ApiError(409, "conversation_read_only", text, param)
        return record

    async def chain(self, tenant: str, id: str) -> list[Json]:
        """The items of a response and of those before it, oldest first.

        Raises: ApiError 404 where one of them is not stored, 400 where they are too many.
        """
        param = "previous_response_id"
        turns: list[list[Json]] = []
        wanted: str | None = id
        while wanted is not None:
            record = await self.store.get(tenant, wanted) if wanted.startswith("resp_") else None
            if record is None:
                raise not_found("response", wanted, param, "previous_response_not_found")
            turns.append(list(record.everything()))
            self.check_room(sum(map(len, turns)), param)
            wanted = record.parent or None
        return [item for turn in reversed(turns) for item in turn]

    def check_room(self, items: int, param: str) -> None:
        """Raises: ApiError 400 where a conversation would have too many items."""
        if items > self.items:
            text = f"{param}: the conversation has more than {self.items} items; begin a new one."
            raise ApiError(400, "conversation_full", text, param)

    async def resolved(self, tenant: str, items: Sequence[Item], param: str = "input") -> tuple[Json, ...]:
        """A request's items as they are stored; references are replaced. Raises: ApiError 404 for an unknown one."""
        found: list[Json] = []
        for index, item in enumerate(items):
            if item.type == "item_reference" and item.id is not None:
                known = await self.store.find_item(tenant, item.id)
                if known is None:
                    raise not_found("item", item.id, f"{param}.{index}")
                found.append(known)
            elif item.type in ("message", "function_call", "function_call_output"):
                found.append(item.stored())
        return tuple(found)

    async def history(self, tenant: str, asked: ResponseRequest) -> list[Json]:
        """The items that come before a request's own. Raises: ApiError 404 where they are not stored."""
        if asked.previous_response_id is not None:
            return await self.chain(tenant, asked.previous_response_id)
        if asked.conversation is not None:
            id = asked.conversation.id
            return list((await self.conversation(tenant, id, "conversation", to_change=True)).items)
        return []

    async def keep(self, tenant: str, asked: ResponseRequest, input: tuple[Json, ...], reply: Reply) -> None:
        """Store a response that has ended, and add it to its conversation. Raises: HistoryError where it can't be."""
        if asked.conversation is not None:
            said = (*input, *reply.output) if reply.status in ("completed", "incomplete") else ()
            if not await self.store.append(tenant, asked.conversation.id, said):
                return  # it was deleted meanwhile, with everything that belongs to it
        if asked.store is not False:
            parent = asked.previous_response_id or ""
            await self.store.put(tenant, Record(reply.id, reply.response(), input, parent))


def not_found(what: str, id: str, param: str, code: str = "") -> ApiError:
    """What says that there is no such thing, or no longer."""
    text = f"{param}: there is no {what} {id!r:.140} here, or it is no longer stored."
    return ApiError(404, code or f"{what}_not_found", text, param)


def responses(settings: ResponsesSettings, history: DatabaseHistory | None = None) -> Responses:
    """The responses of a server that begins: in its history, where there is one."""
    if history is not None:
        return Responses(HistoryStore(history), settings.items)
    return Responses(MemoryStore(settings.kept_bytes, settings.expires), settings.items)


RESPONSES = web.AppKey("responses", Responses)
