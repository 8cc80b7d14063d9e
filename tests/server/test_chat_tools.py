"""Tools, formats, several choices and prefill in chat completions, through the real server with a scripted model."""

from typing import Any

import pytest

from pipelines.events import (
    Message,
    Tool,
    ToolCall,
    ToolUse,
)
from tests.server.scripts import WEATHER, Json, Scripted, call, calls, completion, post, sdk, streamed, text
from tests.support import running

HI = [{"role": "user", "content": "Hi"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "weather", "description": "Of a city", "parameters": SCHEMA}
TOOLS = [{"type": "function", "function": FUNCTION}, {"type": "function", "function": {"name": "time"}}]
OFFERED = (Tool("weather", "Of a city", SCHEMA), Tool("time"))
NAMED = {"type": "function", "function": {"name": "time"}}


# Tools


@pytest.mark.parametrize(
    ("asked", "use"),
    [
        ({"tools": TOOLS}, ToolUse(OFFERED)),
        ({"tools": [FUNCTION, {"function": {"name": "time"}}]}, ToolUse(OFFERED)),
        ({"tools": [{"type": "function", **FUNCTION}, {"name": "time"}]}, ToolUse(OFFERED)),
        ({"tools": TOOLS, "tool_choice": None, "parallel_tool_calls": None}, ToolUse(OFFERED)),
        ({"tools": TOOLS, "tool_choice": "none"}, ToolUse(OFFERED, "none")),
        ({"tools": TOOLS, "tool_choice": "required"}, ToolUse(OFFERED, "required")),
        ({"tools": TOOLS, "tool_choice": "any"}, ToolUse(OFFERED, "required")),
        ({"tools": TOOLS, "tool_choice": NAMED}, ToolUse(OFFERED, "required", ("time",))),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "name": "time"}},
            ToolUse(OFFERED, "required", ("time",)),
        ),
        (
            {
                "tools": TOOLS,
                "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED]}},
            },
            ToolUse(OFFERED, "auto", ("time",)),
        ),
        ({"tools": TOOLS, "parallel_tool_calls": False}, ToolUse(OFFERED, parallel=False)),
        ({"tools": []}, None),
        ({"tool_choice": "none"}, None),
        ({"tool_choice": "auto", "tools": None}, None),
        ({"functions": [FUNCTION, {"name": "time"}]}, ToolUse(OFFERED, parallel=False)),
        (
            {"functions": [FUNCTION, {"name": "time"}], "function_call": "none"},
            ToolUse(OFFERED, "none", parallel=False),
        ),
        (
            {"functions": [FUNCTION, {"name": "time"}], "function_call": {"name": "time"}},
            ToolUse(OFFERED, "required", ("time",), parallel=False),
        ),
        ({"function_call": "none", "functions": []}, None),
    ],
)
async def test_every_form_of_offering_functions_reaches_the_turn(asked: Json, use: ToolUse | None) -> None:
    model = Scripted(text("Hi"))
    async with running(model.pipeline) as server:
        status, body = await post(server, **asked)
    assert status == 200, body
    assert [turn.tools for turn in model.turns] == [use]


@pytest.mark.parametrize(
    ("asked", "param", "said"),
    [
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "'x'"),
        ({"tool_choice": "required"}, "tool_choice", "no function is offered"),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice", "auto, none, required"),
        ({"tools": TOOLS, "tool_choice": {"type": "web_search"}}, "tool_choice", "web_search"),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice", "names no function"),
        ({"tools": [*TOOLS, FUNCTION]}, "tools", "two functions named 'weather'"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name", "pattern"),
        ({"tools": [{"name": "a b"}]}, "tools.0.name", "pattern"),
        ({"tools": [{"name": "a", "parameters": []}]}, "tools.0.parameters", "dictionary"),
        ({"functions": [FUNCTION], "function_call": {"name": "x"}}, "function_call", "'x'"),
        ({"functions": [FUNCTION], "tools": TOOLS}, "functions", "not both"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": []}},
            "tool_choice",
            "no function is allowed",
        ),
    ],
)
async def test_a_wrong_offer_is_a_400_that_names_it(asked: Json, param: str, said: str) -> None:
    async with running(Scripted(text("Hi")).pipeline) as server:
        status, body = await post(server, **asked)
    assert (status, body["error"]["param"]) == (400, param)
    assert said in body["error"]["message"]
    assert param.split(".")[0] in body["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
async def test_tools_of_other_types_are_not_offered_and_that_is_said(stream: bool) -> None:
    others = [{"type": "mcp", "server_label": "x", "name": 7}, {"type": "web_search"}, {"type": "custom", "custom": {}}]
    model = Scripted(text("Hi"))
    async with running(model.pipeline) as server:
        if stream:
            body = (await streamed(server, tools=[*others, *TOOLS]))[-1]
        else:
            _, body = await post(server, tools=[*others, *TOOLS])
    assert model.turns[0].tools == ToolUse(OFFERED)
    assert [text.split("'")[1] for text in body["loquent"]["warnings"]] == ["custom", "mcp", "web_search"]


async def test_calls_are_sent_as_the_sdk_knows_them() -> None:
    script = calls(WEATHER, call("call_2", "time", "{}"))
    async with running(Scripted(script).pipeline) as server:
        _, body = await post(server, tools=TOOLS)
    choice = completion(body).choices[0]
    assert (choice.finish_reason, choice.message.content) == ("tool_calls", None)
    assert body["choices"][0]["message"]["tool_calls"] == [
        {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}},
        {"id": "call_2", "type": "function", "function": {"name": "time", "arguments": "{}"}},
    ]


async def test_text_before_a_call_is_content() -> None:
    async with running(Scripted(calls(WEATHER, said="Let me see.")).pipeline) as server:
        _, body = await post(server, tools=TOOLS)
        sent = await streamed(server, tools=TOOLS)
    assert completion(body).choices[0].message.content == "Let me see."
    assert [each["choices"][0]["delta"].get("content") for each in sent[:2]] == ["", "Let me see."]


async def test_a_call_that_is_cut_short_is_sent_as_far_as_it_came() -> None:
    cut = calls(WEATHER[:2], reason="length")
    async with running(Scripted(cut).pipeline) as server:
        _, body = await post(server, tools=TOOLS)
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == '{"city": '


async def test_calls_are_streamed_name_first_and_then_their_arguments() -> None:
    async with running(Scripted(calls(WEATHER, call("call_2", "time", "{}"))).pipeline) as server:
        sent = await streamed(server, tools=TOOLS)
    first, *deltas, last = [each["choices"][0] for each in sent]
    assert first["delta"] == {"role": "assistant", "content": None, "refusal": None}
    assert [each["delta"]["tool_calls"] for each in deltas] == [
        [{"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}],
        [{"index": 0, "function": {"arguments": '{"city": '}}],
        [{"index": 0, "function": {"arguments": '"Paris"}'}}],
        [{"index": 1, "id": "call_2", "type": "function", "function": {"name": "time", "arguments": ""}}],
        [{"index": 1, "function": {"arguments": "{}"}}],
    ]
    assert (last["delta"], last["finish_reason"]) == ({}, "tool_calls")


async def test_a_client_of_old_gets_function_call() -> None:
    async with running(Scripted(calls(WEATHER)).pipeline) as server:
        _, body = await post(server, functions=[FUNCTION])
        sent = await streamed(server, functions=[FUNCTION])
    choice = completion(body).choices[0]
    assert (choice.finish_reason, choice.message.tool_calls) == ("function_call", None)
    assert body["choices"][0]["message"]["function_call"] == {"name": "weather", "arguments": '{"city": "Paris"}'}
    assert [each["choices"][0]["delta"].get("function_call") for each in sent] == [
        None,
        {"name": "weather", "arguments": ""},
        {"arguments": '{"city": '},
        {"arguments": '"Paris"}'},
        None,
    ]
    assert sent[-1]["choices"][0]["finish_reason"] == "function_call"


async def test_the_sdks_stream_helper_puts_a_call_together() -> None:
    tools: Any = [{"type": "function", "function": FUNCTION | {"strict": True}}]
    async with running(Scripted(calls(WEATHER)).pipeline) as server, sdk(server) as client:
        asked: Any = HI
        async with client.chat.completions.stream(model="x", messages=asked, tools=tools) as stream:
            kinds = [event.type async for event in stream]
            final = await stream.get_final_completion()
    made = final.choices[0].message.tool_calls
    assert made is not None
    assert (made[0].function.name, made[0].function.arguments) == ("weather", '{"city": "Paris"}')
    assert "tool_calls.function.arguments.done" in kinds


# Histories

ASKED = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
PART = {"type": "text"}
CALL = (ToolCall("c1", "weather", '{"city": "Paris"}'),)


@pytest.mark.parametrize(
    ("history", "read"),
    [
        (
            [
                {"role": "assistant", "content": None, "tool_calls": [ASKED]},
                {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
            ],
            [Message("assistant", "", calls=CALL), Message("tool", "sunny", call_id="c1")],
        ),
        (
            [
                {"role": "assistant", "tool_calls": [ASKED], "refusal": None, "audio": None},
                {"role": "tool", "tool_call_id": "c1", "content": [PART | {"text": "sun"}, PART | {"text": "ny"}]},
            ],
            [Message("assistant", "", calls=CALL), Message("tool", "sunny", call_id="c1")],
        ),
        (
            [
                {"role": "assistant", "content": "", "function_call": {"name": "weather", "arguments": "{}"}},
                {"role": "function", "name": "weather", "content": "sunny"},
            ],
            [
                Message("assistant", "", calls=(ToolCall("call_1", "weather", "{}"),)),
                Message("tool", "sunny", call_id="call_1"),
            ],
        ),
        (
            [{"role": "assistant", "content": [{"type": "refusal", "refusal": "I can't."}]}],
            [Message("assistant", "I can't.")],
        ),
        ([{"role": "assistant", "content": None, "refusal": "No."}], [Message("assistant", "No.")]),
        (
            [{"role": "assistant", "content": None, "tool_calls": [ASKED | {"function": {"name": "time"}}]}],
            [Message("assistant", "", calls=(ToolCall("c1", "time", "{}"),))],
        ),
        ([{"role": "assistant", "content": "Yes?", "prefix": False}], [Message("assistant", "Yes?")]),
    ],
)
async def test_a_history_with_calls_is_read(history: list[Json], read: list[Message]) -> None:
    model = Scripted(text("Hi"))
    async with running(model.pipeline) as server:
        status, body = await post(server, messages=[*HI, *history])
    assert status == 200, body
    assert list(model.turns[0].messages) == [Message("user", "Hi"), *read]
    assert not model.turns[0].prefill


@pytest.mark.parametrize(
    ("message", "param", "said"),
    [
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
            "messages.0.content.0",
            "images",
        ),
        (
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "file"}]},
            "messages.0.content.1",
            "files",
        ),
        ({"role": "user", "content": [{"type": "input_audio"}]}, "messages.0.content.0", "audio"),
        ({"role": "user", "content": [{"type": "hologram"}]}, "messages.0.content.0", "hologram"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages.0.content.0", "needs text"),
        ({"role": "user", "content": [{"type": "text", "text": 7}]}, "messages.0.content.0.text", "string"),
        ({"role": "user", "content": 7}, "messages.0.content", "a string or a list of parts"),
        ({"role": "user", "content": None}, "messages.0.content", "required"),
        ({"role": "tool", "content": "x"}, "messages.0.tool_call_id", "required"),
        (
            {"role": "assistant", "tool_calls": [{"id": "a", "type": "custom", "custom": {"name": "x", "input": ""}}]},
            "messages.0.tool_calls.0",
            "type function",
        ),
        (
            {"role": "assistant", "tool_calls": [ASKED | {"function": {"name": "x", "arguments": "[1"}}]},
            "messages.0.tool_calls.0.function.arguments",
            "JSON object",
        ),
    ],
)
async def test_a_message_that_can_not_be_read_is_a_400_at_its_own_place(message: Json, param: str, said: str) -> None:
    async with running(Scripted(text("Hi")).pipeline) as server:
        status, body = await post(server, messages=[message])
    assert (status, body["error"]["param"]) == (400, param)
    assert said in body["error"]["message"]
