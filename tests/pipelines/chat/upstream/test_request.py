"""A turn as the upstream is asked."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from pipelines.chat.settings import ChatSettings
from pipelines.chat.upstream.request import body_of
from pipelines.chat.upstream.settings import in_the_clear
from pipelines.chat.writing import writing_of
from pipelines.events import Format, Message, Sampling, StageError, Tool, ToolCall, ToolUse, Turn

URL = "http://127.0.0.1:1/v1"
HI = (Message("user", "Hi"),)
WEATHER = Tool("weather", "The weather of a city.", {"type": "object", "properties": {"city": {"type": "string"}}})
CLOCK = Tool("clock", "The time.")


def settings(upstream: dict[str, Any] | None = None, **chat: Any) -> ChatSettings:
    return ChatSettings.model_validate({"engine": "openai", "upstream": {"urls": [URL]} | (upstream or {})} | chat)


async def body(turn: Turn, **chat: Any) -> dict[str, Any]:
    return body_of(turn, await writing_of(turn, None, 0), settings(**chat), "m")


async def test_a_plain_turn_adds_no_parameters() -> None:
    assert await body(Turn("t", HI)) == {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 512,
    }


async def test_sampling_has_the_names_that_servers_know() -> None:
    sampling = Sampling(
        temperature=0.0,
        top_p=0.9,
        seed=-3,
        max_tokens=9,
        stop=("\n",),
        top_k=40,
        min_p=0.1,
        repetition_penalty=1.1,
        presence_penalty=0.5,
        frequency_penalty=0.25,
        logit_bias=((7, -100.0),),
        ignore_eos=True,
        logprobs=3,
    )
    asked = await body(Turn("t", HI, sampling))
    assert {
        key: value for key, value in asked.items() if key not in ("model", "messages", "stream", "stream_options")
    } == {
        "temperature": 0.0,
        "top_p": 0.9,
        "seed": -3,
        "max_tokens": 9,
        "stop": ["\n"],
        "top_k": 40,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "presence_penalty": 0.5,
        "frequency_penalty": 0.25,
        "logit_bias": {"7": -100.0},
        "ignore_eos": True,
        "logprobs": True,
        "top_logprobs": 3,
    }


async def test_what_is_configured_is_sent_where_the_client_says_nothing() -> None:
    asked = await body(Turn("t", HI, Sampling(temperature=0.0)), temperature=0.7, top_k=5, max_tokens=77)
    assert (asked["temperature"], asked["top_k"], asked["max_tokens"]) == (0.0, 5, 77)


async def test_calls_and_results_stand_in_the_history() -> None:
    talk = (
        Message("user", "Weather?"),
        Message("assistant", "", calls=(ToolCall("c1", "weather", '{"city": "Rome"}'),)),
        Message("tool", "sunny", call_id="c1"),
    )
    assert (await body(Turn("t", talk)))["messages"][1:] == [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
            ],
        },
        {"role": "tool", "content": "sunny", "tool_call_id": "c1"},
    ]


@pytest.mark.parametrize(
    ("use", "names", "choice", "parallel"),
    [
        (ToolUse((WEATHER, CLOCK)), ["weather", "clock"], None, None),
        (ToolUse((WEATHER, CLOCK), "required"), ["weather", "clock"], "required", None),
        (ToolUse((WEATHER, CLOCK), "required", ("clock",)), ["clock"], "required", None),
        (ToolUse((WEATHER, CLOCK), "auto", ("clock",)), ["clock"], None, None),
        (ToolUse((WEATHER,), parallel=False), ["weather"], None, False),
        (ToolUse((WEATHER,), "none"), None, None, None),
    ],
)
async def test_functions_are_offered(use: ToolUse, names: Any, choice: Any, parallel: Any) -> None:
    asked = await body(Turn("t", HI, tools=use))
    offered = [tool["function"]["name"] for tool in asked["tools"]] if "tools" in asked else None
    assert (offered, asked.get("tool_choice"), asked.get("parallel_tool_calls")) == (names, choice, parallel)
    for tool in asked.get("tools", ()):
        assert tool["function"]["parameters"]["type"] == "object"


@pytest.mark.parametrize("strict", [True, False, None])
async def test_whether_a_function_is_strict_is_the_clients_word(strict: bool | None) -> None:
    asked = await body(Turn("t", HI, tools=ToolUse((Tool("weather", strict=strict),), "auto")))
    assert asked["tools"][0]["function"].get("strict") is strict


async def test_a_schema_is_passed_on_and_a_grammar_refused() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    asked = await body(Turn("t", HI, format=Format("json_schema", json.dumps(schema), "response_format", True)))
    assert asked["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "response", "schema": schema, "strict": True},
    }
    assert (await body(Turn("t", HI, format=Format("json"))))["response_format"] == {"type": "json_object"}
    for kind in ("regex", "lark"):
        with pytest.raises(StageError, match="runs elsewhere") as refused:
            await body(Turn("t", HI, format=Format(kind, "a+", "guided_regex")))
        assert (refused.value.kind, refused.value.param) == ("invalid_request", "guided_regex")


async def test_a_reply_that_goes_on_says_so() -> None:
    asked = await body(Turn("t", (*HI, Message("assistant", "Once")), prefill=True))
    assert (asked["continue_final_message"], asked["add_generation_prompt"]) == (True, False)


@pytest.mark.parametrize(
    "url",
    ["ftp://a/v1", "a:8000/v1", "http://", "http://a b/v1", "http://a/v1?x=1", "http://a:99999/v1", "http://u:p@a/v1"],
)
def test_what_is_no_address_is_an_error(url: str) -> None:
    with pytest.raises(ValidationError, match="address"):
        settings({"urls": [url]})


@pytest.mark.parametrize(
    ("given", "read"),
    [("http://a", "http://a/v1"), ("http://a:1/", "http://a:1/v1"), ("https://a/x/v1/", "https://a/x/v1")],
)
def test_an_address_without_a_path_means_v1(given: str, read: str) -> None:
    assert settings({"urls": [given]}).upstream.urls == (read,)


def test_an_engine_elsewhere_needs_an_address() -> None:
    with pytest.raises(ValidationError, match="urls"):
        ChatSettings(engine="openai")
    with pytest.raises(ValidationError, match="repetition_prompt"):
        settings(repetition_prompt=True)
    with pytest.raises(ValidationError, match="twice"):
        settings({"urls": [URL, URL + "/"]})


@pytest.mark.parametrize(
    ("url", "clear"),
    [
        ("http://127.0.0.1/v1", False),
        ("http://[::1]:1/v1", False),
        ("http://localhost/v1", False),
        ("https://a/v1", False),
        ("http://10.0.0.5/v1", True),
        ("http://a/v1", True),
    ],
)
def test_plain_http_to_another_machine_is_in_the_clear(url: str, clear: bool) -> None:
    assert in_the_clear(url) == clear


@pytest.mark.parametrize("key", ["a b", "a\nb", "schlüssel"])
def test_a_key_that_no_header_can_hold_is_an_error(key: str) -> None:
    with pytest.raises(ValidationError, match="ASCII"):
        settings({"key": key})
