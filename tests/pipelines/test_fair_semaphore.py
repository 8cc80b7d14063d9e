"""Permits that are waited for: none is lost, none is given twice, and no site or visitor holds up another."""

import asyncio
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.capacity import SHARE, site_of
from pipelines.events import StageError
from pipelines.fair_semaphore import FairSemaphore


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


class Users:
    """Those who hold a permit until they are let go, in the order in which they got it."""

    def __init__(self, semaphore: FairSemaphore) -> None:
        self.semaphore = semaphore
        self.served: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self._let_go: dict[str, asyncio.Event] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        for task in self.tasks.values():
            task.cancel()
        await asyncio.gather(*self.tasks.values(), return_exceptions=True)
        assert (self.semaphore.held, self.semaphore.waiting) == (0, 0)

    async def come(self, name: str, tenant: str) -> None:
        self._let_go[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._hold(name, tenant))
        await settle()

    async def go(self, name: str) -> None:
        self._let_go[name].set()
        await settle()

    async def _hold(self, name: str, tenant: str) -> None:
        async with self.semaphore.permit(tenant):
            self.served.append(name)
            await self._let_go[name].wait()


async def test_who_comes_first_is_served_first() -> None:
    async with Users(FairSemaphore(1, 8, "things")) as users:
        for name in ("one", "two", "three"):
            await users.come(name, "")
        assert (users.semaphore.held, users.semaphore.waiting, users.semaphore.ahead) == (1, 2, 3)
        for name in ("one", "two", "three"):
            await users.go(name)
        assert users.served == ["one", "two", "three"]
        assert (users.semaphore.held, users.semaphore.waiting, users.semaphore.ahead) == (0, 0, 0)


async def test_the_visitors_of_a_site_share_as_one() -> None:
    async with Users(FairSemaphore(2, 8, "things")) as users:
        for name in ("a/1", "a/2", "a/3", "b/1"):
            await users.come(name, name)
        assert users.served == ["a/1", "b/1"], "of two permits one site has no more than one while it is not alone"
        await users.go("b/1")
        assert users.served == ["a/1", "b/1"]
        await users.go("a/1")
        assert users.served == ["a/1", "b/1", "a/2"]


async def test_within_a_site_each_visitor_comes_in_turn() -> None:
    async with Users(FairSemaphore(4, 8, "things")) as users:
        for name, tenant in (("1", "a/x"), ("2", "a/x"), ("3", "a/x"), ("4", "a/x"), ("5", "a/y")):
            await users.come(name, tenant)
        assert users.served == ["1", "2", "3"]
        await users.go("1")
        assert users.served == ["1", "2", "3", "5"]


async def test_who_leaves_while_waiting_leaves_nothing_and_who_leaves_when_served_passes_it_on() -> None:
    async with Users(FairSemaphore(1, 8, "things")) as users:
        for name in ("one", "two", "three"):
            await users.come(name, "")
        users.tasks["two"].cancel()
        await settle()
        assert users.semaphore.waiting == 1
        users._let_go["one"].set()
        while users.semaphore.waiting:  # "three" has been given it, and has not run
            await asyncio.sleep(0)
        users.tasks["three"].cancel()
        await settle()
        assert (users.semaphore.held, users.semaphore.waiting) == (0, 0)


async def test_too_many_who_wait_are_refused_and_one_site_before_others() -> None:
    async with Users(FairSemaphore(1, 4, "things")) as users:
        for number in range(4):
            await users.come(f"a{number}", "a")
        with pytest.raises(StageError) as refused:
            async with users.semaphore.permit("a"):
                pass
        assert refused.value.code == "too_many_requests"
        await users.come("b", "b")
        with pytest.raises(StageError) as refused:
            async with users.semaphore.permit("c"):
                pass
        assert (refused.value.kind, refused.value.code) == ("overloaded", "server_overloaded")


@given(
    permits=st.integers(1, 5),
    steps=st.lists(
        st.tuples(st.sampled_from(("come", "go", "cancel")), st.sampled_from(("", "a", "a/1", "a/2", "b/1", "c")))
    ),
)
def test_no_permit_is_lost_or_given_twice(permits: int, steps: list[tuple[str, str]]) -> None:
    async def run() -> None:
        semaphore = FairSemaphore(permits, 1000, "things")
        users = Users(semaphore)
        share = max(int(permits * SHARE), 1)
        tenants: dict[str, str] = {}
        for number, (does, tenant) in enumerate(steps):
            alive = [name for name, task in users.tasks.items() if not task.done() and tenants[name] == tenant]
            if does == "come":
                tenants[str(number)] = tenant
                await users.come(str(number), tenant)
            elif alive and does == "go":
                await users.go(alive[0])
            elif alive:
                users.tasks[alive[-1]].cancel()
                await settle()
            assert semaphore.held <= permits
            alive = [name for name, task in users.tasks.items() if not task.done()]
            holding = [tenants[name] for name in users.served if name in alive and not users._let_go[name].is_set()]
            assert semaphore.held == len(holding)
            waits = [tenants[name] for name in alive if name not in users.served]
            assert semaphore.waiting == len(waits)
            for tenant in waits:  # who waits could not be served
                site = site_of(tenant)
                of_site = sum(site_of(each) == site for each in holding)
                assert semaphore.held == permits or (site and of_site >= share)
        for name in list(users.tasks):
            await users.go(name)
        async with users:
            pass

    asyncio.run(run())
