"""Server-sent events: a response that is written event by event, with comments while nothing comes."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from pipelines.events import StageError
from server.backend import Backend
from server.errors import translate

log = logging.getLogger(__name__)

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
        self._writing = asyncio.Lock()
        self._written = 0.0  # when something was, by the loop's clock
        self._lost: Exception | None = None  # why a comment could not be sent

    @property
    def begun(self) -> bool:
        """Whether the client has got its status already."""
        return self.response.prepared

    async def send(self, data: str, event: str = "") -> None:
        """Write one event. Raises: ConnectionResetError when the client does not read in time."""
        await self._write((f"event: {event}\n" if event else "").encode() + f"data: {data}\n\n".encode())

    @asynccontextmanager
    async def keep_alive(self) -> AsyncIterator[None]:
        """While the block runs, the client gets a comment in each silence. One that can't be sent ends the block.

        Raises: ConnectionResetError when the client does not read in time.
        """
        try:
            async with asyncio.timeout(None) as block:
                beating = asyncio.create_task(self._beat(block), name="keep-alive")
                try:
                    yield
                    async with self._writing:  # a comment that is being written
                        beating.cancel()
                finally:
                    beating.cancel()
                    await asyncio.wait([beating])
        except TimeoutError:
            if self._lost is None:
                raise
            raise self._lost from None

    async def _beat(self, block: asyncio.Timeout) -> None:
        now, silence = asyncio.get_running_loop().time, self._backend.settings.limits.sse_keep_alive
        self._written = now()
        while True:
            await asyncio.sleep(self._written + silence - now())
            async with self._writing:
                silent = now() >= self._written + silence
            try:
                if silent:
                    await self._write(b": keep-alive\n\n")
            except Exception as error:  # raised again where the block ends
                self._lost = error
                block.reschedule(now())
                return

    async def _write(self, data: bytes) -> None:
        async with self._writing:  # an event, or a comment
            await self._backend.deliver(self._request, self._put(data))
            self._written = asyncio.get_running_loop().time()

    async def _put(self, data: bytes) -> None:
        if not self.response.prepared:
            await self.response.prepare(self._request)
        await self.response.write(data)


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
