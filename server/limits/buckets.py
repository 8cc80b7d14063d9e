"""Token buckets, and daily budgets: the state of every limit, in memory and bounded.

The package ``limits`` was tried and does not fit: its memory storage begins a thread that goes through every key within
10 ms of a request, grows with every address that asks, reads the wall clock, and stores a list entry for each token.
Its strategies know no debt, and what a reply costs is known once it has run.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MINUTE = 60.0
DAY = 86_400
MOST = 100_000  # buckets of one kind, about 20 MB; then the one that was longest unused is forgotten, which fills it


@dataclass(frozen=True, slots=True)
class Standing:
    """How much of a limit is left."""

    limit: int
    remaining: int
    reset_seconds: float  # until all of it is there again


@dataclass(slots=True)
class _Bucket:
    level: float  # below 0 is a debt
    at: float  # when it was so


class Buckets:
    """Buckets of one size, each of which fills in ``seconds``."""

    def __init__(
        self, size: int, seconds: float = MINUTE, *, clock: Callable[[], float] = time.monotonic, most: int = MOST
    ) -> None:
        self.size = size
        self._rate = size / seconds  # tokens a second
        self._clock = clock
        self._most = most
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()  # the one that was longest unused first
        self.on_taken: Callable[[str, float], None] = lambda name, seconds: None  # the time that it takes to fill again

    def __len__(self) -> int:
        return len(self._buckets)

    def _level(self, name: str, now: float) -> float:
        bucket = self._buckets.get(name)
        return self.size if bucket is None else min(bucket.level + (now - bucket.at) * self._rate, self.size)

    def wait(self, name: str, amount: float = 1) -> float:
        """Seconds until so much is in the bucket; 0 where it is. What is larger than the bucket needs a full one."""
        lacks = min(amount, self.size) - self._level(name, self._clock())
        return max(lacks / self._rate, 0.0)

    def take(self, name: str, amount: float) -> None:
        """Take this out of the bucket, whether it is in it or not; a negative amount gives back."""
        now = self._clock()
        self._set(name, min(self._level(name, now) - amount, self.size), now)
        self.on_taken(name, amount / self._rate)

    def names(self) -> list[str]:
        """The buckets that may not be full."""
        return list(self._buckets)

    def missing(self, name: str) -> float:
        """Seconds until the bucket is full."""
        return (self.size - self._level(name, self._clock())) / self._rate

    def learn(self, name: str, missing: float, at: float) -> None:
        """Set a bucket that was full but for so many seconds, at a time of the clock."""
        if missing > 0 or name in self._buckets:
            self._set(name, self.size - missing * self._rate, at)

    def _set(self, name: str, level: float, at: float) -> None:
        self._buckets[name] = _Bucket(level, at)
        self._buckets.move_to_end(name)
        now = self._clock()
        for _ in range(2):  # amortised, what is full again goes
            oldest = next(iter(self._buckets))
            full = self._level(oldest, now) >= self.size
            if len(self._buckets) > self._most or full:
                del self._buckets[oldest]
            if not self._buckets:
                return

    def standing(self, name: str) -> Standing:
        """What is left in the bucket."""
        level = self._level(name, self._clock())
        return Standing(self.size, max(int(level), 0), (self.size - level) / self._rate)


class Daily:
    """Tokens of each key on one day, which begins at midnight UTC."""

    def __init__(self, budget: int, *, wall: Callable[[], float] = time.time) -> None:
        self.budget = budget
        self._wall = wall
        self._day = 0
        self._used: dict[str, int] = {}  # as many as there are keys
        self._elsewhere: dict[str, int] = {}  # of it: on other servers, or before this one was started again
        self.on_charged: Callable[[str], None] = lambda name: None

    def _roll(self) -> None:
        day = int(self._wall() // DAY)
        if day != self._day:
            self._day, self._used, self._elsewhere = day, {}, {}

    @property
    def day(self) -> int:
        """Days since 1970."""
        self._roll()
        return self._day

    def own(self, name: str) -> int:
        """What was counted here today."""
        self._roll()
        return self._used.get(name, 0) - self._elsewhere.get(name, 0)

    def learn(self, day: int, name: str, tokens: int) -> None:
        """Count what was used elsewhere, in all, on this day."""
        if day == self.day:
            self._used[name] = self.own(name) + tokens
            self._elsewhere[name] = tokens

    def charge(self, name: str, amount: int) -> None:
        """Count what was used; a negative amount gives back."""
        self._roll()
        self._used[name] = max(self._used.get(name, 0) + amount, self._elsewhere.get(name, 0))
        self.on_charged(name)

    def standing(self, name: str) -> Standing:
        """What is left of the day's budget."""
        self._roll()
        left = self.budget - self._used.get(name, 0)
        return Standing(self.budget, max(left, 0), DAY - self._wall() % DAY)
