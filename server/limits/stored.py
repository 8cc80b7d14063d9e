"""Daily budgets that outlive the process: in memory as before, and behind that in the history's database."""

import secrets
from collections.abc import Iterable
from functools import partial

from server.history import budgets as table
from server.history.behind import Behind
from server.history.database import Transaction
from server.history.store import DatabaseHistory
from server.limits.buckets import Daily

DELAY = 3.0  # seconds between two commits of one budget


class StoredBudgets:
    """Writes what a day's budgets have used. A kill loses ``DELAY`` of it, and counts what turns had reserved.

    Servers of one database share the budgets, and each learns of the others' tokens when it writes its own.
    """

    def __init__(self, history: DatabaseHistory, daily: Daily, *, delay: float = DELAY) -> None:
        self._history = history
        self._daily = daily
        self._server = secrets.token_hex(8)
        self._behind = Behind(history.writer, self._write, delay=delay)
        self._forgotten = 0  # the day before which nothing is stored

    async def start(self) -> None:
        """Load the day's budgets. Raises: HistoryError."""
        day = self._daily.day
        for site, tokens in (await self._history.read(partial(table.of_day, day=day))).items():
            self._daily.learn(day, site, tokens)
        self._daily.on_charged = self._behind.changed

    async def close(self) -> None:
        """Write what is not written yet."""
        await self._behind.close()

    async def _write(self, transaction: Transaction, sites: Iterable[str]) -> None:
        day = self._daily.day
        if self._forgotten != day:
            await table.forget(transaction, day)
            self._forgotten = day
        for site in sites:
            own = self._daily.own(site)
            self._daily.learn(day, site, await table.count(transaction, day, site, self._server, own))
