"""The load generator: its plan, what it counts, and that a server which stalls can't hide it."""

import asyncio
import json
import math
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web

from bench.load.figures import Measured, figures, report
from bench.load.plan import Load, visits
from bench.load.user import Target, visit
from tests.support import ROOT, run

LOAD = Load(sessions=200, seconds=60, turns=4, think=5, nominal=1, speech=0.2, audio=0.1, seed=1)


def test_a_plan_is_the_same_for_the_same_seed_and_has_the_load_that_was_asked_for() -> None:
    plan = list(visits(LOAD))
    assert plan == list(visits(LOAD))
    assert plan != list(visits(Load(200, 60, 4, 5, 1, 0.2, 0.1, 2)))
    assert len(plan) == pytest.approx(LOAD.rate * 60, rel=0.2)
    stays = [each.turns[-1].due + LOAD.nominal - each.comes for each in plan]
    assert LOAD.rate * sum(stays) / len(stays) == pytest.approx(LOAD.sessions, rel=0.1), "Little's law"
    kinds = [each.kind for each in plan]
    assert kinds.count("speech") / len(plan) == pytest.approx(0.2, abs=0.08)
    assert kinds.count("audio") / len(plan) == pytest.approx(0.1, abs=0.06)
    assert len({turn.text for each in plan for turn in each.turns}) == 4 * len(plan), "nothing is answered from memory"


def test_quantiles_are_of_what_was_measured_and_several_processes_add_up() -> None:
    one, other = Measured(visits=1, most=1, tokens=10, seconds=2.0), Measured(visits=2, most=2, tokens=30, seconds=4.0)
    one.times["first"] = [0.001 * n for n in range(1, 51)]
    other.times["first"] = [0.001 * n for n in range(51, 101)]
    one.outcomes["completed"], other.outcomes["error x"] = 1, 1
    one.add(other)
    found = figures(one)
    assert found["first/p50"] == pytest.approx(51)
    assert found["first/p99"] == found["first/max"] == pytest.approx(100)
    assert (found["tokens"], found["turns"], found["completed"], found["sessions"]) == (10, 2, 1, 3)
    assert "error x" in report(one)
    assert not math.isnan(sum(figures(Measured()).values()))


@asynccontextmanager
async def stalling(stall: float) -> AsyncIterator[str]:
    """A server whose first reply takes so many seconds, and the others hardly any."""
    replies = 0

    async def realtime(request: web.Request) -> web.WebSocketResponse:
        nonlocal replies
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            event = json.loads(message.data)
            if event["type"] == "session.update":
                await socket.send_json({"type": "session.updated"})
            elif event["type"] == "response.create":
                replies += 1
                await asyncio.sleep(stall if replies == 1 else 0)
                await socket.send_json({"type": "response.output_text.delta", "delta": "Yes."})
                usage = {"output_tokens": 2, "input_tokens": 5, "input_token_details": {"cached_tokens": 3}}
                done = {"status": "completed", "usage": usage}
                await socket.send_json({"type": "response.done", "response": done})
        return socket

    app = web.Application()
    app.router.add_get("/v1/realtime", realtime)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def test_turns_that_a_stall_held_up_count_from_when_they_were_due() -> None:
    load = Load(sessions=1, seconds=1e9, turns=6, think=0.1, nominal=0.01, speech=0, audio=0, seed=3)
    plan, measured = next(visits(load)), Measured()
    begun = asyncio.get_running_loop().time() - plan.comes
    async with stalling(1.0) as url, aiohttp.ClientSession() as http:
        await visit(http, Target(url, "", "default", 8, b"", begun), plan, measured)
    assert dict(measured.outcomes) == {"completed": 6}
    assert measured.tokens == 12
    late = [first - served for first, served in zip(measured.times["first"], measured.times["served"], strict=True)]
    assert late[0] < 0.3
    assert sum(each > 0.3 for each in late) >= 2, "those behind the stall were due while it lasted"
    assert late[1:4] == sorted(late[1:4], reverse=True), "and catch up"


async def test_what_goes_wrong_is_counted_turn_by_turn() -> None:
    load = Load(sessions=1, seconds=1e9, turns=3, think=0.01, nominal=0.01, speech=0, audio=0, seed=0)
    plan, measured = next(visits(load)), Measured()
    begun = asyncio.get_running_loop().time() - plan.comes
    async with aiohttp.ClientSession() as http:
        await visit(http, Target("http://127.0.0.1:1", "", "default", 8, b"", begun), plan, measured)
    assert sum(measured.outcomes.values()) == 3
    assert measured.outcomes["not taken, because one before it failed"] == 2


@pytest.mark.e2e
def test_it_runs_from_the_command_line_with_text_speech_and_voices(server_url: str) -> None:
    asked = ["--sessions", "6", "--seconds", "4", "--turns", "2", "--think", "0.5", "--tokens", "8", "--processes", "2"]
    command = [*asked, "--speech", "0.3", "--audio", "0.2", "--seed", "4", "--json"]
    ran = run(sys.executable, "-m", "bench.load", server_url, *command, seconds=120, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["completed"] == found["turns"] >= 8, found
    assert 0 < found["first/p50"] <= found["first/max"]
    assert {"sound/p50", "heard/p50", "gap/p50", "connect/p50"} <= set(found)


def test_a_server_that_is_not_there_is_an_error() -> None:
    ran = run(sys.executable, "-m", "bench.load", "http://127.0.0.1:1", seconds=60, cwd=ROOT)
    assert ran.returncode == 1
    assert "can't be put under load" in ran.stderr
    assert run(sys.executable, "-m", "bench.load", "x", "--audio", "2", seconds=60, cwd=ROOT).returncode == 2
