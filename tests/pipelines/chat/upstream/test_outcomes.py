"""Each outcome of docs/upstream.md's table, on a real socket."""

import asyncio
import json
from contextlib import aclosing
from typing import Any

import pytest
from aiohttp import web

from pipelines.chat.pace import joined
from pipelines.events import Finished, Message, StageError, Started, TextDelta, TextDone, Turn, Usage
from tests.pipelines.chat.upstream.scripted import (
    DONE,
    ROLE,
    Answer,
    ScriptedUpstream,
    begin,
    chunk,
    fails,
    says,
    silent,
    streams,
)
from tests.pipelines.chat.upstream.support import stage_over, text_of
from tests.support import eventually

HALF = chunk({"content": "lost"})[:-30]
SAID = [ROLE, chunk({"content": "Hel"}), chunk({"content": "lo"})]


async def html(upstream: ScriptedUpstream, request: web.Request) -> web.StreamResponse:
    return web.Response(text="<html>It works!</html>", content_type="text/html")


async def elsewhere(upstream: ScriptedUpstream, request: web.Request) -> web.StreamResponse:
    raise web.HTTPFound("http://127.0.0.1:1/v1/chat/completions")


async def test_a_reply_streams_with_its_usage() -> None:
    async with stage_over(ScriptedUpstream()) as given:
        events = await given.ask()
        assert list(joined(iter(events))) == [
            Started(0),
            TextDelta("Hello there.", 3),
            TextDone(),
            Finished("stop", Usage(12, 5, 3)),
        ]
        assert given.counts.kinds == ["done"]
        assert (given.stage.running, given.stage.model_name) == (0, "big-model")


BEFORE_THE_FIRST_TOKEN: dict[str, tuple[Answer, str, str, str, int]] = {
    # what it does: the answer, the code, the kind, how it is counted, attempts
    "hangs": (silent, "unavailable", "upstream_timeout", "timeout", 1),
    "hangs behind its headers": (
        streams(ROLE, ": wait\n\n", hang=True),
        "unavailable",
        "upstream_timeout",
        "timeout",
        1,
    ),
    "answers in HTML": (html, "unavailable", "upstream_invalid", "invalid", 3),
    "leads elsewhere": (elsewhere, "unavailable", "upstream_invalid", "invalid", 3),
    "sends garbage": (streams("This is no event.\n\n"), "unavailable", "upstream_invalid", "invalid", 3),
    "sends JSON that is no chunk": (streams('data: {"a": 1}\n\n'), "unavailable", "upstream_invalid", "invalid", 3),
    "sends chunks that are wrong": (
        streams('data: {"choices": [{"delta": {"content": 7}}]}\n\n'),
        "unavailable",
        "upstream_invalid",
        "invalid",
        3,
    ),
    "sends bytes": (streams(b"\x00\xff" * 100), "unavailable", "upstream_failed", "failed", 3),
    "sends an event without end": (
        streams("data: " + "x" * 1_100_000),
        "unavailable",
        "upstream_invalid",
        "invalid",
        3,
    ),
    "sends half an event": (streams(HALF), "unavailable", "upstream_failed", "failed", 3),
    "closes at once": (streams(), "unavailable", "upstream_failed", "failed", 3),
    "cuts the connection": (streams(ROLE, cut=True), "unavailable", "upstream_failed", "failed", 3),
    "says that it is done at once": (streams(DONE), "unavailable", "upstream_failed", "failed", 3),
    "fails with 500": (fails(500, "CUDA error at 10.1.2.3"), "unavailable", "upstream_failed", "failed", 3),
    "fails in the stream": (
        streams(ROLE, 'data: {"error": {"message": "worker died", "code": 500}}\n\n', DONE),
        "unavailable",
        "upstream_failed",
        "failed",
        3,
    ),
    "aborts": (streams(ROLE, chunk(finish="abort")), "unavailable", "upstream_failed", "failed", 3),
    "has no capacity": (fails(429, "slow down"), "overloaded", "server_overloaded", "overloaded", 3),
    "is unavailable": (fails(503, "loading"), "overloaded", "server_overloaded", "overloaded", 3),
    "rejects the request": (fails(400, "bad"), "invalid_request", "upstream_rejected", "rejected", 1),
    "rejects what it can't process": (fails(422, "bad"), "invalid_request", "upstream_rejected", "rejected", 1),
    "refuses the key": (fails(401, "bad key sk-1"), "internal", "upstream_refused", "refused", 1),
    "forbids it": (fails(403, "no"), "internal", "upstream_refused", "refused", 1),
}


@pytest.mark.parametrize("what", BEFORE_THE_FIRST_TOKEN)
async def test_what_fails_before_the_first_token_is_tried_again_where_that_is_of_use(what: str) -> None:
    answer, kind, code, outcome, attempts = BEFORE_THE_FIRST_TOKEN[what]
    upstream = ScriptedUpstream(answer)
    async with stage_over(upstream) as given:
        came, error = await given.failure()
        assert (error.kind, error.code, came) == (kind, code, [])
        assert given.counts.kinds == [outcome] * attempts
        assert (len(upstream.bodies), given.counts.retries) == (attempts, attempts - 1)
        assert "10.1.2.3" not in error.message
        assert "sk-1" not in error.message
        assert given.stage.running == 0


BEHIND_THE_FIRST_TOKEN: dict[str, tuple[Answer, str, str]] = {
    "hangs": (streams(*SAID, hang=True), "upstream_timeout", "timeout"),
    "sends garbage": (streams(*SAID, "oops\n\n"), "upstream_invalid", "invalid"),
    "sends half an event": (streams(*SAID, HALF), "upstream_failed", "failed"),
    "closes early": (streams(*SAID), "upstream_failed", "failed"),
    "cuts the connection": (streams(*SAID, cut=True), "upstream_failed", "failed"),
    "says that it is done": (streams(*SAID, DONE), "upstream_failed", "failed"),
    "fails": (streams(*SAID, 'data: {"error": "out of memory"}\n\n'), "upstream_failed", "failed"),
    "aborts": (streams(*SAID, chunk(finish="abort"), DONE), "upstream_failed", "failed"),
}


@pytest.mark.parametrize("what", BEHIND_THE_FIRST_TOKEN)
async def test_what_fails_behind_the_first_token_fails_the_reply_and_repeats_nothing(what: str) -> None:
    answer, code, outcome = BEHIND_THE_FIRST_TOKEN[what]
    upstream = ScriptedUpstream(answer)
    async with stage_over(upstream) as given:
        came, error = await given.failure()
        assert (error.kind, error.code) == ("unavailable", code)
        assert list(joined(iter(came))) == [Started(0), TextDelta("Hello", 2)]
        assert given.counts.kinds == [outcome]
        upstream.answer = says("Again.")
        assert await given.said() == "Again."


async def test_an_upstream_that_is_not_there_is_unavailable_and_found_again() -> None:
    upstream = ScriptedUpstream()
    async with stage_over(upstream) as given:
        await upstream.kill()
        _, error = await given.failure()
        assert (error.kind, error.code) == ("unavailable", "upstream_unavailable")
        assert not given.stage.ready
        assert given.stage.balancer.why_not == "no upstream can be reached"
        await upstream.start()
        await eventually(lambda: given.stage.ready, "it is found again")
        assert await given.said() == "Hello there."


async def test_without_the_usage_tokens_are_counted() -> None:
    answer = streams(*SAID, chunk(finish="length"), DONE)
    async with stage_over(ScriptedUpstream(answer)) as given:
        events = await given.ask((Message("user", "x" * 40),))
        assert events[0] == Started(10)
        assert events[-1] == Finished("length", Usage(10, 0, 2))


async def test_a_complete_reply_ends_well_though_its_stream_does_not() -> None:
    for answer in (streams(*SAID, chunk(finish="stop"), hang=True), streams(*SAID, chunk(finish="stop"), cut=True)):
        async with stage_over(ScriptedUpstream(answer)) as given:
            assert isinstance((await given.ask())[-1], Finished)
            assert given.counts.kinds == ["done"]


async def test_thinking_is_no_text_and_no_silence() -> None:
    async def thinks(upstream: ScriptedUpstream, request: web.Request) -> web.StreamResponse:
        response = await begin(request)
        for _ in range(5):
            await response.write(chunk({"reasoning_content": "hm "}).encode())
            await asyncio.sleep(0.15)
        await response.write((chunk({"content": "42"}) + chunk(finish="stop") + DONE).encode())
        return response

    async with stage_over(ScriptedUpstream(thinks)) as given:
        assert await given.said() == "42"


async def test_a_retry_after_is_waited_for_and_then_repeated_to_the_client() -> None:
    upstream = ScriptedUpstream(fails(429, headers={"Retry-After": "3"}))
    async with stage_over(upstream) as given:
        _, error = await given.failure()
        assert (error.code, error.retry_after) == ("server_overloaded", 3)
        assert len(given.sleeps.asked) == 2
        assert all(3 <= seconds <= 8 for seconds in given.sleeps.asked)
        upstream.answer = fails(503, headers={"Retry-After": "120"})
        _, error = await given.failure()
        assert (error.retry_after, len(given.sleeps.asked)) == (120, 2), "that is too long to wait"


async def test_pauses_are_jittered_and_grow() -> None:
    async with stage_over(ScriptedUpstream(fails(500)), upstream={"retries": 2}) as given:
        await given.failure()
        first, second = given.sleeps.asked
        assert 0 <= first <= 0.5
        assert 0 <= second <= 1.0


@pytest.mark.parametrize(
    ("status", "error", "code", "param", "says"),
    [
        (
            400,
            {"message": "top_k: must be at least 0", "code": "invalid_value", "param": "top_k"},
            "invalid_value",
            "top_k",
            "top_k: must",
        ),
        (
            404,
            {"message": "The model `x` does not exist.", "code": "model_not_found"},
            "model_not_found",
            None,
            "does not exist",
        ),
        (400, {"message": "x" * 5000, "code": 400, "param": "a b"}, "upstream_rejected", None, "xxx…"),
        (
            400,
            {"message": "This model's maximum context length is 2048 tokens."},
            "context_length_exceeded",
            None,
            "2048",
        ),
    ],
)
async def test_what_the_upstream_rejects_is_said_in_its_own_words(
    status: int, error: dict[str, Any], code: str, param: str | None, says: str
) -> None:
    async with stage_over(ScriptedUpstream(fails(status, **error))) as given:
        _, failed = await given.failure()
        assert (failed.kind, failed.code, failed.param) == ("invalid_request", code, param)
        assert says in failed.message
        assert len(failed.message) < 400


@pytest.mark.parametrize(
    ("name", "instead", "message"),
    [
        ("stream_options", None, "Unknown field: stream_options"),
        (
            "max_tokens",
            "max_completion_tokens",
            "Unsupported parameter: 'max_tokens' is not supported here. Use 'max_completion_tokens' instead.",
        ),
    ],
)
async def test_a_parameter_that_a_server_does_not_take_is_left_out_from_then_on(
    name: str, instead: str | None, message: str
) -> None:
    async def picky(upstream: ScriptedUpstream, request: web.Request) -> web.StreamResponse:
        takes = name not in upstream.bodies[-1]
        return await (says("Fine.") if takes else fails(400, message))(upstream, request)

    upstream = ScriptedUpstream(picky)
    async with stage_over(upstream, upstream={"retries": 0}) as given:
        assert [await given.said() for _ in range(3)] == ["Fine."] * 3
        assert [name in body for body in upstream.bodies] == [True, False, False, False]
        assert instead is None or upstream.bodies[-1][instead] == 512


async def test_a_conversation_that_is_too_long_loses_its_older_half_where_that_is_wanted() -> None:
    async def small(upstream: ScriptedUpstream, request: web.Request) -> web.StreamResponse:
        length = len(upstream.bodies[-1]["messages"])
        too_long = fails(400, "too long", code="context_length_exceeded")
        return await (says("Fine.") if length <= 4 else too_long)(upstream, request)

    talk = (Message("system", "Be brief."), *(Message("user", f"number {number}") for number in range(12)))
    upstream = ScriptedUpstream(small)
    async with stage_over(upstream) as given:
        assert text_of(await given.ask(talk, overflow="trim")) == "Fine."
        left = [message["content"] for message in upstream.bodies[-1]["messages"]]
        assert left[0] == "Be brief."
        assert left[-1] == "number 11"
        with pytest.raises(StageError, match="too long"):
            await given.ask(talk, overflow="error")


@pytest.mark.parametrize("when", ["before the first token", "in mid-stream"])
async def test_a_cancel_closes_the_request_at_once(when: str) -> None:
    upstream = ScriptedUpstream(silent if when == "before the first token" else streams(*SAID, hang=True))
    async with stage_over(upstream, upstream={"first_token_timeout": 30.0, "token_timeout": 30.0}) as given:
        turn = Turn("cancelled", (Message("user", "Hi"),))
        async with aclosing(given.stage(turn, lambda turn: given.stage(turn, None))) as events:  # type: ignore[arg-type]
            if when == "in mid-stream":
                assert [type(await anext(events)) for _ in range(2)] == [Started, TextDelta]
            else:
                reading = asyncio.ensure_future(anext(events))
                await eventually(lambda: bool(upstream.bodies), "it is asked")
                reading.cancel()
                await asyncio.wait([reading])
        await eventually(lambda: upstream.cut == 1, "the upstream notices")
        assert given.counts.kinds == ["cancelled"]
        assert (given.stage.aborted, given.stage.running) == (1, 0)


async def test_a_stage_that_closes_ends_its_replies_as_the_built_in_engine_does() -> None:
    async with stage_over(ScriptedUpstream(streams(*SAID, hang=True)), upstream={"token_timeout": 30.0}) as given:
        failing = asyncio.create_task(given.failure())
        await eventually(lambda: given.stage.running == 1, "it runs")
        await asyncio.sleep(0.05)
        await given.stage.close()
        _, error = await failing
        assert error.code == "server_shutting_down"


async def test_what_is_too_much_waits_and_what_is_more_is_refused() -> None:
    upstream = ScriptedUpstream(streams(*SAID, hang=True))
    async with stage_over(upstream, upstream={"token_timeout": 30.0}, streams=1, waiting=1) as given:
        tasks = [asyncio.create_task(given.ask()) for _ in range(2)]
        await eventually(lambda: (given.stage.running, given.stage.waiting) == (1, 1), "one runs, one waits")
        _, error = await given.failure()
        assert (error.kind, error.code, given.stage.refusals) == ("overloaded", "server_overloaded", 1)
        upstream.answer = says("At last.")
        tasks[0].cancel()
        assert text_of(await tasks[1]) == "At last."


async def test_an_upstream_waits_for_no_reader() -> None:
    many = [chunk({"content": f"{number} "}) for number in range(3000)]
    async with stage_over(ScriptedUpstream(streams(*many, chunk(finish="stop"), DONE))) as given:
        turn = Turn("slow", (Message("user", "Hi"),))
        async with aclosing(given.stage(turn, lambda turn: given.stage(turn, None))) as events:  # type: ignore[arg-type]
            assert await anext(events) == Started(0)
            await eventually(lambda: given.counts.kinds == ["done"], "it has said all")
            assert given.stage.running == 0, "another one may begin"
            rest = [event async for event in events]
        assert text_of(rest).split() == [str(number) for number in range(3000)]


async def test_the_connection_is_used_again() -> None:
    ports: set[object] = set()

    async def counts(upstream: ScriptedUpstream, request: web.Request) -> web.StreamResponse:
        assert request.transport is not None
        ports.add(request.transport.get_extra_info("peername"))
        return await says("Hi")(upstream, request)

    async with stage_over(ScriptedUpstream(counts)) as given:
        for _ in range(5):
            await given.said()
        assert len(ports) == 1


async def test_the_key_is_sent_and_nothing_else_of_this_server() -> None:
    upstream = ScriptedUpstream(key="sk-right")
    async with stage_over(upstream, upstream={"key": "sk-right"}) as given:
        await given.said()
        assert upstream.headers[0]["Authorization"] == "Bearer sk-right"
        assert upstream.headers[0]["User-Agent"] == "loquent"
        assert upstream.headers[0]["Accept-Encoding"] == "identity", "compression would hold events back"
        assert "sk-right" not in repr(given.stage._settings) + json.dumps(given.stage._settings.model_dump(mode="json"))


async def test_a_task_is_for_models_that_rewrite_one_text() -> None:
    async with stage_over(ScriptedUpstream()) as given:
        came, error = await given.failure(task="summarize")
        assert (came, error.kind, error.code, error.param) == (
            [],
            "invalid_request",
            "unsupported_parameter",
            "loquent.task",
        )
        assert given.counts.kinds == []
