"""Shares out the event loop's time: while replies are in progress, what brings the models no work waits for its turn.

Pings, frames, handshakes and refused requests cost time of the thread that sends every reply's tokens, and of the cores
that compute them. Each connection may use a little of it at any time; what goes beyond that shares one lane, in the
order in which it comes, and is not read meanwhile (backpressure).
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable

UNIT_SECONDS = 30e-6  # of the event loop's thread, about: what a frame costs that is refused
FRAME, REJECTED = 1.0, 4.0  # units; honest clients send few frames that are rejected
REQUEST, CONNECTION, HANDSHAKE = 4.0, 4.0, 16.0  # the last is a websocket's, with its session
UNIT_BYTES = 4096  # that a websocket receives; in fragments of one byte they cost a unit
OWN_RATE = 50.0  # units a second of each connection: frames of 20 ms of sound
OWN_MOST = 500.0  # units that a quiet connection has saved
OWN_FIRST = 25.0  # that a new one has, or coming again and again would pay
QUANTUM = 16.0  # units after which a connection lets others go first
SAVED_SECONDS = 1.0  # of the lane, that was not used: some dozens may connect at once
PAUSE_SECONDS = 1.0  # behind a reply, that count as one: where there are conversations, the next question is near
SLICE_SECONDS = 0.25  # after which a waiting one looks whether it still must


class Lane:
    """What all connections together may use beyond their own: a ``share`` of the event loop's time."""

    __slots__ = ("_busy", "_busy_until", "_free_at", "_rate", "clock", "sleep")

    def __init__(
        self,
        share: float,
        busy: Callable[[], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate = share / UNIT_SECONDS  # units a second
        self._busy = busy
        self._busy_until = -math.inf
        self._free_at = -math.inf
        self.clock = clock
        self.sleep = sleep

    @property
    def busy(self) -> bool:
        """Whether a reply is in progress, or was just now."""
        now = self.clock()
        if self._busy():
            self._busy_until = now + PAUSE_SECONDS
        return now < self._busy_until

    def take(self, units: float) -> float:
        """Take so many units; returns the seconds until their turn comes. 0 while no reply is in progress."""
        if not self.busy:
            self._free_at = -math.inf
            return 0.0
        now = self.clock()
        begin = max(now - SAVED_SECONDS, self._free_at)
        self._free_at = begin + units / self._rate
        return max(begin - now, 0.0)

    async def wait(self, seconds: float) -> None:
        """Let others go first, and wait so long, or until no reply is in progress."""
        until = self.clock() + seconds
        await self.sleep(0)
        while left := self.left(until):
            await self.sleep(left)

    def left(self, until: float) -> float:
        """Seconds to wait before asking again; 0 where a turn has come."""
        return min(max(until - self.clock(), 0.0), SLICE_SECONDS) if self.busy else 0.0


class Pace:
    """What one connection may use."""

    __slots__ = ("_at", "_due", "_level", "lane")

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self._level = OWN_FIRST
        self._at = lane.clock()
        self._due = 0.0  # used, and not taken yet

    def charge(self, units: float) -> float | None:
        """Count what was used; returns the seconds to wait, at least to let others go first, or None to go on."""
        self._due += units
        if self._due < QUANTUM:
            return None
        due, self._due = self._due, 0.0
        now = self.lane.clock()
        self._level, self._at = min(self._level + (now - self._at) * OWN_RATE, OWN_MOST), now
        if self._level < due:
            return self.lane.take(due)
        self._level -= due
        return 0.0

    async def turn(self, units: float) -> None:
        """Count what was used, and wait where that was more than may be."""
        wait = self.charge(units)
        if wait is not None:
            await self.lane.wait(wait)
