"""The bundled model, held to schemas and to calls, through the engine and the chat stage."""

import asyncio
import json
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

import pytest

from pipelines.chat.engine.admission import EngineLimits
from pipelines.chat.engine.engine import Engine
from pipelines.chat.model.files import prepare
from pipelines.chat.model.load import load
from pipelines.chat.settings import ChatSettings
from pipelines.chat.stage import ChatStage
from pipelines.downloads.progress import finish
from pipelines.events import (
    CallDelta,
    CallDone,
    CallStarted,
    Event,
    Finished,
    Format,
    Message,
    Sampling,
    StageError,
    TextDelta,
    TextDone,
    Tool,
    ToolUse,
    Turn,
)
from tests.schemas import random_schema
from tests.support import START_SECONDS, valid

pytestmark = pytest.mark.timeout(START_SECONDS)

STREAMS = 8
TOOLS = (
    Tool(
        "get_weather",
        "Get the weather of a place",
        {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 30}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
        },
    ),
    Tool("get_time", "Get the time"),
)


@pytest.fixture(scope="module")
def stage() -> Iterator[ChatStage]:
    """The chat stage on the bundled model; it serves the event loop of every test."""
    settings = ChatSettings(streams=STREAMS, kept=STREAMS)
    path = finish(prepare(settings.model, threading.Event()))
    engine = Engine(lambda: load(path, settings), EngineLimits(STREAMS, 500))
    asyncio.run(engine.start())
    stage = ChatStage(engine, settings)
    yield stage
    asyncio.run(stage.close())


async def events_of(stage: ChatStage, id: str, text: str = "Give me an example.", **turn: Any) -> list[Event]:
    async def nothing(turn: Turn) -> Any:
        raise AssertionError("the innermost stage calls no other")
        yield

    return [event async for event in stage(Turn(id, (Message("user", text),), **turn), nothing)]


def text_of(events: Sequence[Event]) -> str:
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def end_of(events: Sequence[Event]) -> Finished:
    assert isinstance(events[-1], Finished)
    return events[-1]


async def test_replies_drawn_by_chance_are_valid_json_of_their_schemas(stage: ChatStage) -> None:
    async def reply(seed: int) -> tuple[int, str, str]:
        of = Format("json_schema", json.dumps(random_schema(seed)), strict=True)
        sampling = Sampling(temperature=1.0, seed=seed, max_tokens=300)
        events = await events_of(stage, f"schema-{seed}", sampling=sampling, format=of)
        return seed, text_of(events), end_of(events).reason

    for seed, text, reason in await asyncio.gather(*(reply(seed) for seed in range(40))):
        assert reason == "stop", (seed, text)
        assert valid(random_schema(seed), json.loads(text)), (seed, text)


async def test_one_seed_gives_one_text_whatever_runs_beside_it(stage: ChatStage) -> None:
    of = Format("json_schema", json.dumps(random_schema(3)))
    asked: dict[str, Any] = {"sampling": Sampling(temperature=1.0, seed=1), "format": of}
    alone = text_of(await events_of(stage, "alone", **asked))
    beside = await asyncio.gather(*(events_of(stage, f"beside-{n}", **asked) for n in range(6)))
    assert {text_of(events) for events in beside} == {alone}


async def test_draft_tokens_do_not_change_a_greedy_reply(stage: ChatStage) -> None:
    of = {"type": "array", "items": {"enum": ["spades", "hearts", "clubs"]}, "minItems": 20, "maxItems": 20}
    asked: dict[str, Any] = {"format": Format("json_schema", json.dumps(of)), "sampling": Sampling(temperature=0.0)}
    text = "spades, hearts, clubs, " * 10
    before = stage.engine.steps
    alone = text_of(await events_of(stage, "drafts", text, **asked))
    with_drafts = stage.engine.steps - before
    many = await asyncio.gather(*(events_of(stage, f"no-drafts-{n}", text, **asked) for n in range(STREAMS)))
    assert {text_of(events) for events in many} == {alone}
    assert len(json.loads(alone)) == 20
    assert with_drafts < end_of(many[0]).usage.output_tokens


async def test_tokens_without_choice_take_no_step_of_their_own(stage: ChatStage) -> None:
    before = stage.engine.steps
    name, value = "a long name of a property", "and a long value"
    of = {"type": "object", "properties": {name: {"const": value}}, "required": [name]}
    events = await events_of(stage, "forced", format=Format("json_schema", json.dumps(of)))
    assert json.loads(text_of(events)) == {name: value}
    assert stage.engine.steps - before < end_of(events).usage.output_tokens / 2


@pytest.mark.parametrize(
    ("format", "matches"),
    [
        (Format("json"), r"\{.*\}"),
        (Format("regex", r"(yes|no), because [a-z ]{5,40}\."), r"(yes|no), because [a-z ]{5,40}\."),
        (Format("lark", 'start: "<" /[a-z]{1,9}/ ">"'), r"<[a-z]{1,9}>"),
    ],
)
async def test_other_formats_hold_too(stage: ChatStage, format: Format, matches: str) -> None:
    for seed in range(3):
        sampling = Sampling(temperature=1.0, seed=seed, max_tokens=100)
        events = await events_of(stage, f"{format.kind}-{seed}", format=format, sampling=sampling)
        assert re.fullmatch(matches, text_of(events), re.DOTALL)
        if format.kind == "json":
            json.loads(text_of(events))


async def test_log_probabilities_of_constrained_tokens_are_numbers(stage: ChatStage) -> None:
    events = await events_of(
        stage, "logprobs", format=Format("regex", "(yes|no) indeed"), sampling=Sampling(temperature=0.0, logprobs=5)
    )
    found = [each for event in events if isinstance(event, TextDelta) for each in event.logprobs]
    assert "".join(each.token for each in found) == text_of(events)
    assert all(-9999.0 <= value <= 0.0 for each in found for value in (each.logprob, *dict(each.likeliest).values()))


async def test_a_wrong_schema_names_the_parameter_and_takes_no_permit(stage: ChatStage) -> None:
    wrong = {"type": "object", "properties": {"a": {"type": "strin"}}}
    with pytest.raises(StageError, match="strin") as error:
        await events_of(stage, "wrong", format=Format("json_schema", json.dumps(wrong), "response_format", strict=True))
    assert error.value.param == "response_format.properties.a"
    tools = ToolUse((Tool("good"), Tool("bad", "", wrong)))
    with pytest.raises(StageError, match=r"'bad': properties\.a") as error:
        await events_of(stage, "wrong", tools=tools)
    assert error.value.param == "tools"
    assert stage.engine.queued == 0


async def test_a_schema_that_is_nested_deeply_is_refused_and_no_fault_of_the_server(stage: ChatStage) -> None:
    for depth in (50, 100, 200, 300):
        deep: dict[str, Any] = {}
        for _ in range(depth):
            deep = {"type": "object", "properties": {"a": deep}}
        for asked in ({"tools": ToolUse((Tool("f", "", deep),), "required")}, {"format": _nested(depth)}):
            with suppress(StageError):  # any other exception fails the test
                await events_of(stage, f"deep-{depth}", sampling=Sampling(max_tokens=4), **asked)


def _nested(depth: int) -> Format:
    return Format("json_schema", '{"type": "array", "items": ' * depth + "{}" + "}" * depth, "response_format")


async def test_with_required_the_model_always_calls_a_function_with_valid_arguments(stage: ChatStage) -> None:
    texts = ["What is 2 + 2?", "Hello!", "Weather in Rome?", "zzz", "Write a poem.", "¿Qué hora es?", "no", "{}"]

    async def reply(number: int) -> list[Event]:
        sampling = Sampling(temperature=1.0, seed=number, max_tokens=120)
        tools = ToolUse(TOOLS, "required", parallel=bool(number % 2))
        return await events_of(stage, f"required-{number}", texts[number % len(texts)], tools=tools, sampling=sampling)

    for events in await asyncio.gather(*(reply(number) for number in range(16))):
        calls = [event.call for event in events if isinstance(event, CallDone)]
        assert calls
        assert end_of(events).reason == "tool_calls"
        assert text_of(events) == ""
        schemas = {tool.name: tool.parameters for tool in TOOLS}
        assert all(valid(schemas[call.name], json.loads(call.arguments)) for call in calls)


async def test_a_call_comes_in_pieces_in_its_order(stage: ChatStage) -> None:
    tools = ToolUse(TOOLS, "required", allowed=("get_weather",), parallel=False)
    events = await events_of(stage, "pieces", "Weather in Rome?", tools=tools, sampling=Sampling(temperature=0.0))
    kinds = [type(event) for event in events]
    assert kinds[1:3] == [TextDone, CallStarted]
    assert kinds[-2:] == [CallDone, Finished]
    assert kinds.count(CallDelta) > 1
    done = next(event for event in events if isinstance(event, CallDone))
    assert "".join(event.arguments for event in events if isinstance(event, CallDelta)) == done.call.arguments
    assert done.call.name == "get_weather"


async def test_a_model_may_answer_in_words_or_call_and_both_are_read(stage: ChatStage) -> None:
    for seed in range(4):
        sampling = Sampling(temperature=1.0, seed=seed, max_tokens=60)
        events = await events_of(stage, f"free-{seed}", "Weather in Rome?", tools=ToolUse(TOOLS), sampling=sampling)
        assert "<tool_call>" not in text_of(events)
        assert sum(isinstance(event, TextDone) for event in events) == 1


async def test_functions_are_not_offered_where_none_may_be_called(stage: ChatStage) -> None:
    usage = [
        end_of(await events_of(stage, f"none-{number}", tools=tools, sampling=Sampling(max_tokens=1))).usage
        for number, tools in enumerate([None, ToolUse(TOOLS, "none"), ToolUse(())])
    ]
    assert len({each.input_tokens for each in usage}) == 1


async def test_a_function_that_is_not_there_can_not_be_chosen(stage: ChatStage) -> None:
    with pytest.raises(StageError, match=r"no function 'other'.*get_weather") as error:
        await events_of(stage, "other", tools=ToolUse(TOOLS, "required", allowed=("other",)))
    assert error.value.param == "tool_choice"


async def test_a_prefilled_reply_is_continued(stage: ChatStage) -> None:
    async def nothing(turn: Turn) -> Any:
        yield

    talk = (Message("user", "Count to ten."), Message("assistant", "1, 2, 3,"))
    turn = Turn("prefill", talk, Sampling(temperature=0.0, max_tokens=8, repetition_penalty=1.0), prefill=True)
    text = text_of([event async for event in stage(turn, nothing)])
    assert text.strip().startswith("4, 5")
