"""How often the replies of upstreams are read: texts that come while one waits are passed on as one.

A piece of text that is passed on costs the event loop about a tenth of a millisecond, however many tokens it has. So
while many replies stream, each one is read less often; a reply's first text and its end wait for nothing.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.events import Event, TextDelta

PIECES = 640  # a second, of all replies together, above which each is read less often
LEAST = 0.01  # seconds that are worth a wait


class Pace:
    """Of one server's replies, each of which waits for ``longest`` seconds at most. They wait together: the event loop
    that wakes up for one reads them all."""

    def __init__(self, longest: float) -> None:
        self._longest = longest
        self._replies = 0
        self._waiting: set[asyncio.Future[None]] = set()  # at most one for each reply
        self._timer: asyncio.TimerHandle | None = None  # while some wait

    @contextmanager
    def reply(self) -> Iterator["Paced"]:
        """A reply is read while the block runs."""
        self._replies += 1
        try:
            yield Paced(self)
        finally:
            self._replies -= 1

    def wait(self) -> asyncio.Future[None] | None:
        """What is done when the next reading begins; None where that is now."""
        gap = min(self._replies / PIECES, self._longest)
        if gap < LEAST:
            return None
        loop = asyncio.get_running_loop()
        if self._timer is None:
            self._timer = loop.call_later(gap, self._read)
        waiting = loop.create_future()
        self._waiting.add(waiting)
        waiting.add_done_callback(self._waiting.discard)
        return waiting

    def _read(self) -> None:
        self._timer = None
        for waiting in tuple(self._waiting):
            _set(waiting)


class Paced:
    """One of them."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._waiting: asyncio.Future[None] | None = None
        self._ended = False

    async def wait(self) -> None:
        """Until the reply is to be read again."""
        if self._ended or (waiting := self._pace.wait()) is None:
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
