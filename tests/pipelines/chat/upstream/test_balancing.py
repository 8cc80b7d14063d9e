"""Several upstreams: which one answers, and what becomes of those that fail."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
from aiohttp import web

from pipelines.chat.pace import joined
from pipelines.chat.upstream import balancer as balancer_module
from pipelines.chat.upstream.balancer import Balancer
from pipelines.chat.upstream.breaker import FAILURES, Breaker
from pipelines.chat.upstream.outcomes import UpstreamError
from pipelines.events import Event, Started, TextDelta
from tests.pipelines.chat.upstream.scripted import (
    DONE,
    ROLE,
    ScriptedUpstream,
    begin,
    chunk,
    fails,
    says,
    silent,
    streams,
    upstreams,
)
from tests.pipelines.chat.upstream.support import stage_over, text_of
from tests.support import eventually

SAID = [ROLE, chunk({"content": "Hel"}), chunk({"content": "lo"})]


def state(breaker: Breaker) -> str:
    return breaker.state


def test_a_breaker_opens_behind_failures_in_a_row_and_closes_behind_a_reply() -> None:
    breaker = Breaker()
    assert state(breaker) == "open", "nothing is known of it"
    breaker.probed()
    assert state(breaker) == "closed"
    for _ in range(FAILURES - 1):
        breaker.failed(gone=False)
    breaker.succeeded()
    for _ in range(FAILURES - 1):
        breaker.failed(gone=False)
    assert state(breaker) == "closed", "they were not in a row"
    breaker.failed(gone=False)
    assert state(breaker) == "open"
    breaker.probed()
    assert state(breaker) == "half_open", "that it answers a probe proves little"
    breaker.failed(gone=False)
    assert (state(breaker), breaker.opened) == ("open", 2)
    breaker.probed()
    breaker.began()
    assert state(breaker) == "closed"
    breaker.succeeded()
    breaker.failed(gone=True)
    assert state(breaker) == "open", "nothing listens there"
    breaker.probed()
    assert state(breaker) == "closed"


async def test_the_least_loaded_answers_and_a_session_stays_where_it_was() -> None:
    async def probe(url: str) -> list[str]:
        return ["m"]

    balancer = Balancer(["a", "b", "c"], 8, probe)
    await balancer.start()
    await eventually(lambda: balancer.available == 3, "all answer")
    a, b, c = balancer.upstreams
    a.running, b.running, c.running = 3, 1, 2
    assert balancer.choose("") is b
    assert balancer.choose("session") is b
    b.running = 3
    assert balancer.choose("session") is b, "it is not much busier than the least loaded"
    assert balancer.choose("other") is c
    b.running = 5
    assert balancer.choose("session") is c, "it is, and the session moves"
    b.running = 0
    assert balancer.choose("session") is c, "where it stays"
    c.breaker.failed(gone=True)
    assert balancer.choose("session") is b
    assert balancer.choose("", [b]) is a, "another one than that which was tried"
    assert balancer.choose("", [a, b]) is b, "where there is none, the same"
    await balancer.close()


async def test_what_asks_to_be_left_alone_is() -> None:
    now = 0.0

    async def probe(url: str) -> list[str]:
        return ["m"]

    balancer = Balancer(["a", "b"], 8, probe, clock=lambda: now)
    await balancer.start()
    await eventually(lambda: balancer.available == 2, "both answer")
    a, b = balancer.upstreams
    balancer.failed(a, UpstreamError("overloaded", "", retry_after=5.0))
    assert a.available
    assert {balancer.choose("") for _ in range(3)} == {b}
    now = 6.0
    assert balancer.choose("") is a
    await balancer.close()


async def test_upstreams_come_and_go_and_replies_in_progress_end_as_they_would_have() -> None:
    gate = asyncio.Event()

    async def slow(upstream: ScriptedUpstream, request: web.Request) -> web.StreamResponse:
        answer = await begin(request)
        for line in (*SAID, chunk(finish="stop"), DONE):
            await answer.write(line.encode())
            if line is SAID[1]:
                await gate.wait()
        return answer

    first, second = ScriptedUpstream(slow), ScriptedUpstream(says("New", "."), key="k")
    async with stage_over(first) as given, upstreams(second):
        reply = asyncio.create_task(given.said(session="s"))
        await eventually(lambda: given.stage.balancer.upstreams[0].running == 1, "it answers")
        given.stage.change({second.url: {"Authorization": "Bearer k"}}, "X-Tenant")
        assert not given.stage.ready
        await eventually(lambda: given.stage.ready, "the new one answers, which wants a header of its own")
        assert await given.said(session="s", tenant="ä shop") == "New."
        assert second.headers[-1]["X-Tenant"] == "%C3%A4%20shop"
        gate.set()
        assert await reply == "Hello"
        forgotten: list[str] = []
        given.stage.on_forget = forgotten.extend
        given.stage.forget(iter(["shop"]))
        assert forgotten == ["shop"]
        given.stage.change({})
        assert not given.stage.ready
        assert given.stage.balancer.why_not == ""
        failure = (await given.failure())[1]
        assert failure.code == "upstream_unavailable"
        given.stage.change({first.url: {}, second.url: {"Authorization": "Bearer k"}})
        await eventually(lambda: given.stage.balancer.available == 2, "both answer")


async def test_one_that_has_gone_is_probed_no_more() -> None:
    async def probe(url: str) -> list[str]:
        if url == "a":
            raise UpstreamError("unreachable", "")
        return ["m"]

    balancer = Balancer([], 8, probe)
    balancer.change(["a", "b"])
    assert not balancer._probing, "nothing is asked before the start"
    await balancer.start()
    gone = next(each for each in balancer.upstreams if each.url == "a")
    balancer.change(["b"])
    balancer.failed(gone, UpstreamError("unreachable", ""))
    assert balancer._probing.keys() <= set(balancer.upstreams)
    await balancer.close()


async def test_sessions_stay_and_requests_are_spread() -> None:
    first, second = ScriptedUpstream(), ScriptedUpstream()
    async with stage_over(first, second) as given:
        await eventually(lambda: given.stage.balancer.available == 2, "both answer")
        for _ in range(10):
            await given.said()
        assert (len(first.bodies), len(second.bodies)) == (5, 5)
        for number in range(40):
            await given.said(session=f"s{number % 4}")
        served = Counter(url for url, _ in given.counts.outcomes[10:])
        assert sorted(served.values()) == [20, 20]


@pytest.mark.parametrize("answer", [fails(500), fails(503), fails(429), fails(401), silent, streams(ROLE, cut=True)])
async def test_what_fails_before_the_first_token_goes_to_the_other_at_once(answer: object) -> None:
    bad, good = ScriptedUpstream(answer), ScriptedUpstream()  # type: ignore[arg-type]
    async with stage_over(bad, good) as given:
        await eventually(lambda: given.stage.balancer.available == 2, "both answer")
        assert [await given.said() for _ in range(3)] == ["Hello there."] * 3
        assert given.sleeps.asked == []
        assert given.counts.retries >= 1


async def test_fifty_kills_in_mid_stream_fail_only_what_was_streamed_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balancer_module, "PROBE_LONGEST", 0.02)
    gate = asyncio.Event()

    async def slowly(upstream: ScriptedUpstream, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write("".join(SAID).encode())
        await gate.wait()
        await response.write((chunk({"content": "!"}) + chunk(finish="stop") + DONE).encode())
        return response

    pair = ScriptedUpstream(slowly), ScriptedUpstream(slowly)
    async with stage_over(*pair, upstream={"token_timeout": 20.0, "first_token_timeout": 20.0}) as given:
        for kill in range(50):
            await eventually(lambda: given.stage.balancer.available == 2, "both answer")
            gate.clear()
            came: list[list[Event]] = [[] for _ in range(4)]
            asked = [asyncio.create_task(given.failure(each)) for each in came]
            await eventually(partial(all_said, came, "Hello"), "all stream")
            killed = pair[kill % 2]
            await killed.kill()
            await eventually(partial(so_many_done, asked, 2), "two fail")
            assert given.counts.outcomes[-2:] == [(killed.url, "failed")] * 2
            failed = [task.done() for task in asked]
            gate.set()
            for task, events, has_failed in zip(asked, came, failed, strict=True):
                if has_failed:
                    _, error = task.result()
                    assert (error.kind, error.code) == ("unavailable", "upstream_failed")
                    assert list(joined(iter(events))) == [Started(0), TextDelta("Hello", 2)]
                else:
                    with pytest.raises(AssertionError, match="it did not fail"):
                        await task
                    assert text_of(events) == "Hello!"
            assert await given.said() == "Hello!", "the next turn goes to the other"
            await killed.start()
        assert given.stage.running == 0


def all_said(came: list[list[Event]], text: str) -> bool:
    return all(text_of(events) == text for events in came)


def so_many_done(tasks: Sequence[asyncio.Task[Any]], count: int) -> bool:
    return sum(task.done() for task in tasks) == count


async def test_an_upstream_whose_replies_fail_is_left_alone_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balancer_module, "PROBE_FIRST", 0.01)
    bad, good = ScriptedUpstream(fails(500)), ScriptedUpstream()
    async with stage_over(bad, good) as given:
        await eventually(lambda: given.stage.balancer.available == 2, "both answer")
        broken = given.stage.balancer.upstreams[0]
        bad.down = True
        while broken.available:
            await given.said()
        asked = len(bad.bodies)
        assert asked == FAILURES
        for _ in range(10):
            await given.said()
        assert len(bad.bodies) == asked, "it is left alone"
        bad.down, bad.answer = False, says("Back.")
        await eventually(lambda: broken.breaker.state == "half_open", "it answers a probe")
        assert "Back." in [await given.said() for _ in range(4)]
        assert broken.breaker.state == "closed"


async def test_while_one_is_down_the_other_is_asked_no_more_than_it_may_be() -> None:
    first, second = ScriptedUpstream(streams(*SAID, hang=True)), ScriptedUpstream(streams(*SAID, hang=True))
    async with stage_over(first, second, streams=2, upstream={"token_timeout": 20.0}) as given:
        await eventually(lambda: given.stage.balancer.available == 2, "both answer")
        await first.kill()
        given.stage.balancer.failed(given.stage.balancer.upstreams[0], UpstreamError("unreachable", ""))
        tasks = [asyncio.create_task(given.ask()) for _ in range(5)]
        await eventually(lambda: len(second.bodies) == 2, "two run")
        await asyncio.sleep(0.05)
        assert (len(second.bodies), given.stage.waiting) == (2, 3)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


async def test_models_are_named_as_the_upstream_calls_them() -> None:
    upstream = ScriptedUpstream(models=("first", "second"))
    async with stage_over(upstream, upstream={"models": {"fast": "second"}}) as given:
        await given.said()
        await given.said(model="fast")
        await given.said(model="unknown")
        assert [body["model"] for body in upstream.bodies] == ["first", "second", "first"]
    upstream = ScriptedUpstream(models=())
    async with stage_over(upstream, upstream={"model": "named"}) as given:
        await given.said()
        assert upstream.bodies[0]["model"] == "named"
        assert given.stage.model_name == "named"


@pytest.mark.parametrize(
    ("upstream", "why"),
    [
        (ScriptedUpstream(key="sk-right"), "LOQUENT__CHAT__UPSTREAM__KEY"),
        (ScriptedUpstream(models=()), "lists no model"),
    ],
)
async def test_an_upstream_that_can_not_serve_says_why(upstream: ScriptedUpstream, why: str) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5), stage_over(upstream, upstream={"key": "sk-wrong"}):
            raise AssertionError("it serves")
