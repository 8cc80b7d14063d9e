"""Who gets in: bounds on requests and on what they bring, decided before any work is done for them."""

import threading
from collections import Counter
from dataclasses import dataclass

from pipelines.events import StageError

SHARE = 0.75  # of all places, that one tenant among several may hold


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine takes: ``streams`` run, ``waiting`` more wait, with ``waiting_tokens`` of prompts at the most."""

    streams: int
    waiting: int
    waiting_tokens: int = 1 << 30

    @property
    def places(self) -> int:
        """For requests, running and waiting."""
        return self.streams + self.waiting


class Admission:
    """Counts places and the tokens of prompts that wait; called from any thread."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()  # places, by tenant; no entry is 0, so it has as many as places
        self._tokens = 0

    @property
    def held(self) -> int:
        """Places that are taken."""
        return self._held.total()

    def reserve(self, tenant: str) -> None:
        """Take a place. Raises: StageError when there is none, or when the tenant has its share of them."""
        places = self._limits.places
        with self._lock:
            if self._held.total() >= places:
                raise StageError(
                    "overloaded",
                    "server_overloaded",
                    f"All {places} places for requests are taken ({self._limits.streams} running, "
                    f"{self._limits.waiting} waiting); try again in a moment.",
                )
            share = max(int(places * SHARE), 1)
            if tenant and self._held[tenant] >= share:
                raise StageError(
                    "overloaded",
                    "too_many_requests",
                    f"This key has {share} requests in progress, and one key may hold no more of the {places} places; "
                    "try again in a moment.",
                )
            self._held[tenant] += 1

    def release(self, tenant: str) -> None:
        """Give a place back."""
        with self._lock:
            self._held[tenant] -= 1
            if not self._held[tenant]:
                del self._held[tenant]

    def wait(self, tokens: int) -> None:
        """A prompt joins those that wait. Raises: StageError when they would be too long together."""
        with self._lock:
            if self._tokens and self._tokens + tokens > self._limits.waiting_tokens:
                raise StageError(
                    "overloaded",
                    "server_overloaded",
                    f"Prompts of {self._tokens} tokens wait already, this one has {tokens}, and "
                    f"{self._limits.waiting_tokens} may wait; try again in a moment.",
                )
            self._tokens += tokens

    def go(self, tokens: int) -> None:
        """A prompt waits no longer."""
        with self._lock:
            self._tokens -= tokens
