"""Replies that are gathered for longer the more of them there are, by upstreams that can, and here."""

import asyncio
from typing import Any

import pytest
from aiohttp import web

from pipelines.chat.upstream.gathering import MANY, Gathering
from pipelines.events import Event, Speech, TextDelta, Turn
from tests.pipelines.chat.upstream.scripted import DONE, ROLE, ScriptedUpstream, begin, chunk, says
from tests.pipelines.chat.upstream.support import HI, stage_over, text_of
from tests.support import eventually

LOQUENT = {"loquent": {"gather": True}}


def test_the_more_replies_the_longer_and_no_longer_than_may_be() -> None:
    gathering = Gathering(0.08)
    with gathering.reply(Turn("a", HI)) as reply:
        assert reply.seconds == pytest.approx(0.08 / MANY)
        assert reply.asked == {}, "it is not worth a wait"
        gathering.replies = MANY // 2
        assert reply.asked == {"loquent": {"gather": 0.04}}
        gathering.replies = 5 * MANY
        assert reply.seconds == 0.08
    assert gathering.replies == 5 * MANY - 1


def test_what_is_spoken_is_not_gathered_and_what_a_client_wants_is() -> None:
    gathering = Gathering(0.08)
    gathering.replies = MANY
    with (
        gathering.reply(Turn("a", HI, speech=Speech())) as spoken,
        gathering.reply(Turn("b", HI, gather=0.5)) as wanted,
    ):
        assert (spoken.seconds, spoken.asked) == (0.0, {})
        assert (wanted.seconds, wanted.asked) == (0.5, {"loquent": {"gather": 0.5}})


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
        given.stage._gathering.replies = MANY
        given.stage._gathering.longest = 60.0
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


@pytest.mark.parametrize(
    ("own", "asked"), [(LOQUENT, {"gather": 0.05}), ({}, None), ({"loquent": None}, None), ({"loquent": {}}, None)]
)
async def test_upstreams_that_can_are_asked_to_gather(own: dict[str, Any], asked: dict[str, Any] | None) -> None:
    scripted = ScriptedUpstream(own=own)
    async with stage_over(scripted, upstream={"gather": 0.05}) as given:
        await given.said()
        assert "loquent" not in scripted.bodies[0], "one reply is not gathered"
        given.stage._gathering.replies = MANY
        await given.said()
        await given.said(speech=Speech())
    assert [body.get("loquent") for body in scripted.bodies] == [None, asked, None]


async def test_one_that_knows_it_no_more_is_asked_again_without() -> None:
    """An older server behind the same address."""

    async def older(upstream: ScriptedUpstream, request: web.Request) -> web.StreamResponse:
        if "loquent" not in upstream.bodies[-1]:
            return await says("Hi.")(upstream, request)
        error = {"message": "loquent.gather: there is no such parameter", "param": "loquent.gather"}
        return web.json_response({"error": error}, status=400)

    scripted = ScriptedUpstream(older, own=LOQUENT)
    async with stage_over(scripted, upstream={"gather": 0.05}) as given:
        given.stage._gathering.replies = MANY
        assert [await given.said() for _ in range(2)] == ["Hi."] * 2
    assert ["loquent" in body for body in scripted.bodies] == [True, False, False]
