"""Retention: conversations that were not used for some days are deleted, unless the clock can't be trusted."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)

DAY = 24 * 3600  # seconds
EVERY = 3600.0  # seconds between two looks
JUMP = 600.0  # seconds by which the clock may differ from the time that has passed


class Retention:
    """Decides what is old. Where the clock has jumped since the last look, nothing is until it runs evenly."""

    def __init__(
        self,
        days: float,
        *,
        wall: Callable[[], float] = time.time,
        passed: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = days * DAY
        self._wall = wall
        self._passed = passed
        self._before = (wall(), passed())

    def limit(self) -> int | None:
        """The second before which what was last used is old; None where nothing is to be deleted."""
        before, self._before = self._before, (self._wall(), self._passed())
        jumped = (self._before[0] - before[0]) - (self._before[1] - before[1])
        if abs(jumped) > JUMP:
            log.warning("the clock jumped by %.0f s: nothing is deleted for its age until it runs evenly", jumped)
            return None
        return int(self._before[0] - self._seconds) if self._seconds else None

    async def run(
        self, expire: Callable[[int], Awaitable[object]], *, sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    ) -> None:
        """Look at the start and every hour, until it is cancelled."""
        while True:
            limit = self.limit()
            if limit is not None:
                try:
                    await expire(limit)
                except Exception as error:
                    log.warning("old conversations could not be deleted: %s", type(error).__name__)
            await sleep(EVERY)
