"""What a request to ``/v1/responses`` may say, through the real server with a scripted model."""

import json
from typing import Any

import pytest

from pipelines.events import (
    Format,
    Message,
    Tool,
    ToolCall,
    ToolUse,
)
from tests.server.scripts import (
    Json,
    Scripted,
    respond,
    response,
    text,
)
from tests.support import running

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"type": "function", "name": "weather", "description": "Of a city", "parameters": SCHEMA, "strict": True}
OFFERED = (Tool("weather", "Of a city", SCHEMA, strict=True), Tool("time"))
TOOLS = [FUNCTION, {"name": "time"}]


# Input

PHOTO = {"type": "input_image", "image_url": "x"}


@pytest.mark.parametrize(
    ("input", "read"),
    [
        ("Hi", [Message("user", "Hi")]),
        ([{"role": "user", "content": "Hi"}], [Message("user", "Hi")]),
        ([{"role": "developer", "content": "Be kind"}], [Message("system", "Be kind")]),
        ([{"role": "system", "content": "Be kind", "type": "message"}], [Message("system", "Be kind")]),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}]}],
            [Message("user", "ab")],
        ),
        (
            [
                {
                    "type": "message",
                    "id": "msg_1",
                    "status": "completed",
                    "role": "assistant",
                    "content": [{"type": "output_text", "text": "Yes", "annotations": []}],
                },
                {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}], "phase": None},
            ],
            [Message("assistant", "Yes"), Message("assistant", "No.")],
        ),
        (
            [
                {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
                {"role": "assistant", "content": "Let me see."},
                {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city": "Paris"}'},
                {"type": "function_call", "call_id": "c2", "name": "time", "arguments": ""},
                {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
                {"type": "function_call_output", "call_id": "c2", "output": [{"type": "input_text", "text": "noon"}]},
            ],
            [
                Message(
                    "assistant",
                    "Let me see.",
                    calls=(ToolCall("c1", "weather", '{"city": "Paris"}'), ToolCall("c2", "time", "{}")),
                ),
                Message("tool", "sunny", call_id="c1"),
                Message("tool", "noon", call_id="c2"),
            ],
        ),
    ],
)
async def test_every_kind_of_item_is_read(input: Any, read: list[Message]) -> None:
    model = Scripted(text("Hi"))
    async with running(model.pipeline) as server:
        status, body = await respond(server, input=input)
    assert status == 200, body
    assert list(model.turns[0].messages) == read


@pytest.mark.parametrize(
    ("input", "param", "said"),
    [
        ([{"role": "user", "content": [{"type": "input_text", "text": "a"}, PHOTO]}], "input.0.content.1", "images"),
        ([{"role": "user", "content": [{"type": "input_file"}]}], "input.0.content.0", "files"),
        ([{"role": "user"}], "input.0.content", "required"),
        ([{"role": "wizard", "content": "x"}], "input.0.role", "user"),
        ([{"type": "message", "content": "x"}], "input.0.role", "required"),
        ([{"type": "computer_call_output", "call_id": "x"}], "input.0", "computer_call_output"),
        ([{"type": "function_call", "name": "x"}], "input.0.call_id", "required"),
        (
            [{"type": "function_call", "name": "x", "call_id": "c", "arguments": "{"}],
            "input.0.arguments",
            "JSON object",
        ),
        ([{"type": "function_call_output", "call_id": "c", "output": [PHOTO]}], "input.0.output.0", "images"),
        ([{"type": "function_call_output", "call_id": "c"}], "input.0.output", "required"),
        ([], "input", "required"),
        (None, "input", "required"),
        (7, "input", "a string or a list"),
        ([7], "input.0", "dictionary"),
    ],
)
async def test_an_item_that_can_not_be_read_is_a_400_at_its_own_place(input: Any, param: str, said: str) -> None:
    async with running(Scripted(text("Hi")).pipeline) as server:
        status, body = await respond(server, input=input)
    assert (status, body["error"]["param"]) == (400, param), body
    assert said in body["error"]["message"]


@pytest.mark.parametrize(
    ("asked", "use", "choice"),
    [
        ({"tools": TOOLS}, ToolUse(OFFERED), "auto"),
        ({"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}, None, "required"),
        ({"tools": TOOLS, "tool_choice": "none"}, ToolUse(OFFERED, "none"), "none"),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "name": "time"}},
            ToolUse(OFFERED, "required", ("time",)),
            {"type": "function", "name": "time"},
        ),
        (
            {"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"name": "time"}]}},
            ToolUse(OFFERED, "required", ("time",)),
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "time"}]},
        ),
        ({"tools": []}, None, "auto"),
    ],
)
async def test_tools_reach_the_turn_and_are_repeated(asked: Json, use: ToolUse | None, choice: Any) -> None:
    if choice == "required":
        use = ToolUse(OFFERED, "required", parallel=False)
    model = Scripted(text("Hi"))
    async with running(model.pipeline) as server:
        status, body = await respond(server, **asked)
    assert status == 200, body
    assert model.turns[0].tools == use
    made = response(body)
    assert body["tool_choice"] == choice
    assert [tool.type for tool in made.tools] == ["function"] * len(asked["tools"])
    assert made.parallel_tool_calls is asked.get("parallel_tool_calls", True)


async def test_built_in_tools_are_not_offered_and_that_is_said() -> None:
    others = [{"type": "mcp", "server_label": "x", "server_url": 7}, {"type": "web_search_preview"}]
    model = Scripted(text("Hi"))
    async with running(model.pipeline) as server:
        _, body = await respond(server, tools=[*others, *TOOLS], max_tool_calls=3)
        status, refused = await respond(server, tools=others, tool_choice={"type": "web_search_preview"})
    assert model.turns[0].tools == ToolUse(OFFERED)
    assert [sent.split("'")[1] for sent in body["loquent"]["warnings"]] == ["mcp", "web_search_preview"]
    assert response(body).max_tool_calls == 3
    assert (status, refused["error"]["param"]) == (400, "tool_choice")


@pytest.mark.parametrize(
    ("form", "format"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, Format("json", param="text.format")),
        (
            {"type": "json_schema", "name": "city", "schema": SCHEMA, "strict": True},
            Format("json_schema", json.dumps(SCHEMA), "text.format.schema", strict=True),
        ),
    ],
)
async def test_the_texts_format_reaches_the_turn_and_is_repeated(form: Json, format: Format | None) -> None:
    model = Scripted(text("{}"))
    async with running(model.pipeline) as server:
        status, body = await respond(server, text={"format": form, "verbosity": "low"})
    assert status == 200, body
    assert model.turns[0].format == format
    response(body)
    assert body["text"]["format"] == form | ({"description": None} if "schema" in form else {})
    assert body["text"]["verbosity"] == "low"


@pytest.mark.parametrize(
    ("asked", "param"),
    [
        ({"background": True}, "background"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"previous_response_id": "resp_1", "conversation": "conv_1"}, "conversation"),
        ({"truncation": "some"}, "truncation"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"reasoning": {"effort": "huge"}}, "reasoning.effort"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"max_output_token": 5}, "max_output_token"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"tools": [{"type": "function"}]}, "tools.0"),
    ],
)
async def test_what_can_not_be_had_is_a_400_that_names_it(asked: Json, param: str) -> None:
    async with running(Scripted(text("Hi")).pipeline) as server:
        status, body = await respond(server, **asked)
    assert (status, body["error"]["param"]) == (400, param), body


HABITS: list[Json] = [
    {"reasoning": {"effort": "medium", "summary": "auto"}, "include": ["reasoning.encrypted_content"]},
    {"service_tier": "auto", "safety_identifier": "x", "prompt_cache_key": "y", "prompt_cache_options": {"ttl": "30m"}},
    {"background": False, "context_management": None, "stream_options": {"include_obfuscation": False}},
    {"client_metadata": {"a": "b"}, "moderation": {}, "prompt": None, "top_p": 0},
    dict.fromkeys(("model", "instructions", "previous_response_id", "conversation", "store", "stream", "tools")),
    dict.fromkeys(("tool_choice", "parallel_tool_calls", "max_tool_calls", "max_output_tokens", "truncation", "text")),
    dict.fromkeys(("reasoning", "include", "top_logprobs", "metadata", "user", "temperature", "top_p", "loquent")),
    {"seed": 5, "stop": ["x"], "top_k": 4},
]


@pytest.mark.parametrize("habit", HABITS)
async def test_what_clients_send_as_a_habit_is_taken(habit: Json) -> None:
    async with running(Scripted(text("Hi")).pipeline) as server:
        status, body = await respond(server, **habit)
    assert status == 200, body
    response(body)


@pytest.mark.parametrize(("truncation", "overflow"), [("auto", "trim"), ("disabled", "error"), (None, None)])
async def test_truncation_reaches_the_turn(truncation: Any, overflow: Any) -> None:
    model = Scripted(text("Hi"))
    async with running(model.pipeline) as server:
        _, body = await respond(server, truncation=truncation, instructions="Be kind.", max_output_tokens=9)
    assert model.turns[0].overflow == overflow
    assert model.turns[0].sampling.max_tokens == 9
    assert model.turns[0].messages[0] == Message("system", "Be kind.")
    assert body["truncation"] == (truncation or "disabled")
