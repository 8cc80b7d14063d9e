"""When replies are read whose texts are gathered: what comes of one while it waits is passed on as one.

A piece of text that is passed on costs the event loop about a tenth of a millisecond, however many tokens it has. So
a reply whose reader asks for it is read less often; its first text and its end wait for nothing.
"""

import asyncio
from collections.abc import Iterator

from pipelines.events import Event, TextDelta

STEP = 0.01  # seconds; waits are multiples of it


class Pace:
    """Of all replies of an event loop. Those that are read as often wait together: the event loop that wakes up for one
    reads them all. What that takes comes on top of their wait, so it grows where the event loop is busy."""

    def __init__(self) -> None:
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}  # by the steps that they wait

    def wait(self, seconds: float) -> asyncio.Future[None] | None:
        """What is done when a reply that is read every so often is to be read again; None where that is now."""
        steps = round(seconds / STEP)
        if steps < 1:
            return None
        loop = asyncio.get_running_loop()
        waiting = loop.create_future()
        if steps not in self._waiting:
            self._waiting[steps] = []
            loop.call_later(steps * STEP, self._read, steps)
        self._waiting[steps].append(waiting)
        return waiting

    def _read(self, steps: int) -> None:
        for waiting in self._waiting.pop(steps):
            _set(waiting)


class Paced:
    """One reply."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._waiting: asyncio.Future[None] | None = None
        self._ended = False

    async def wait(self, seconds: float) -> None:
        """Until the reply is to be read again; it is read every so often."""
        if self._ended or (waiting := self._pace.wait(seconds)) is None:
            return
        self._waiting = waiting
        await waiting

    def end(self) -> None:
        """All of it has come: it waits no more."""
        self._ended = True
        if self._waiting is not None:
            _set(self._waiting)


def _set(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def joined(events: Iterator[Event]) -> Iterator[Event]:
    """The same, with texts that follow one another as one. Raises: what ``events`` raises, behind the last text."""
    text: TextDelta | None = None
    try:
        for event in events:
            if isinstance(event, TextDelta):
                text = event if text is None else text + event
                continue
            if text is not None:
                yield text
                text = None
            yield event
    except Exception:
        if text is not None:
            yield text
        raise
    if text is not None:
        yield text
