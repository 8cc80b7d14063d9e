"""Function calls through the real server; a scripted stage calls instead of a model."""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import pytest
from openai import AsyncOpenAI

from pipelines.build import Pipeline
from pipelines.events import (
    CallDelta,
    CallDone,
    CallStarted,
    Event,
    Finished,
    Message,
    Started,
    TextDelta,
    TextDone,
    ToolCall,
    Turn,
    Usage,
)
from pipelines.flow import Next
from pipelines.part import Part, Shared
from pipelines.speech import part as speech_part
from tests.support import ScriptedVoice, eventually, running, scripted_speech, user

WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object", "properties": {}}}
CALL = ToolCall("call_1", "weather", '{"city": "Paris"}')


class Caller:
    """A stage that calls a function where the last message is no tool's, and says its output where it is."""

    def __init__(self, text: str = "", hang: bool = False, stop_after: int = 99) -> None:
        self.turns: list[Turn] = []
        self.closed = 0
        self.reached = 0  # events that it has yielded
        self._text = text
        self._hang = hang
        self._stop_after = stop_after  # events, and then it hangs

    async def __call__(self, turn: Turn, next: Next) -> AsyncGenerator[Event]:
        async with aclosing(self._reply(turn)) as events:
            async for event in events:
                yield event
                self.reached += 1
                if self.reached == self._stop_after:
                    await asyncio.Event().wait()

    async def _reply(self, turn: Turn) -> AsyncGenerator[Event]:
        self.turns.append(turn)
        try:
            yield Started(9)
            if turn.messages[-1].role == "tool":
                yield TextDelta(f"It is {turn.messages[-1].content}.")
                yield TextDone()
                yield Finished("stop", Usage(9, 0, 3))
                return
            if self._text:
                yield TextDelta(self._text)
            yield TextDone()
            yield CallStarted(CALL.id, CALL.name)
            yield CallDelta(CALL.id, CALL.arguments[:5])
            if self._hang:
                await asyncio.Event().wait()
            yield CallDelta(CALL.id, CALL.arguments[5:])
            yield CallDone(CALL)
            yield Finished("tool_calls", Usage(9, 0, 5))
        finally:
            self.closed += 1


def calling(stage: Callable[[Turn, Next], AsyncGenerator[Event]], *outer: Part) -> Pipeline:
    return Pipeline([*outer, Part("chat", stage)], Shared())


async def test_a_tool_loop_ends_with_the_functions_result_in_the_reply() -> None:
    stage = Caller()
    async with running(calling(stage)) as server, server.client() as client:
        await client.greet()
        await client.send("session.update", session={"type": "realtime", "tools": [WEATHER]})
        await client.expect("session.updated")
        events = await client.ask("Weather?")
        (call,) = events[-1]["response"]["output"]
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}
        await client.send("conversation.item.create", item=output)
        await client.expect("conversation.item.added", "conversation.item.done")
        await client.send("response.create")
        again = await client.until("response.done")
    assert call["arguments"] == CALL.arguments
    assert again[-1]["response"]["output"][0]["content"][0]["text"] == "It is sunny."
    assert stage.turns[1].messages == (
        Message("user", "Weather?"),
        Message("assistant", "", calls=(CALL,)),
        Message("tool", "sunny", call_id="call_1"),
    )


async def test_the_sdk_reads_a_call() -> None:
    async with running(calling(Caller("Wait."))) as server:
        sdk = AsyncOpenAI(api_key="none", base_url=f"{server.url}/v1")
        kinds = []
        async with sdk.realtime.connect(model="gpt-realtime") as connection:
            await connection.conversation.item.create(item=user("Weather?"))  # type: ignore[arg-type]
            asked: Any = {"tools": [WEATHER], "tool_choice": "required"}
            await connection.response.create(response=asked)
            async for event in connection:
                if event.type == "response.function_call_arguments.done":
                    assert (event.name, event.call_id, event.arguments) == ("weather", "call_1", CALL.arguments)
                if event.type == "response.done":
                    kinds = [item.type for item in event.response.output or []]
                    break
        await sdk.close()
    assert kinds == ["message", "function_call"]


async def test_a_cancel_amid_a_call_closes_the_call_and_the_stage() -> None:
    stage = Caller(hang=True)
    async with running(calling(stage)) as server, server.client() as client:
        await client.greet()
        await client.say("Weather?")
        await client.send("response.create")
        await client.until("response.function_call_arguments.delta")
        await client.send("response.cancel")
        events = await client.until("response.done")
        await eventually(lambda: stage.closed == 1, "the stage was closed")
    assert [event["type"] for event in events] == [
        "response.function_call_arguments.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ]
    assert events[-1]["response"]["output"][0]["status"] == "incomplete"


async def test_a_disconnect_amid_a_call_closes_the_stage() -> None:
    stage = Caller(hang=True)
    async with running(calling(stage)) as server:
        async with server.client() as client:
            await client.greet()
            await client.say("Weather?")
            await client.send("response.create")
            await client.until("response.function_call_arguments.delta")
        await eventually(lambda: stage.closed == 1, "the stage was closed")


@pytest.mark.parametrize("leave", [False, True])
@pytest.mark.parametrize("point", range(1, 8))  # Started, text, its end, the call, two pieces, its end
async def test_whatever_point_of_a_tool_loop_is_cut_everything_has_its_end(point: int, leave: bool) -> None:
    stage = Caller("Let me look.", stop_after=point)
    async with running(calling(stage)) as server:
        async with server.client() as client:
            await client.greet()
            await client.say("Weather?")
            await client.send("response.create")
            await eventually(lambda: stage.reached == point, "the stage waits")
            if not leave:
                await client.send("response.cancel")
                events = await client.until("response.done")
        await eventually(lambda: stage.closed == 1, "the stage was closed")
    if leave:
        return
    opened = [event["item"]["id"] for event in events if event["type"] == "response.output_item.added"]
    ended = [event["item"]["id"] for event in events if event["type"] == "response.output_item.done"]
    output = events[-1]["response"]["output"]
    assert opened == ended == [item["id"] for item in output]
    ends = [event for event in events if event["type"] == "response.function_call_arguments.done"]
    status = {4: "incomplete", 5: "incomplete", 6: "incomplete", 7: "completed"}.get(point)
    assert [item["status"] for item in output if item["type"] == "function_call"] == [status] * len(ends)
    assert len(ends) == (point >= 4)


async def test_a_spoken_reply_calls_behind_its_sound() -> None:
    speech = speech_part.assemble(scripted_speech(ScriptedVoice()))
    async with running(calling(Caller("Let me look."), speech)) as server, server.client() as client:
        await client.greet()
        await client.send("session.update", session={"type": "realtime", "output_modalities": ["audio"]})
        await client.expect("session.updated")
        events = await client.ask("Weather?")
    kinds = [event["type"] for event in events]
    assert "response.output_audio.delta" in kinds
    assert kinds.index("response.output_audio.done") < kinds.index("response.function_call_arguments.delta")
    assert [item["type"] for item in events[-1]["response"]["output"]] == ["message", "function_call"]
