"""One lane for what brings the models no work: who waits, and for how long."""

import asyncio
from dataclasses import dataclass, field

import pytest

from server.limits.pace import OWN_FIRST, OWN_RATE, QUANTUM, SAVED_SECONDS, UNIT_SECONDS, Lane, Pace


@dataclass
class Time:
    """A clock that only sleeping moves, and replies that may be in progress."""

    now: float = 100.0
    replying: bool = True
    slept: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


def lane(time: Time, share: float = 0.5) -> Lane:
    return Lane(share, lambda: time.replying, clock=time, sleep=time.sleep)


def test_the_lane_gives_its_share_in_the_order_in_which_it_was_asked() -> None:
    shared = lane(Time())
    shared.take(SAVED_SECONDS * 0.5 / UNIT_SECONDS)
    waits = [shared.take(10) for _ in range(3)]
    assert waits == pytest.approx([0.0, 10 * UNIT_SECONDS / 0.5, 20 * UNIT_SECONDS / 0.5])


def test_while_no_reply_is_in_progress_nothing_waits_and_nothing_is_remembered() -> None:
    time = Time(replying=False)
    shared = lane(time)
    assert [shared.take(1000) for _ in range(3)] == [0.0, 0.0, 0.0]
    time.replying = True
    assert shared.take(1) == 0.0


def test_what_the_lane_has_not_used_may_be_used_at_once() -> None:
    shared = lane(Time())
    all_of_it = SAVED_SECONDS * 0.5 / UNIT_SECONDS
    assert [shared.take(all_of_it / 4) for _ in range(5)] == pytest.approx([0.0] * 5)
    assert shared.take(1) > 0


def test_what_a_connection_may_use_at_any_time_never_joins_the_lane() -> None:
    time = Time()
    shared = lane(time)
    own = Pace(shared)
    shared.take(1_000_000)  # others flood
    for _ in range(10_000):
        time.now += 1 / OWN_RATE
        assert not own.charge(1.0)


def test_a_connection_that_uses_more_waits_for_its_turn() -> None:
    shared = lane(Time())
    shared.take(SAVED_SECONDS * 0.5 / UNIT_SECONDS)  # others have used what was saved
    own = Pace(shared)
    waits = [own.charge(1.0) for _ in range(200)]
    own_turns = int(OWN_FIRST // QUANTUM)
    asked = [wait for wait in waits if wait is not None]
    assert asked[: own_turns + 1] == [0.0] * (own_turns + 1), "its own, and the first turn of the lane"
    assert asked[own_turns + 1 :] == sorted(asked[own_turns + 1 :])
    assert all(wait > 0 for wait in asked[own_turns + 1 :])


def test_every_so_many_units_others_go_first() -> None:
    own = Pace(lane(Time(replying=False)))
    asked = [own.charge(1.0) for _ in range(int(10 * QUANTUM))]
    assert asked.count(0.0) == 10
    assert asked.count(None) == 10 * QUANTUM - 10


async def test_a_wait_ends_with_the_last_reply() -> None:
    time = Time()
    shared = lane(time)
    waiting = asyncio.create_task(shared.wait(1e9))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not waiting.done()
    time.replying = False
    await waiting
    assert max(time.slept) < 1
