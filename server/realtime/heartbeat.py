"""Detects a peer that has vanished, or that sends a frame byte by byte.

Only a whole frame counts as a sign of life. A silent peer is pinged, and cut when it stays silent.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Heartbeat:
    """Calls ``ping`` after ``seconds`` without a whole frame, and ``cut`` after as many again."""

    __slots__ = ("_cut", "_loop", "_paused", "_ping", "_pinged", "_seconds", "_seen", "_timer")

    def __init__(self, seconds: float, *, ping: Callable[[], None], cut: Callable[[], None]) -> None:
        self._seconds = seconds
        self._ping = ping
        self._cut = cut
        self._loop = asyncio.get_running_loop()
        self._seen = self._loop.time()
        self._pinged = False
        self._paused = False
        self._timer = self._loop.call_later(seconds, self._look)

    def beat(self) -> None:
        """A whole frame has arrived."""
        self._seen = self._loop.time()
        self._pinged = False

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Suspend the check while the block runs, because the server does not read then."""
        self._paused = True
        try:
            yield
        finally:
            self._paused = False
            self.beat()

    def stop(self) -> None:
        """Stop checking."""
        self._timer.cancel()

    def _look(self) -> None:
        if self._paused:
            self.beat()
        due = self._seen + self._seconds * (2 if self._pinged else 1)
        if self._loop.time() >= due:
            if self._pinged:
                self._cut()
                return
            self._pinged = True
            self._ping()
            due = self._seen + 2 * self._seconds
        self._timer = self._loop.call_at(due, self._look)
