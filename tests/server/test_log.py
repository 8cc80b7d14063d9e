"""The log of a session's events."""

import asyncio

import pytest

from server.realtime.log import OVERHEAD, EventLog

SIZE = 100 + OVERHEAD


def filled(count: int, *, sent: int, waiting: int = 100 * SIZE, replay: int = 100 * SIZE) -> EventLog:
    log = EventLog(waiting, replay)
    for _ in range(count):
        log.append("x" * 100)
    for _ in range(sent):
        log.sent()
    return log


def waiting(log: EventLog) -> list[int]:
    """The serials of what is sent from now on."""
    serials = []
    while (entry := log.next()) is not None:
        serials.append(entry.serial)
        log.sent()
    return serials


def test_events_are_sent_once_and_in_their_order() -> None:
    assert waiting(filled(5, sent=2)) == [3, 4, 5]


@pytest.mark.parametrize(("after", "again"), [(1, [2, 3, 4]), (2, [3, 4]), (3, [4]), (4, [])])
def test_a_client_that_comes_back_gets_what_is_behind_its_last_event(after: int, again: list[int]) -> None:
    log = filled(4, sent=3)
    assert log.rewind(after) == after
    assert waiting(log) == again


def test_an_event_that_is_not_there_yet_is_the_end() -> None:
    log = filled(4, sent=3)
    assert log.rewind(9) == 4
    assert waiting(log) == []


def test_of_what_was_sent_no_more_is_held_than_may_be() -> None:
    log = filled(50, sent=40, replay=5 * SIZE)
    gone = log.rewind(1)
    assert 35 <= gone <= 37, "so many, and at most a quarter more"
    assert waiting(log) == list(range(gone + 1, 51))
    assert log.rewind(47) == 47


async def test_a_full_log_holds_back_who_fills_it() -> None:
    log = filled(3, sent=0, waiting=2 * SIZE)
    tasks = [asyncio.create_task(log.room()) for _ in range(3)]
    await asyncio.sleep(0)
    tasks.pop().cancel()
    await asyncio.sleep(0)
    assert log.full
    log.sent()
    assert not log.full
    async with asyncio.timeout(1):
        await asyncio.gather(*tasks)


async def test_what_comes_back_to_be_sent_again_counts() -> None:
    log = filled(4, sent=4, waiting=2 * SIZE)
    assert not log.full
    log.rewind(1)
    assert log.full


def test_the_greeting_is_not_held_since_who_comes_back_has_it() -> None:
    log = filled(2, sent=2)
    assert log.rewind(0) == 1
    assert waiting(log) == [2]
