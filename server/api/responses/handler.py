"""``POST /v1/responses``: answers a conversation, whole or as semantic events."""

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Literal

from aiohttp import web

from pipelines.events import Event, Finished, Message, StageError
from server.api import requests
from server.api.responses.items import conversation
from server.api.responses.reply import Reply
from server.api.responses.request import ResponseRequest, read_request
from server.api.responses.state import RESPONSES, Responses, Running
from server.api.running import one_reply, until
from server.api.sse import EventStream
from server.auth import CALLER, OWNER, TENANT
from server.backend import BACKEND, Backend
from server.errors import ApiError, translate
from server.history.interface import HistoryError
from server.response_store import Json

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Job:
    """A response that is being made."""

    backend: Backend
    responses: Responses
    owner: str
    asked: ResponseRequest
    input: tuple[Json, ...]
    running: Running

    async def events(self, reply: AsyncGenerator[Event]) -> AsyncGenerator[Json]:
        """OpenAI's events for those of the reply. The response is stored before its last one is out."""
        made = self.running.reply
        end: Finished | None = None
        async with aclosing(until(reply, self.running.stop)) as coming:
            async for event in coming:
                if isinstance(event, Finished):
                    end = event
                    break
                for each in made.add(event):
                    yield each
        for each in await self._ended(made.finish(end.reason, end.usage) if end else made.finish("cancelled")):
            yield each

    async def failed(self, failure: ApiError) -> list[Json]:
        """The events that end a response that has begun and failed."""
        return await self._ended(self.running.reply.fail(failure))

    async def _ended(self, last: Iterable[Json]) -> list[Json]:
        events = list(last)
        reply = self.running.reply
        try:
            await self.responses.keep(self.owner, self.asked, self.input, reply)
        except HistoryError as error:
            log.warning("response %s could not be stored: %s", reply.id, error.code)
            reply.not_stored()
            events[-1]["response"] = reply.response()
        return events


async def create(request: web.Request) -> web.StreamResponse:
    """Answer."""
    backend, responses, owner = request.app[BACKEND], request.app[RESPONSES], request[OWNER]
    asked = read_request(await requests.body(request))
    model = backend.names.resolve(asked.model)
    if asked.loquent:
        asked.loquent.check(backend)
    checked = asked.checked()
    history = await responses.history(owner, asked)
    input = await responses.resolved(owner, asked.input or ())
    responses.check_room(len(history) + len(input), "input")
    if not history and not input:
        raise ApiError(400, "missing_required_parameter", "input: Field required", "input")
    backend.check_ready()
    id = f"resp_{secrets.token_hex(24)}"
    said = (Message("system", asked.instructions),) if asked.instructions else ()
    messages = (*said, *conversation([*history, *input]))
    turn = replace(asked.turn(id, request[TENANT], messages, checked), model=model)
    overflow: Literal["error", "trim"] = backend.settings.chat.overflow
    reply = Reply(id, model, asked.echo(checked.offered, overflow=overflow), checked.offered.warnings)
    with responses.in_progress(owner, reply) as running:
        job = _Job(backend, responses, owner, asked, input, running)
        async with (
            aclosing(one_reply(backend, turn, backend.origin(request), request[CALLER])) as events,
            aclosing(job.events(events)) as made,
        ):
            if asked.stream:
                return await _streamed(request, job, made)
            async for _ in made:
                pass
            return web.json_response(reply.response())


async def _streamed(request: web.Request, job: _Job, made: AsyncGenerator[Json]) -> web.StreamResponse:
    """Send the events. A failure before the first of them still becomes an HTTP status."""
    stream = EventStream(request, job.backend)
    try:
        async with stream.keep_alive():
            async for event in made:
                await _send(stream, event)
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception as error:
        if not stream.begun or job.running.reply.ended:
            raise
        if not isinstance(error, StageError):
            log.exception("response %s failed", job.running.reply.id)
        for event in await job.failed(translate(error)):
            await _send(stream, event)
    return stream.response


async def _send(stream: EventStream, event: Json) -> None:
    await stream.send(json.dumps(event, separators=(",", ":")), event["type"])
