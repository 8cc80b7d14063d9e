"""Fair capacity: a bounded number of permits, of which one site among several may hold only a part.

A tenant is a site's key, or ``SITE/SECRET`` for a visitor of it: all of them share as one site.
"""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.events import StageError

SHARE = 0.75  # of all permits, that one site among several may hold


def site_of(tenant: str) -> str:
    """The site that a tenant belongs to; "" is that of a server with one key or none, who may hold all permits."""
    return tenant.partition("/")[0]


class Capacity:
    """Permits for ``what``; acquired and released from any thread. A permit that can't be had is refused at once."""

    def __init__(self, permits: int, what: str) -> None:
        self.permits = permits
        self._what = what
        self._share = max(int(permits * SHARE), 1)
        self._lock = threading.Lock()
        self._held: Counter[str] = Counter()  # by site; no entry is 0, so there are at most ``permits``

    @property
    def held(self) -> int:
        """Permits in use."""
        return self._held.total()

    def acquire(self, tenant: str = "", permits: int = 1) -> None:
        """Take permits.

        Raises: StageError ``server_overloaded`` when there are not so many, ``too_many_requests`` when the site
        would hold more than a share.
        """
        site = site_of(tenant)
        with self._lock:
            if self._held.total() + permits > self.permits:
                raise StageError(
                    "overloaded",
                    "server_overloaded",
                    f"The capacity for {self.permits} {self._what} is in use; try again in a moment.",
                )
            mine = self._held[site]
            if site and mine and mine + permits > self._share:
                raise StageError(
                    "overloaded",
                    "too_many_requests",
                    f"This key holds {mine} of {self.permits} {self._what}, and one key may hold no more than "
                    f"{self._share}; try again in a moment.",
                )
            self._held[site] += permits

    def release(self, tenant: str = "", permits: int = 1) -> None:
        """Give permits back."""
        site = site_of(tenant)
        with self._lock:
            self._held[site] -= permits
            if not self._held[site]:
                del self._held[site]

    @contextmanager
    def permit(self, tenant: str = "", permits: int = 1) -> Iterator[None]:
        """Hold permits while the block runs. Raises: as ``acquire``."""
        self.acquire(tenant, permits)
        try:
            yield
        finally:
            self.release(tenant, permits)
