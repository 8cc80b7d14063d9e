"""What a peer has sent and is not yet taken: bounded, so that a peer that sends faster than it is served must wait."""

import asyncio
from collections import deque

from wyoming.event import Event

from clients.wyoming.frames import FrameError, read_event

WAITING_BYTES = 2 * 1024 * 1024  # that may wait
EVENT_BYTES = 256  # that an event counts besides its payload and its texts
IDLE_SECONDS = 300.0  # without an event, after which a peer counts as gone


class Inbox:
    """The events of one peer. ``fill`` runs beside whatever takes them."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader = reader
        self._events: deque[tuple[Event, int]] = deque()
        self._bytes = 0
        self._end: Exception | None = None  # EOFError: the peer sends no more
        self._changed = asyncio.Condition()

    async def fill(self) -> None:
        """Read until the peer ends, fails or sends something malformed. Raises: nothing."""
        end: Exception = EOFError()
        try:
            while (event := await read_event(self._reader)) is not None:
                await self._put(event)
        except (FrameError, OSError) as error:
            end = error
        async with self._changed:
            self._end = end
            self._changed.notify_all()

    async def _put(self, event: Event) -> None:
        size = EVENT_BYTES + len(event.payload or b"") + _size(event.data)
        async with self._changed:
            await self._changed.wait_for(lambda: self._bytes <= WAITING_BYTES)
            self._events.append((event, size))
            self._bytes += size
            self._changed.notify_all()

    async def take(self) -> Event:
        """The next event.

        Raises: EOFError when the peer has sent its last one, FrameError for a malformed one or when there is none in
        ``IDLE_SECONDS``, OSError when the connection is lost.
        """
        async with self._changed:
            try:
                async with asyncio.timeout(IDLE_SECONDS):
                    await self._changed.wait_for(lambda: self._events or self._end is not None)
            except TimeoutError:
                raise FrameError(f"There was no event for {IDLE_SECONDS:.0f} s.") from None
            if not self._events:
                assert self._end is not None  # noqa: S101 - that is what was waited for
                raise self._end
            event, size = self._events.popleft()
            self._bytes -= size
            self._changed.notify_all()
            return event


def _size(data: dict[str, object]) -> int:
    return sum(len(value) for value in data.values() if isinstance(value, str))
