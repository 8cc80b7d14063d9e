"""PostgreSQL and Redis end hard amid conversations, and are started again, several times.

Run ``python -m bench.faults restarts``; it needs Debian's ``postgresql`` and ``redis-server`` (or ``valkey-server``).
None of the conversations may lose what was acknowledged, and the limits must be shared again afterwards.
"""

import asyncio
import random
import signal
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from bench.faults.kills import SETTINGS
from bench.faults.postgres import Postgres, postgres
from bench.faults.process import Process
from bench.faults.redis import Redis, redis
from bench.faults.stories import Found, Telling, stories

TIMES = 5  # that each is restarted
AWAY_SECONDS = (0.5, 4.0)  # from its end to its start
CALM_SECONDS = 3.0  # before each end, and behind the last start
SHARED_SECONDS = 20.0  # within which the limits are shared again
ROOM = 10**9  # requests and tokens a minute: limits that are counted and refuse no one


@dataclass
class Restarted:
    """What came of it."""

    found: Found = field(default_factory=Found)
    restarts: dict[str, int] = field(default_factory=dict)
    shared: bool = False  # whether the server used Redis again at the end

    @property
    def good(self) -> bool:
        """Whether nothing was lost."""
        return self.found.turns > 0 and not self.found.wrong and self.shared

    def __str__(self) -> str:
        found = self.found
        ends = ", ".join(f"{count} {status}" for status, count in sorted(found.ends.items()))
        restarts = " and ".join(f"{name} {times} ×" for name, times in self.restarts.items())
        p95 = statistics.quantiles(found.seconds, n=20)[-1] if len(found.seconds) > 1 else found.longest
        return "\n".join(
            [
                f"{restarts} restarted: {found.turns} turns ({ends}), half of them within "
                f"{statistics.median(found.seconds or [0.0]):.1f} s, 95 % within {p95:.1f} s, the longest "
                f"{found.longest:.1f} s; clients were sent away {found.sent_away} times; {found.items} items "
                f"acknowledged, {len(found.wrong)} wrong; limits {'are' if self.shared else 'ARE NOT'} shared again",
                *found.wrong,
            ]
        )


def settings(database: str, store: str) -> dict[str, Any]:
    """Of a server with both."""
    room = {f"limits.address_{what}": ROOM for what in ("requests", "tokens")}
    return {**SETTINGS, **room, "limits.rates": "on", "history.store": database, "limits.store": store}


async def restarts(count: int, *, times: int = TIMES, seed: int = 1) -> Restarted:
    """Converse over so many sockets with a server in a process of its own. Raises: SystemExit where one is missing."""
    with postgres() as database, redis() as store:
        if database is None:
            raise SystemExit("PostgreSQL is not installed (Debian: apt install postgresql).")
        if store is None:
            raise SystemExit("Redis is not installed (Debian: apt install redis-server).")
        server = Process(settings(await asyncio.to_thread(database.new_database), store.url))
        server.start()
        try:
            await server.ready()
            return await amid(server, database, store, count, times=times, seed=seed)
        finally:
            if server.alive:
                server.end()


async def amid(
    server: Process,
    database: Postgres,
    store: Redis,
    count: int,
    *,
    times: int = TIMES,
    calm: float = CALM_SECONDS,
    seed: int = 1,
) -> Restarted:
    """Restart both while clients converse with a server that runs."""
    chance = random.Random(seed)
    done = Restarted(restarts={"PostgreSQL": times, "Redis": times})

    async def again(stop: Callable[[], None], start: Callable[[], None]) -> None:
        for _ in range(times):
            await asyncio.sleep(chance.uniform(calm / 3, calm))
            await asyncio.to_thread(stop)
            await asyncio.sleep(chance.uniform(*AWAY_SECONDS))
            await asyncio.to_thread(start)

    async with stories(server, Telling(at_once=count, patient=True)) as done.found:
        await again(lambda: database.stop(signal.SIGQUIT), database.start)
        await again(store.stop, store.start)
        done.shared = await _shared(server)
        await asyncio.sleep(calm)
    return done


async def _shared(server: Process) -> bool:
    """Whether the server uses Redis again."""
    async with aiohttp.ClientSession() as http:
        for _ in range(int(SHARED_SECONDS * 10)):
            async with http.get(f"{server.url}/metrics") as answer:
                if 'loquent_shared_store_up{store="limits"} 1.0' in await answer.text():
                    return True
            await asyncio.sleep(0.1)
    return False
