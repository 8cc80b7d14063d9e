"""A client leaves, or cancels, at every point of a reply with text and calls: stages are closed, no task is left."""

import asyncio
import json
from collections.abc import AsyncGenerator

import pytest

from pipelines.events import Event, Turn
from tests.server.scripts import WEATHER, Json, Scripted, call, calls
from tests.support import PATIENCE, Running, eventually, running

REPLY = calls(WEATHER, call("call_2", "time", "{}"), said="Let me see.")
POINTS = range(len(REPLY))
HI = [{"role": "user", "content": "Hi"}]
BODIES: dict[str, Json] = {"chat/completions": {"messages": HI, "n": 2}, "responses": {"input": "Hi"}}


def stalling(point: int) -> tuple[Scripted, asyncio.Event]:
    """A model that says so many events and then nothing; and what is set once it has."""
    stalled = asyncio.Event()

    async def script(turn: Turn) -> AsyncGenerator[Event]:
        for event in REPLY[:point]:
            yield event
        stalled.set()
        await asyncio.Event().wait()

    return Scripted(script), stalled


async def nothing_left(server: Running, model: Scripted, tasks: int) -> None:
    await eventually(lambda: (model.open, server.backend.requests) == (0, 0), "nothing of it is left")
    await eventually(lambda: len(asyncio.all_tasks()) <= tasks, "no task is left")


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("point", POINTS)
async def test_a_client_may_leave_at_any_point(point: int, stream: bool, path: str) -> None:
    model, stalled = stalling(point)
    async with running(model.pipeline) as server:
        tasks = len(asyncio.all_tasks())

        async def ask() -> None:
            async with server.http.post(f"{server.url}/v1/{path}", json=BODIES[path] | {"stream": stream}) as answer:
                await answer.read()

        asking = asyncio.create_task(ask())
        await asyncio.wait_for(stalled.wait(), PATIENCE)
        asking.cancel()
        await nothing_left(server, model, tasks)


@pytest.mark.parametrize("point", POINTS[1:])
async def test_a_response_may_be_cancelled_at_any_point(point: int) -> None:
    model, stalled = stalling(point)
    async with running(model.pipeline) as server:
        async with server.http.get(f"{server.url}/livez"):
            pass  # a connection that stays open has a task
        tasks = len(asyncio.all_tasks())
        async with server.http.post(f"{server.url}/v1/responses", json={"input": "Hi", "stream": True}) as answer:
            created = json.loads((await answer.content.readuntil(b"\n\n")).split(b"data: ")[1])
            await asyncio.wait_for(stalled.wait(), PATIENCE)
            async with server.http.post(f"{server.url}/v1/responses/{created['response']['id']}/cancel") as cancelled:
                made = await cancelled.json()
            blocks = [block for block in (await answer.text()).split("\n\n") if block]
        assert (made["status"], model.open) == ("cancelled", 0)
        assert json.loads(blocks[-1].split("data: ")[1])["response"] == made
        added = sum("event: response.output_item.added" in block for block in blocks)
        assert added == sum("event: response.output_item.done" in block for block in blocks) == len(made["output"])
        await server.http.close()
        await nothing_left(server, model, tasks)
