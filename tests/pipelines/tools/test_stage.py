"""The tools stage runs the server's functions between the rounds of the model, and bounds all of it."""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.events import (
    CallDelta,
    CallDone,
    CallStarted,
    Event,
    Finished,
    Format,
    Message,
    Started,
    TextDelta,
    TextDone,
    Tool,
    ToolCall,
    ToolUse,
    Turn,
    Usage,
)
from pipelines.flow import Next
from pipelines.tools.settings import ToolsSettings
from pipelines.tools.source import ToolError
from pipelines.tools.stage import FAILED, NOT_ASKED, TOO_LATE, ToolsStage

Round = Sequence[str | tuple[str, str]]  # texts, and calls by name and arguments


class Script:
    """An innermost stage that plays one round after the other, and remembers the turns it was given."""

    def __init__(self, *rounds: Round) -> None:
        self._rounds = iter(rounds)
        self.turns: list[Turn] = []
        self.closed = 0

    async def __call__(self, turn: Turn) -> AsyncGenerator[Event]:
        self.turns.append(turn)
        number, parts = len(self.turns), next(self._rounds)
        try:
            yield Started(10, 5)
            calls = [part for part in parts if not isinstance(part, str)]
            for part in parts:
                await asyncio.sleep(0)
                if isinstance(part, str):
                    yield TextDelta(part)
            yield TextDone()
            for index, (name, arguments) in enumerate(calls):
                id = f"call-{number}-{index}"
                yield CallStarted(id, name)
                yield CallDelta(id, arguments)
                yield CallDone(ToolCall(id, name, arguments))
            yield Finished("tool_calls" if calls else "stop", Usage(10, 5, 2))
        finally:
            self.closed += 1


class Local:
    """A source whose functions are given."""

    def __init__(self, ask: Sequence[str] = (), **functions: Callable[..., Awaitable[str]]) -> None:
        self.tools = [Tool(name, f"Does {name}") for name in functions]
        self._functions, self._ask = functions, ask
        self.called: list[tuple[str, Mapping[str, Any]]] = []
        self.running = 0

    def asks(self, name: str) -> bool:
        return name in self._ask

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def call(self, name: str, arguments: Mapping[str, Any]) -> str:
        self.called.append((name, arguments))
        self.running += 1
        try:
            return await self._functions[name](**arguments)
        finally:
            self.running -= 1


async def weather(city: str = "") -> str:
    return f"sunny in {city}"


async def hang(**_: Any) -> str:
    await asyncio.Event().wait()
    return ""


def turn(text: str = "Weather?", **more: Any) -> Turn:
    return Turn("t", (Message("user", text),), **more)


async def run(stage: ToolsStage, script: Next, asked: Turn | None = None) -> list[Event]:
    async with aclosing(stage(asked or turn(), script)) as events:
        return [event async for event in events]


def said(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


ROME = ("weather", '{"city": "Rome"}')


async def test_a_call_is_run_and_answered_in_the_same_reply() -> None:
    source, script = Local(weather=weather), Script(["Let me see. ", ROME], ["It is sunny."])
    events = await run(ToolsStage([source], ToolsSettings()), script)
    assert events == [
        Started(10, 5),
        TextDelta("Let me see. "),
        TextDelta("It is sunny."),
        TextDone(),
        Finished("stop", Usage(20, 10, 4)),
    ]
    call = ToolCall("call-1-0", *ROME)
    assert script.turns[1].messages == (
        Message("user", "Weather?"),
        Message("assistant", "Let me see. ", calls=(call,)),
        Message("tool", "sunny in Rome", call_id="call-1-0"),
    )
    assert script.closed == 2


async def test_a_call_of_the_clients_own_function_ends_the_reply_and_is_not_run() -> None:
    source, script = Local(weather=weather), Script([("theirs", "{}")])
    asked = turn(tools=ToolUse((Tool("theirs"),)))
    events = await run(ToolsStage([source], ToolsSettings()), script, asked)
    assert [type(event) for event in events] == [Started, TextDone, CallStarted, CallDelta, CallDone, Finished]
    assert events[-1] == Finished("tool_calls", Usage(10, 5, 2))
    assert source.called == []
    offered = script.turns[0].tools
    assert offered is not None
    assert [tool.name for tool in offered.tools] == ["theirs", "weather"]
    assert not offered.parallel


async def test_a_function_of_the_client_hides_the_servers_of_the_same_name() -> None:
    source, script = Local(weather=weather), Script([ROME])
    events = await run(ToolsStage([source], ToolsSettings()), script, turn(tools=ToolUse((Tool("weather"),))))
    assert any(isinstance(event, CallDone) for event in events)
    assert source.called == []


@pytest.mark.parametrize(
    "asked",
    [
        turn(tools=ToolUse((Tool("theirs"),), "required")),
        turn(tools=ToolUse((Tool("theirs"),), "none")),
        turn(format=Format("json")),
    ],
)
async def test_a_request_that_leaves_no_choice_is_passed_on_as_it_is(asked: Turn) -> None:
    script = Script(["Hi"])
    await run(ToolsStage([Local(weather=weather)], ToolsSettings()), script, asked)
    assert script.turns == [asked]


async def test_the_model_must_answer_after_its_last_round() -> None:
    script = Script([ROME], [ROME], ["Enough."])
    events = await run(ToolsStage([Local(weather=weather)], ToolsSettings(rounds=2)), script)
    assert said(events) == "Enough."
    assert [each.tools is None for each in script.turns] == [False, False, True]


async def broken(**_: Any) -> str:
    raise RuntimeError("a secret of the function")


async def refusing(**_: Any) -> str:
    raise ToolError("no such city")


@pytest.mark.parametrize(
    ("function", "arguments", "result", "outcome"),
    [
        (broken, "{}", FAILED, "error"),
        (refusing, "{}", f"{FAILED} no such city", "error"),
        (hang, "{}", TOO_LATE, "timeout"),
        (weather, '{"city": ', FAILED, "error"),
        (weather, '{"town": "Rome"}', FAILED, "error"),
    ],
)
async def test_what_goes_wrong_is_a_result_for_the_model(
    function: Callable[..., Awaitable[str]], arguments: str, result: str, outcome: str
) -> None:
    source, script = Local(f=function), Script([("f", arguments)], ["Sorry."])
    stage = ToolsStage([source], ToolsSettings(timeout=0.05))
    assert said(await run(stage, script)) == "Sorry."
    assert script.turns[1].messages[-1].content.startswith(result)
    assert "secret" not in script.turns[1].messages[-1].content
    assert stage.calls == {outcome: 1}
    assert source.running == 0


async def test_a_long_result_is_cut() -> None:
    async def flood() -> str:
        return "ü" * 1_000_000

    script = Script([("f", "{}")], ["ok"])
    await run(ToolsStage([Local(f=flood)], ToolsSettings(output_bytes=100)), script)
    assert script.turns[1].messages[-1].content == "ü" * 50 + " … (cut)"


async def test_two_calls_run_side_by_side_and_keep_their_order() -> None:
    first, second = asyncio.Event(), asyncio.Event()

    async def one() -> str:
        first.set()
        await second.wait()
        return "1"

    async def two() -> str:
        await first.wait()
        second.set()
        return "2"

    script = Script([("one", "{}"), ("two", "{}")], ["ok"])
    await run(ToolsStage([Local(one=one, two=two)], ToolsSettings()), script)
    assert [message.content for message in script.turns[1].messages[-2:]] == ["1", "2"]


async def test_more_calls_than_may_run_fail_for_the_model() -> None:
    waiting = asyncio.Event()

    async def slow() -> str:
        await waiting.wait()
        return "done"

    stage = ToolsStage([Local(f=slow)], ToolsSettings(running=1))
    first = asyncio.create_task(run(stage, Script([("f", "{}")], ["ok"])))
    while not stage._capacity.held:
        await asyncio.sleep(0)
    script = Script([("f", "{}")], ["busy"])
    await run(stage, script)
    assert script.turns[1].messages[-1].content.startswith(FAILED)
    waiting.set()
    await first


async def test_a_silence_is_filled_once() -> None:
    ready = asyncio.Event()

    async def slow() -> str:
        await ready.wait()
        return "done"

    script = Script([("f", "{}")], [("f", "{}")], ["Here it is."])
    stage = ToolsStage([Local(f=slow)], ToolsSettings(filler="One moment.", filler_after=0.01))
    events: list[Event] = []
    async with aclosing(stage(turn(), script)) as reply:
        async for event in reply:
            events.append(event)
            if isinstance(event, TextDelta):
                ready.set()
    assert said(events) == "One moment. Here it is."


DELETE = ("delete", '{"file": "a.txt"}')


async def delete(file: str) -> str:
    return f"{file} is gone"


async def test_a_function_that_needs_approval_runs_only_when_the_user_says_yes() -> None:
    source = Local(["delete"], delete=delete)
    stage = ToolsStage([source], ToolsSettings())
    events = await run(stage, Script([DELETE]), turn("Delete a.txt", session="s"))
    assert said(events) == 'May I run delete with {"file": "a.txt"}?'
    assert events[-1] == Finished("stop", Usage(10, 5, 2))
    assert source.called == []
    script = Script(["It is gone."])
    assert said(await run(stage, script, turn("Yes, please!", session="s"))) == "It is gone."
    assert source.called == [("delete", {"file": "a.txt"})]
    assert script.turns[0].messages[-1].content == "a.txt is gone"


@pytest.mark.parametrize(("answer", "session"), [("no", "s"), ("yes but not that", "s"), ("yes", "another")])
async def test_anything_else_drops_the_question(answer: str, session: str) -> None:
    source = Local(["delete"], delete=delete)
    stage = ToolsStage([source], ToolsSettings())
    await run(stage, Script([DELETE]), turn("Delete a.txt", session="s"))
    await run(stage, Script(["Fine."]), turn(answer, session=session))
    await run(stage, Script(["Hm?"]), turn("yes", session="another"))
    assert source.called == []


async def test_without_a_session_nobody_can_approve() -> None:
    source, script = Local(["delete"], delete=delete), Script([DELETE], ["I can't."])
    await run(ToolsStage([source], ToolsSettings()), script, turn("Delete a.txt"))
    assert source.called == []
    assert script.turns[1].messages[-1].content == NOT_ASKED


async def test_a_reply_that_is_cut_within_a_call_runs_nothing() -> None:
    async def cut(turn: Turn) -> AsyncGenerator[Event]:
        yield TextDone()
        yield CallStarted("c", "weather")
        yield CallDelta("c", '{"ci')
        yield Finished("length", Usage())

    source = Local(weather=weather)
    events = await run(ToolsStage([source], ToolsSettings()), cut)
    assert events == [TextDone(), Finished("length", Usage())]
    assert source.called == []


@settings(max_examples=60, deadline=None)
@given(leave=st.integers(0, 12), hanging=st.booleans(), parallel=st.integers(1, 3))
def test_leaving_a_reply_anywhere_ends_every_call_and_every_round(leave: int, hanging: bool, parallel: int) -> None:
    async def check() -> None:
        source = Local(f=hang if hanging else weather)
        script = Script(["Well, ", *[("f", "{}")] * parallel], [("f", "{}")], ["done"])
        stage = ToolsStage([source], ToolsSettings(filler="Hm.", filler_after=0.001, timeout=0.01))
        before = asyncio.all_tasks()
        reply = stage(turn(), script)
        for _ in range(leave):
            if await anext(reply, None) is None:
                break
        await reply.aclose()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == before
        assert source.running == 0
        assert script.closed == len(script.turns)
        assert stage._capacity.held == 0

    asyncio.run(check())


@settings(max_examples=40, deadline=None)
@given(steps=st.integers(0, 25))
def test_cancelling_a_reply_at_any_step_ends_everything(steps: int) -> None:
    async def check() -> None:
        source, script = Local(f=hang), Script(["Well, ", ("f", "{}"), ("f", "{}")], ["done"])
        stage = ToolsStage([source], ToolsSettings(timeout=5.0))
        task = asyncio.create_task(run(stage, script))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0)
        assert source.running == 0
        assert script.closed == len(script.turns)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(check())


async def test_arguments_reach_the_function_as_the_model_wrote_them() -> None:
    source, script = Local(weather=weather), Script([("weather", json.dumps({"city": 'Ma"drid\n'}))], ["ok"])
    await run(ToolsStage([source], ToolsSettings()), script)
    assert source.called == [("weather", {"city": 'Ma"drid\n'})]
