"""Permits that are waited for, fairly: first by site, then by visitor, then by arrival."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pipelines.capacity import SHARE, site_of
from pipelines.events import StageError


class FairSemaphore:
    """At most ``permits`` for ``what`` are held, and at most ``waiting`` are waited for. For one event loop.

    One site among several holds no more than a share of the permits, so that another one's first need not wait for it,
    and waits for no more than a share of what may be waited for.
    """

    def __init__(self, permits: int, waiting: int, what: str) -> None:
        self.permits = permits
        self._most = waiting
        self._what = what
        self._share = max(int(permits * SHARE), 1)
        self._held: Counter[str] = Counter()  # by tenant; no entry is 0
        self._sites: Counter[str] = Counter()  # the same by site
        self._waiting: dict[asyncio.Future[None], str] = {}  # the tenant of each; in the order of their arrival

    @property
    def held(self) -> int:
        """Permits in use."""
        return self._held.total()

    @property
    def waiting(self) -> int:
        """How many are waited for."""
        return len(self._waiting)

    @property
    def ahead(self) -> int:
        """Permits that must be given back before another one could be had."""
        return max(self.held + self.waiting - self.permits + 1, 0)

    def resize(self, permits: int) -> None:
        """Have so many permits from now on; those that are held beyond them are not taken away."""
        self.permits = permits
        self._share = max(int(permits * SHARE), 1)
        self._share_out()

    @asynccontextmanager
    async def permit(self, tenant: str = "") -> AsyncIterator[None]:
        """Hold a permit while the block runs, once it can be had.

        Raises: StageError ``server_overloaded`` when too many are waited for, ``too_many_requests`` when by this site.
        """
        if self._waiting or not self._may_have(tenant):
            await self._wait(tenant)
        else:
            self._give(tenant)
        try:
            yield
        finally:
            self._take_back(tenant)

    async def _wait(self, tenant: str) -> None:
        self._check_room(tenant)
        given = asyncio.get_running_loop().create_future()
        self._waiting[given] = tenant
        self._share_out()  # a site whose share is used up holds up no other
        try:
            await given
        except asyncio.CancelledError:
            if self._waiting.pop(given, None) is None:  # it had been given already
                self._take_back(tenant)
            raise

    def _check_room(self, tenant: str) -> None:
        site = site_of(tenant)
        if len(self._waiting) >= self._most:
            text = f"{self.permits} {self._what} are in progress and {self._most} wait; try again in a moment."
            raise StageError("overloaded", "server_overloaded", text)
        mine = sum(site_of(each) == site for each in self._waiting.values()) if site else 0
        if mine and mine >= int(self._most * SHARE):
            text = f"{mine} {self._what} of this key wait, and one key may wait for no more; try again in a moment."
            raise StageError("overloaded", "too_many_requests", text)

    def _may_have(self, tenant: str) -> bool:
        site = site_of(tenant)
        return self.held < self.permits and (not site or self._sites[site] < self._share)

    def _give(self, tenant: str) -> None:
        self._held[tenant] += 1
        self._sites[site_of(tenant)] += 1

    def _take_back(self, tenant: str) -> None:
        for counter, name in ((self._held, tenant), (self._sites, site_of(tenant))):
            counter[name] -= 1
            if not counter[name]:
                del counter[name]
        self._share_out()

    def _share_out(self) -> None:
        """Give what is free to those who wait."""
        while ready := [given for given, tenant in self._waiting.items() if self._may_have(tenant)]:
            given = min(ready, key=self._holds)
            self._give(self._waiting.pop(given))
            if not given.done():
                given.set_result(None)

    def _holds(self, given: "asyncio.Future[None]") -> tuple[int, int]:
        tenant = self._waiting[given]
        return self._sites[site_of(tenant)], self._held[tenant]
