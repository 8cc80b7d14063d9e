"""Formats, several choices, prefill and habits in chat completions, through the real server with a scripted model."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import openai
import pytest
from pydantic import BaseModel

from pipelines.events import (
    Event,
    Finished,
    Format,
    StageError,
    Started,
    TextDelta,
    Turn,
    Usage,
)
from tests.server.scripts import WEATHER, Json, Scripted, completion, post, sdk, streamed, text
from tests.support import ScriptedModel, eventually, running

HI = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


# Formats


def given(schema: Json) -> str:
    return json.dumps(schema)


@pytest.mark.parametrize(
    ("asked", "form"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": None}, None),
        ({"response_format": {"type": "json_object"}}, Format("json", param="response_format")),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "strict": True, "schema": SCHEMA},
                }
            },
            Format("json_schema", given(SCHEMA), "response_format.json_schema.schema", strict=True),
        ),
        (
            {"response_format": {"type": "json_object", "schema": SCHEMA}},
            Format("json_schema", given(SCHEMA), "response_format.schema"),
        ),
        ({"guided_json": SCHEMA}, Format("json_schema", given(SCHEMA), "guided_json")),
        ({"guided_json": given(SCHEMA)}, Format("json_schema", given(SCHEMA), "guided_json")),
        ({"guided_regex": "a+"}, Format("regex", "a+", "guided_regex")),
        ({"guided_grammar": 'start: "a"'}, Format("lark", 'start: "a"', "guided_grammar")),
        ({"guided_choice": ["yes", "no (a|b)"]}, Format("regex", r"yes|no \(a\|b\)", "guided_choice")),
        ({"structured_outputs": {"json": SCHEMA}}, Format("json_schema", given(SCHEMA), "structured_outputs.json")),
        ({"structured_outputs": {"regex": "a+"}}, Format("regex", "a+", "structured_outputs.regex")),
        ({"structured_outputs": {"choice": ["a", "b"]}}, Format("regex", "a|b", "structured_outputs.choice")),
        ({"structured_outputs": {"grammar": "x"}}, Format("lark", "x", "structured_outputs.grammar")),
        ({"structured_outputs": {"json_object": True}}, Format("json", param="structured_outputs.json_object")),
        ({"structured_outputs": None, "guided_json": None, "guided_decoding_backend": "x"}, None),
    ],
)
async def test_every_form_of_a_format_reaches_the_turn(asked: Json, form: Format | None) -> None:
    model = Scripted(text("Hi"))
    async with running(model.pipeline) as server:
        status, body = await post(server, **asked)
    assert status == 200, body
    assert model.turns[0].format == form


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
        ),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_regex": "a", "guided_json": {}}, "guided_regex"),
        (
            {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
            "structured_outputs.regex",
        ),
        ({"structured_outputs": {"structural_tag": "x"}}, "structured_outputs.structural_tag"),
    ],
)
async def test_a_wrong_format_is_a_400_that_names_it(asked: Json, param: str) -> None:
    async with running(Scripted(text("Hi")).pipeline) as server:
        status, body = await post(server, **asked)
    assert (status, body["error"]["param"]) == (400, param)
    assert param.split(".")[0] in body["error"]["message"]


async def test_a_schema_that_the_compiler_refuses_is_a_400_with_its_place() -> None:
    async def refuse(turn: Turn) -> AsyncGenerator[Event]:
        raise StageError("invalid_request", "invalid_schema", "No such type.", param="guided_json")
        yield Started(1)

    async with running(Scripted(refuse).pipeline) as server:
        for stream in (False, True):
            status, body = await post(server, guided_json={"type": "wish"}, stream=stream)
            assert (status, body["error"]["code"], body["error"]["param"]) == (400, "invalid_schema", "guided_json")


async def test_the_sdk_parses_a_reply_into_a_model() -> None:
    class City(BaseModel):
        name: str

    model = Scripted(text('{"name": ', '"Paris"}'))
    async with running(model.pipeline) as server, sdk(server) as client:
        asked: Any = HI
        reply = await client.chat.completions.parse(model="x", messages=asked, response_format=City)
    assert reply.choices[0].message.parsed == City(name="Paris")
    assert model.turns[0].format is not None
    assert json.loads(model.turns[0].format.source)["required"] == ["name"]


# Several choices


async def each_its_own(turn: Turn) -> AsyncGenerator[Event]:
    yield Started(7)
    for letter in "ab":
        await asyncio.sleep(0)
        yield TextDelta(f"{turn.sampling.seed}{letter} ")
    yield Finished("stop", Usage(7, 0 if turn.sampling.seed == 5 else 6, 2))


async def test_choices_have_seeds_of_their_own_and_one_usage() -> None:
    model = Scripted(each_its_own)
    async with running(model.pipeline) as server:
        _, body = await post(server, n=3, seed=5, loquent={"session": "s"})
    reply = completion(body)
    assert [(choice.index, choice.message.content) for choice in reply.choices] == [
        (0, "5a 5b "),
        (1, "6a 6b "),
        (2, "7a 7b "),
    ]
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (7, 6, 13)
    assert reply.usage.prompt_tokens_details is not None
    assert reply.usage.prompt_tokens_details.cached_tokens == 0
    assert len({turn.id for turn in model.turns}) == 3
    assert sorted(bool(turn.session) for turn in model.turns) == [False, False, True]


async def test_choices_of_the_real_engine_have_one_prefill() -> None:
    model = ScriptedModel(["Hel", "lo."])
    asked = [{"role": "user", "content": "word " * 200}]
    async with running(model) as server:
        _, body = await post(server, n=3, messages=asked)
    assert [choice["message"]["content"] for choice in body["choices"]] == ["Hello."] * 3
    computed = sum(len(segment.tokens) for segments in model.segments for segment in segments)
    assert computed < 1.5 * body["usage"]["prompt_tokens"]


async def test_seeds_stay_within_64_bits() -> None:
    model = Scripted(text("Hi"))
    async with running(model.pipeline) as server:
        await post(server, n=2, seed=2**63 - 1)
    assert {turn.sampling.seed for turn in model.turns} == {2**63 - 1, -(2**63)}


async def test_choices_are_streamed_side_by_side() -> None:
    async with running(Scripted(each_its_own).pipeline) as server:
        sent = await streamed(server, n=2, seed=5, stream_options={"include_usage": True})
    said = {0: "", 1: ""}
    for each in sent[:-1]:
        choice = each["choices"][0]
        said[choice["index"]] += choice["delta"].get("content") or ""
    assert said == {0: "5a 5b ", 1: "6a 6b "}
    assert sorted(each["choices"][0]["index"] for each in sent[:-1] if each["choices"][0]["finish_reason"]) == [0, 1]
    order = [each["choices"][0]["index"] for each in sent[:-1]]
    assert order != sorted(order), "one came whole behind the other"
    assert sent[-1]["usage"]["completion_tokens"] == 4


@pytest.mark.parametrize("stream", [False, True])
async def test_one_failing_choice_ends_them_all(stream: bool) -> None:
    async def some_fail(turn: Turn) -> AsyncGenerator[Event]:
        yield TextDelta("Hi")
        if turn.sampling.seed == 6:
            raise StageError("overloaded", "server_overloaded", "Full.")
        await asyncio.Event().wait()

    model = Scripted(some_fail)
    async with running(model.pipeline) as server:
        if stream:
            assert (await streamed(server, n=3, seed=5))[-1]["error"]["code"] == "server_overloaded"
        else:
            status, body = await post(server, n=3, seed=5)
            assert (status, body["error"]["code"]) == (503, "server_overloaded")
        assert model.open == 0


@pytest.mark.parametrize("choices", [1, 3])
async def test_a_client_that_goes_closes_every_choice_amid_a_call(choices: int) -> None:
    async def hang(turn: Turn) -> AsyncGenerator[Event]:
        for event in WEATHER[:2]:
            yield event
        await asyncio.Event().wait()

    model = Scripted(hang)
    async with running(model.pipeline) as server:
        before = len(asyncio.all_tasks())
        asked = {"messages": HI, "stream": True, "n": choices}
        async with server.http.post(f"{server.url}/v1/chat/completions", json=asked) as response:
            await response.content.readuntil(b"\n\n")
            await eventually(lambda: model.open == choices, "all of them run")
            response.close()
        await eventually(lambda: (model.open, server.backend.requests) == (0, 0), "nothing of it is left")
        await eventually(lambda: len(asyncio.all_tasks()) <= before, "no task is left")


# Prefill and habits

START = [*HI, {"role": "assistant", "content": "The capital"}]


@pytest.mark.parametrize(
    ("asked", "prefill"),
    [
        ({"messages": START}, False),
        ({"messages": START, "continue_final_message": True}, True),
        ({"messages": START, "continue_final_message": True, "add_generation_prompt": False}, True),
        ({"messages": [*HI, START[1] | {"prefix": True}]}, True),
        ({"messages": [HI[0], START[1] | {"prefix": True}, HI[0]]}, False),
        ({"messages": START, "continue_final_message": False, "add_generation_prompt": True}, False),
    ],
)
async def test_only_a_client_that_says_so_has_its_last_message_continued(asked: Json, prefill: bool) -> None:
    model = Scripted(text(" of France"))
    async with running(model.pipeline) as server:
        status, body = await post(server, **asked)
    assert status == 200, body
    assert model.turns[0].prefill is prefill


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"messages": HI, "continue_final_message": True}, "continue_final_message"),
        ({"messages": START, "continue_final_message": True, "add_generation_prompt": True}, "add_generation_prompt"),
        ({"messages": HI, "add_generation_prompt": False}, "add_generation_prompt"),
    ],
)
async def test_what_can_not_be_continued_is_a_400(asked: Json, param: str) -> None:
    async with running(Scripted(text("Hi")).pipeline) as server:
        status, body = await post(server, **asked)
    assert (status, body["error"]["param"]) == (400, param)


HABITS: list[Json] = [
    *({"reasoning_effort": effort} for effort in ("none", "minimal", "low", "medium", "high", "xhigh", "max", None)),
    *({"verbosity": each} for each in ("low", "medium", "high", None)),
    {"prompt_cache_options": {"mode": "implicit"}, "prompt_cache_key": "x", "safety_identifier": "y"},
    {"moderation": {"input": {}}, "prediction": {"type": "content", "content": "x"}, "service_tier": "flex"},
    {"web_search_options": None, "audio": None, "modalities": ["text"], "function_call": "none", "functions": None},
    {"stop": ""},
    {"stop": []},
    {"stream_options": {"include_usage": None}, "metadata": None, "user": None, "n": 1},
    dict.fromkeys(("temperature", "top_p", "seed", "stop", "logit_bias", "logprobs", "top_logprobs", "n", "tools")),
    dict.fromkeys(("max_tokens", "max_completion_tokens", "stream", "stream_options", "tool_choice", "loquent")),
    dict.fromkeys(("parallel_tool_calls", "response_format", "presence_penalty", "frequency_penalty", "model")),
]


@pytest.mark.parametrize("habit", HABITS)
async def test_what_clients_send_as_a_habit_is_taken(habit: Json) -> None:
    model = Scripted(text("Hi"))
    async with running(model.pipeline) as server:
        status, body = await post(server, **habit)
    assert status == 200, body
    assert model.turns[0].sampling.stop == ()


async def test_top_p_of_nothing_is_greedy() -> None:
    model = Scripted(text("Hi"))
    async with running(model.pipeline) as server:
        await post(server, top_p=0, temperature=1)
    assert (model.turns[0].sampling.temperature, model.turns[0].sampling.top_p) == (0.0, None)


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x", "format": "wav"}}, "audio"),
        ({"reasoning_effort": "huge"}, "reasoning_effort"),
        ({"web_search_options": {}}, "web_search_options"),
        ({"temperature": None, "messages": None}, "messages"),
    ],
)
async def test_what_changes_the_answer_and_can_not_be_had_is_a_400(asked: Json, param: str) -> None:
    async with running(Scripted(text("Hi")).pipeline) as server, sdk(server) as client:
        with pytest.raises(openai.BadRequestError) as error:
            await client.post("/chat/completions", body={"messages": HI} | asked, cast_to=object)
    assert error.value.param == param


@pytest.mark.parametrize("number", ["1e999", "-1E+400", "1" * 400 + ".5", "9" * 5000])
async def test_a_number_beyond_all_bounds_is_no_json(number: str) -> None:
    body = '{"messages": [{"role": "user", "content": "x"}], "guided_json": {"maximum": X}}'.replace("X", number)
    async with (
        running(Scripted(text("Hi")).pipeline) as server,
        server.http.post(f"{server.url}/v1/chat/completions", data=body) as response,
    ):
        assert (response.status, (await response.json())["error"]["code"]) == (400, "invalid_json")
