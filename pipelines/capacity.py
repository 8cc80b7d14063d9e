"""Fair capacity: a bounded number of permits, of which one tenant among several may hold only a part."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.events import StageError

SHARE = 0.75  # of all permits, that one tenant among several may hold


class Capacity:
    """Permits for ``what``; acquired and released from any thread. A permit that can't be had is refused at once."""

    def __init__(self, permits: int, what: str) -> None:
        self.permits = permits
        self._what = what
        self._share = max(int(permits * SHARE), 1)
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()  # by tenant; no entry is 0, so there are at most ``permits``

    @property
    def held(self) -> int:
        """Permits in use."""
        return self._held.total()

    def acquire(self, tenant: str = "", permits: int = 1) -> None:
        """Take permits; "" is the tenant of a server without keys, who may hold all of them.

        Raises: StageError ``server_overloaded`` when there are not so many, ``too_many_requests`` when the tenant would
        hold more than a share.
        """
        with self._lock:
            if self._held.total() + permits > self.permits:
                raise StageError(
                    "overloaded",
                    "server_overloaded",
                    f"The capacity for {self.permits} {self._what} is in use; try again in a moment.",
                )
            mine = self._held[tenant]
            if tenant and mine and mine + permits > self._share:
                raise StageError(
                    "overloaded",
                    "too_many_requests",
                    f"This key holds {mine} of {self.permits} {self._what}, and one key may hold no more than "
                    f"{self._share}; try again in a moment.",
                )
            self._held[tenant] += permits

    def release(self, tenant: str = "", permits: int = 1) -> None:
        """Give permits back."""
        with self._lock:
            self._held[tenant] -= permits
            if not self._held[tenant]:
                del self._held[tenant]

    @contextmanager
    def permit(self, tenant: str = "", permits: int = 1) -> Iterator[None]:
        """Hold permits while the block runs. Raises: as ``acquire``."""
        self.acquire(tenant, permits)
        try:
            yield
        finally:
            self.release(tenant, permits)
