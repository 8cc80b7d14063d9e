"""Replies that are read together."""

import asyncio
from collections.abc import Iterator

import pytest

from pipelines.chat.pace import STEP, Pace, Paced, joined
from pipelines.events import Event, Started, TextDelta, TextDone, TokenLogprob


def test_texts_that_follow_one_another_are_one() -> None:
    probable = TokenLogprob("b", -0.5, ())
    came: list[Event] = [Started(3), TextDelta("a"), TextDelta("b", 2, (probable,)), TextDone(), TextDelta("c")]
    assert list(joined(iter(came))) == [Started(3), TextDelta("ab", 3, (probable,)), TextDone(), TextDelta("c")]
    assert list(joined(iter(()))) == []


def test_what_came_before_a_failure_is_passed_on() -> None:
    def failing() -> Iterator[Event]:
        yield TextDelta("a")
        yield TextDelta("b")
        raise LookupError("broken")

    events = joined(failing())
    assert next(events) == TextDelta("ab", 2)
    with pytest.raises(LookupError, match="broken"):
        next(events)


async def test_a_short_wait_is_none() -> None:
    pace = Pace()
    await Paced(pace).wait(0.0)
    await Paced(pace).wait(STEP / 3)
    assert not pace._waiting


async def test_those_who_wait_as_long_wait_together_and_one_that_has_ended_no_more() -> None:
    pace = Pace()
    first, second, third, other = (Paced(pace) for _ in range(4))
    waiting = [asyncio.ensure_future(each.wait(60.0)) for each in (first, second, third)]
    waiting.append(asyncio.ensure_future(other.wait(30.0)))
    await asyncio.sleep(0.01)
    assert not any(each.done() for each in waiting)
    first.end()
    await waiting[0]
    await first.wait(60.0)
    waiting[1].cancel()
    pace._read(round(60.0 / STEP))
    await waiting[2]
    assert waiting[1].cancelled()
    assert not waiting[3].done()
    pace._read(round(30.0 / STEP))
    await waiting[3]
    assert not pace._waiting
