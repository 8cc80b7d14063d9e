"""The buckets of requests and tokens of several servers: each decides in memory, and learns behind that of the others.

In Redis a bucket is a key that lives for as long as the bucket takes to be full again. So it expires by itself, no
clock is read, and servers whose limits differ still mean the same.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from server.limits.buckets import MOST, Buckets
from server.pauses import Pauses
from server.sharing.store import PAUSES, RedisStore, StoreError

log = logging.getLogger(__name__)

INTERVAL = 0.25  # seconds between two exchanges, while there is something to say
LOOKS = 6  # at a bucket behind its last use here, each after twice as many intervals: what do the others take?
PORTION = 200  # buckets of one script: about a millisecond of the event loop, and less of Redis
LONGEST = 3_600_000  # milliseconds; what lives longer is no bucket of ours
PREFIX = "loquent:limits:"
CLOSE_SECONDS = 1.0

# For each key: the milliseconds of the bucket's time that were taken since the last exchange, and those that are
# missing here in all. The latter matter where Redis has lost some, or could not be asked: a bucket is never fuller than
# a server knows it to be. The last argument is the longest that a bucket's key lives.
SCRIPT = """
local left, longest = {}, tonumber(ARGV[2 * #KEYS + 1])
for i, key in ipairs(KEYS) do
  local taken, missing = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local value = redis.pcall('GET', key)
  local lives = redis.call('PTTL', key)
  if (value and value ~= '1') or lives == -1 or lives > longest then
    left[i] = -1
  else
    local now = math.floor(math.max(math.max(lives, 0) + taken, missing, 0) + 0.5)
    now = math.min(now, longest)
    if now > 0 then redis.call('SET', key, '1', 'PX', now) elseif lives > 0 then redis.call('DEL', key) end
    left[i] = now
  end
end
return left
"""

Key = tuple[str, str]  # the limit, and whose bucket it is


class _EmptiedError(Exception):
    """Redis lacks the script: it was started again, or is another one."""


class SharedLimits:
    """Exchanges with Redis what was taken out of the buckets.

    A server that has used a bucket looks at it again for some 16 s; one that has not knows nothing of it.
    Within one interval several servers can admit what each of them has in its bucket: N servers at most N bucketfuls in
    place of one. What goes beyond the limit is a debt in all of them, so that over a longer time the limit holds.
    While Redis is away each server limits on its own; afterwards every bucket is as empty as where it is emptiest.
    """

    def __init__(
        self,
        store: RedisStore,
        buckets: Mapping[str, Buckets],
        *,
        interval: float = INTERVAL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._buckets = buckets
        self._interval = interval
        self._clock = clock
        self._taken: dict[Key, float] = {}  # seconds, since the last exchange
        self._watched: tuple[set[Key], ...] = tuple(set() for _ in range(LOOKS))
        self._exchanges = 0
        self._work = asyncio.Event()
        self._behind = True  # Redis may lack what is missing in any bucket here
        self._script = ""
        self._warned = False
        self._running: asyncio.Task[None] | None = None
        for limit, each in buckets.items():
            each.on_taken = partial(self._note, limit)

    async def start(self) -> None:
        """Begin to exchange; the caller does not wait for Redis."""
        self._running = asyncio.create_task(self._run(), name="shared-limits")

    async def close(self) -> None:
        """Say what was not said yet, where Redis answers."""
        if self._running is None:
            return
        self._running.cancel()
        await asyncio.wait([self._running])
        if self._store.healthy and not self._behind:
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._exchange()
            except (StoreError, TimeoutError, _EmptiedError) as error:
                log.info("the last counts of the limits were not shared: %s", type(error).__name__)

    def _note(self, limit: str, name: str, seconds: float) -> None:
        key = (limit, name)
        self._taken[key] = self._taken.get(key, 0.0) + seconds
        if len(self._taken) > MOST:  # Redis is too slow for so many
            self._forget()
        self._work.set()

    def _forget(self) -> None:
        """Forget what was taken, which Redis may have counted or not: as missing it can't count twice."""
        self._behind = True
        self._taken.clear()
        for keys in self._watched:
            keys.clear()

    async def _run(self) -> None:
        pauses = Pauses(*PAUSES)
        while True:
            try:
                if self._behind:
                    await self._catch_up()
                else:
                    await self._exchange()
            except StoreError:
                self._forget()
                await asyncio.sleep(pauses.take())
            except _EmptiedError:
                log.info("%s has no buckets any more: it gets those of this server", self._store.where)
                self._behind = True
                await asyncio.sleep(self._interval)
            else:
                pauses.reset()
                await asyncio.sleep(self._interval)
                if not any(self._watched):
                    await self._work.wait()

    async def _catch_up(self) -> None:
        """Say of every bucket what is missing here."""
        self._script = await self._store.run(lambda redis: redis.script_load(SCRIPT))
        self._behind = False
        for limit, each in self._buckets.items():
            keys = [(limit, name) for name in each.names()]
            self._watched[0].update(keys)
            await self._push(keys)

    async def _exchange(self) -> None:
        self._work.clear()
        self._exchanges += 1
        await self._push(self._due())

    def _due(self) -> list[Key]:
        """The buckets that were taken from, and those whose time has come to be looked at again."""
        due: dict[Key, int] = {}  # with the number of the next look
        for look, keys in enumerate(self._watched):
            if self._exchanges % 2**look == 0:
                due |= dict.fromkeys(keys, look + 1)
                keys.clear()
        due |= dict.fromkeys(self._taken, 0)
        for key, look in due.items():
            if look < LOOKS:
                self._watched[look].add(key)
        return list(due)

    async def _push(self, keys: Sequence[Key]) -> None:
        """Raises: StoreError, _EmptiedError."""
        for start in range(0, len(keys), PORTION):
            some, at = keys[start : start + PORTION], self._clock()
            arguments: list[str] = []
            for limit, name in some:
                taken, missing = self._taken.pop((limit, name), 0.0), self._buckets[limit].missing(name)
                # Of what was taken, what is full again counts no more.
                arguments += [_milliseconds(min(taken, missing)), _milliseconds(missing)]
            names = [hashed(*key) for key in some]
            found = await self._store.run(partial(self._call, names, arguments))
            if found is None:
                raise _EmptiedError
            for key, name, left in zip(some, names, found, strict=True):
                self._learn(key, name, left, at)

    async def _call(self, names: Sequence[str], arguments: Sequence[str], redis: Any) -> list[int] | None:
        from redis.exceptions import NoScriptError

        try:
            found: Any = await redis.evalsha(self._script, len(names), *names, *arguments, LONGEST)
        except NoScriptError:
            return None
        if not isinstance(found, list) or len(found) != len(names) or not all(isinstance(each, int) for each in found):
            raise TypeError("this is no answer to the script of the limits")
        return found

    def _learn(self, key: Key, name: str, left: int, at: float) -> None:
        limit, whose = key
        if 0 <= left <= LONGEST:
            missing = left / 1000 + self._taken.get(key, 0.0)  # and what was taken meanwhile
            self._buckets[limit].learn(whose, missing, at)
        elif not self._warned:
            log.warning(
                "%s has something else under %s: this bucket, and others like it, are counted by this server alone. "
                "Delete it, or give Loquent a database of its own.",
                self._store.where,
                name,
            )
            self._warned = True


def hashed(limit: str, name: str) -> str:
    """The key in Redis: it has no name of a key or an address."""
    return f"{PREFIX}{limit}:{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def _milliseconds(seconds: float) -> str:
    return f"{max(-LONGEST, min(seconds * 1000, LONGEST)):.3f}"
