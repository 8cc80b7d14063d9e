"""Replies that are read together, and less often the more of them there are."""

import asyncio
from collections.abc import Iterator

import pytest
from aiohttp import web

from pipelines.chat.upstream.pace import PIECES, Pace, joined
from pipelines.events import Event, Started, TextDelta, TextDone, TokenLogprob
from tests.pipelines.chat.upstream.scripted import DONE, ROLE, ScriptedUpstream, begin, chunk
from tests.pipelines.chat.upstream.support import stage_over, text_of
from tests.support import eventually


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


async def test_few_replies_wait_for_nothing() -> None:
    pace = Pace(1.0)
    with pace.reply() as reply:
        reading = asyncio.ensure_future(reply.wait())
        await asyncio.sleep(0)
        assert reading.done()


async def test_many_wait_together_and_one_that_has_ended_no_more() -> None:
    pace = Pace(60.0)
    pace._replies = 60 * PIECES
    with pace.reply() as first, pace.reply() as second, pace.reply() as third:
        waiting = [asyncio.ensure_future(each.wait()) for each in (first, second, third)]
        await asyncio.sleep(0.01)
        assert not any(each.done() for each in waiting)
        first.end()
        await waiting[0]
        await first.wait()
        waiting[1].cancel()
        assert pace._timer is not None
        pace._timer.cancel()
        pace._read()
        await waiting[2]
        assert waiting[1].cancelled()
        assert not pace._waiting
    assert pace._replies == 60 * PIECES


async def test_texts_gather_while_many_stream_and_the_first_and_the_last_come_at_once() -> None:
    """With a wait of a minute, of each reply there comes what is there at first, and the rest when it has ended."""
    steps = [asyncio.Event(), asyncio.Event()]

    async def in_steps(upstream: ScriptedUpstream, request: web.Request) -> web.StreamResponse:
        response = await begin(request)
        await response.write((ROLE + chunk({"content": "One"})).encode())
        await steps[0].wait()
        for text in (" two", " three", " four"):
            await response.write(chunk({"content": text}).encode())
        await steps[1].wait()
        await response.write((chunk({"content": "."}) + chunk(finish="stop") + DONE).encode())
        return response

    limits = {"token_timeout": 20.0, "first_token_timeout": 20.0, "gather": 1.0}
    async with stage_over(ScriptedUpstream(in_steps), upstream=limits) as given:
        given.stage._client._pace._replies = 60 * PIECES
        given.stage._client._pace._longest = 60.0
        came: list[list[Event]] = [[] for _ in range(4)]

        async def ask(events: list[Event]) -> None:
            events.extend(await given.ask())

        heard: list[Event] = []
        asking = [asyncio.create_task(ask(events)) for events in came]
        failing = asyncio.create_task(given.failure(heard))
        await eventually(lambda: text_of(heard) == "One", "the first text has come")
        steps[0].set()
        await asyncio.sleep(0.05)
        assert text_of(heard) == "One", "the others gather"
        steps[1].set()
        await asyncio.gather(*asking)
        for events in came:
            assert [event for event in events if isinstance(event, TextDelta)] == [
                TextDelta("One"),
                TextDelta(" two three four.", 4),
            ]
        with pytest.raises(AssertionError, match="it did not fail"):
            await failing
