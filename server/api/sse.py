"""Server-sent events: a response that is written event by event, with comments while nothing comes."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from aiohttp import web

from pipelines.events import StageError
from server.backend import Backend
from server.errors import translate

log = logging.getLogger(__name__)

T = TypeVar("T")

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


class EventStream:
    """The answer to one request. It begins with the first write, so that an earlier failure can have a status."""

    def __init__(self, request: web.Request, backend: Backend) -> None:
        self._request = request
        self._backend = backend
        self.response = web.StreamResponse(headers=HEADERS)

    @property
    def begun(self) -> bool:
        """Whether the client has got its status already."""
        return self.response.prepared

    async def send(self, data: str, event: str = "") -> None:
        """Write one event. Raises: ConnectionResetError when the client does not read in time."""
        await self._write((f"event: {event}\n" if event else "").encode() + f"data: {data}\n\n".encode())

    async def with_comments(self, source: AsyncGenerator[T]) -> AsyncGenerator[T]:
        """What comes from ``source``, which the caller closes; in a silence the client gets a keep-alive comment."""
        while True:
            coming = asyncio.ensure_future(_next(source))
            try:
                while not (await asyncio.wait([coming], timeout=self._backend.settings.limits.sse_keep_alive))[0]:
                    await self._write(b": keep-alive\n\n")
                given = coming.result()
            finally:
                if not coming.done():
                    coming.cancel()
                    await asyncio.wait([coming])
            if not given:
                return
            yield given[0]

    async def _write(self, data: bytes) -> None:
        await self._backend.deliver(self._request, self._put(data))

    async def _put(self, data: bytes) -> None:
        if not self.response.prepared:
            await self.response.prepare(self._request)
        await self.response.write(data)


async def _next(source: AsyncGenerator[T]) -> tuple[T] | None:
    try:
        return (await anext(source),)
    except StopAsyncIteration:
        return None


@asynccontextmanager
async def failures_in(stream: EventStream, id: str) -> AsyncIterator[None]:
    """A failure in the block is the stream's next event, once it has begun.

    Raises: what the block raises before it, and what says that the client is gone.
    """
    try:
        yield
    except (ConnectionError, asyncio.CancelledError):
        raise
    except Exception as error:
        if not stream.begun:
            raise
        if not isinstance(error, StageError):
            log.exception("request %s failed", id)
        await stream.send(json.dumps(translate(error).body()))
