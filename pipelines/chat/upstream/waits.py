"""Waits for a peer over HTTP: each has an end, and what goes wrong in it has a name."""

import asyncio
from types import TracebackType

import aiohttp

from pipelines.chat.upstream.chunks import shown
from pipelines.chat.upstream.outcomes import UpstreamError


class Waits:
    """The waits of one client; one a request at a time."""

    def __init__(self) -> None:
        self._waits: set[asyncio.Timeout] = set()

    def within(self, until: float) -> "Wait":
        """A wait for a peer that ends then, by the loop's clock. Raises: UpstreamError."""
        return Wait(self._waits, until)

    def end(self) -> None:
        """End all of them now: closing a connection does not wake its reader."""
        for wait in self._waits:
            if not wait.expired():
                wait.reschedule(0.0)


class Wait:
    """What goes wrong on the way to a peer and back is an ``UpstreamError``.

    A class and no generator, because each piece of a reply is waited for.
    """

    __slots__ = ("_all", "_timeout")

    def __init__(self, waits: set[asyncio.Timeout], until: float) -> None:
        self._all = waits  # while it lasts, it is among these
        self._timeout = asyncio.timeout_at(until)

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()
        self._all.add(self._timeout)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._all.discard(self._timeout)
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as raised:
            error = raised
        if isinstance(error, Exception) and (failure := _failure(error)) is not None:
            raise failure from None


def _failure(error: Exception) -> UpstreamError | None:
    """What an error means; None where it is none of an upstream's, or says so already."""
    match error:
        case aiohttp.ServerTimeoutError() | aiohttp.ConnectionTimeoutError():
            return UpstreamError("unreachable", f"no connection: {type(error).__name__}")
        case TimeoutError():
            return UpstreamError("timeout", "nothing came in time")
        case aiohttp.ClientConnectorError():
            why = getattr(error, "os_error", None) or type(error).__name__  # a certificate's error has none
            return UpstreamError("unreachable", f"no connection: {shown(str(why))}")
        case aiohttp.ClientConnectionError() | aiohttp.ClientPayloadError() | OSError():
            return UpstreamError("failed", f"the connection broke: {type(error).__name__}")
        case aiohttp.ClientError():
            return UpstreamError("invalid", f"no HTTP: {type(error).__name__}")
    return None
