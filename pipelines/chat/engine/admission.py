"""Admission: bounds on requests and on the prompts they bring, checked before any work is done for them."""

import threading
from dataclasses import dataclass

from pipelines.capacity import Capacity
from pipelines.events import StageError


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What an engine takes: ``streams`` run, ``waiting`` more wait, with ``waiting_tokens`` of prompts at the most."""

    streams: int
    waiting: int
    waiting_tokens: int = 1 << 30


class Admission:
    """Counts requests and the tokens of prompts that wait; called from any thread."""

    def __init__(self, limits: EngineLimits) -> None:
        self._limits = limits
        self._requests = Capacity(
            limits.streams + limits.waiting, f"requests ({limits.streams} running, {limits.waiting} waiting)"
        )
        self._lock = threading.Lock()
        self._tokens = 0

    @property
    def held(self) -> int:
        """Requests that run or wait."""
        return self._requests.held

    @property
    def ahead(self) -> int:
        """Requests that must end before another one could run."""
        return max(self._requests.held - self._limits.streams + 1, 0)

    def reserve(self, tenant: str) -> None:
        """Admit a request. Raises: StageError when there is no capacity, or the tenant has its share of it."""
        self._requests.acquire(tenant)

    def release(self, tenant: str) -> None:
        """A request has ended."""
        self._requests.release(tenant)

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
