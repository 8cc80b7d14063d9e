"""Daily budgets that outlive the process."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from server.config import LimitSettings
from server.history.settings import HistorySettings
from server.limits.buckets import DAY, Daily
from server.limits.stored import StoredBudgets
from tests.server.access.support import guarded, new_key
from tests.server.history.databases import history
from tests.server.limits.test_http import ask
from tests.support import ScriptedModel


class Clock:
    def __init__(self) -> None:
        self.now = 100.0 * DAY

    def __call__(self) -> float:
        return self.now


async def test_a_restart_gives_no_new_budget(store: str, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key = new_key(file)
    sections: dict[str, Any] = {"limits": LimitSettings(key_daily_tokens=10), "history": HistorySettings(store=store)}
    async with guarded(file, ScriptedModel("word " * 8), **sections) as given:
        assert (await ask(given, key))[0] == 200
        assert (await ask(given, key))[0] == 429
    async with guarded(file, **sections) as given:
        status, body, headers = await ask(given, key)
        assert (status, body["error"]["code"]) == (429, "rate_limit_exceeded")
        assert headers["x-ratelimit-remaining-tokens"] == "0"


async def test_servers_share_a_budget_as_they_write(store: str) -> None:
    clock = Clock()
    one, two, three = (Daily(100, wall=clock) for _ in range(3))
    async with history(store) as database:
        first, second = (StoredBudgets(database, daily, delay=0) for daily in (one, two))
        await first.start()
        await second.start()
        one.charge("a/é\0", 30)
        await first.close()
        two.charge("a/é\0", 50)
        two.charge("b", 1)
        await second.close()
        assert two.standing("a/é\0").remaining == 20
        one.charge("a/é\0", -10)
        await first.close()
        assert one.standing("a/é\0").remaining == 30
        await StoredBudgets(database, three).start()
        assert [three.standing(site).remaining for site in ("a/é\0", "b", "c")] == [30, 99, 100]
        three.charge("a/é\0", -1000)
        assert three.standing("a/é\0").remaining == 30, "what others have used is not given back"


async def test_a_new_day_begins_anew_and_forgets_the_old_one(store: str) -> None:
    clock = Clock()
    daily = Daily(100, wall=clock)
    async with history(store) as database:
        budgets = StoredBudgets(database, daily, delay=0)
        await budgets.start()
        daily.charge("a", 30)
        await budgets.close()
        clock.now += DAY
        daily.charge("a", 5)
        await budgets.close()
        again = Daily(100, wall=clock)
        await StoredBudgets(database, again).start()
        assert again.standing("a").remaining == 95
        rows = await database.read(lambda transaction: transaction.fetch("SELECT day, tokens FROM loquent_budgets"))
        assert [tuple(row) for row in rows] == [(101, 5)]


@pytest.mark.parametrize("delay", [0.05, 60.0])
async def test_many_charges_are_one_commit_and_the_end_waits_for_none(tmp_path: Path, delay: float) -> None:
    daily = Daily(10_000, wall=Clock())
    async with history(f"sqlite:///{tmp_path / 'history.db'}") as database:
        budgets = StoredBudgets(database, daily, delay=delay)
        await budgets.start()
        await asyncio.sleep(0.1)
        before = database.metrics.commits._value.get()
        for _ in range(100):
            daily.charge("a", 1)
        await budgets.close()
        assert database.metrics.commits._value.get() == before + 1
        rows = await database.read(lambda transaction: transaction.fetch("SELECT tokens FROM loquent_budgets"))
        assert [tuple(row) for row in rows] == [(100,)]
