"""What Home Assistant's integration for OpenAI sends over the openai package, and how it reads the answers.

The integration itself needs all of Home Assistant; its requests (``homeassistant/components/openai_conversation``) are
written down here.
"""

import json
from typing import Any

from cases import report
from openai import AsyncOpenAI
from openai.types.responses import (
    ResponseCompletedEvent,
    ResponseFunctionCallArgumentsDeltaEvent,
    ResponseFunctionCallArgumentsDoneEvent,
    ResponseFunctionToolCall,
    ResponseIncompleteEvent,
    ResponseOutputItemAddedEvent,
    ResponseTextDeltaEvent,
)

PROMPT = "You are a voice assistant for Home Assistant. Answer in plain text, simply and to the point."
STRING = {"type": "string"}
STRINGS = {"type": "array", "items": STRING}
TOOLS = [
    {
        "type": "function",
        "name": "HassTurnOn",
        "description": "Turns on/opens/presses a device or entity.",
        "parameters": {
            "type": "object",
            "properties": {
                "name": STRING,
                "area": STRING,
                "floor": STRING,
                "domain": STRINGS,
                "device_class": {"type": "array", "items": {"type": "string", "enum": ["outlet", "switch", "blind"]}},
            },
            "required": [],
        },
        "strict": False,
    },
    {
        "type": "function",
        "name": "HassLightSet",
        "description": "Sets the brightness percentage or color of a light.",
        "parameters": {
            "type": "object",
            "properties": {
                "name": STRING,
                "color": STRING,
                "temperature": {"type": "integer", "minimum": 0},
                "brightness": {"type": "integer", "minimum": 0, "maximum": 100, "description": "Percentage"},
            },
            "required": [],
        },
        "strict": False,
    },
    {
        "type": "function",
        "name": "GetLiveContext",
        "description": "Provides real-time information about the CURRENT state, value, or mode of devices.",
        "parameters": {"type": "object", "properties": {}},
        "strict": False,
    },
]
BUILT_IN = [
    {
        "type": "web_search_preview",
        "search_context_size": "medium",
        "user_location": {"type": "approximate", "city": "", "region": "", "country": "", "timezone": ""},
    },
    {"type": "code_interpreter", "container": {"type": "auto"}},
]


def _begin(question: Any) -> list[Any]:
    return [
        {"type": "message", "role": "developer", "content": PROMPT},
        {"type": "message", "role": "user", "content": question},
    ]


async def _read(stream: Any) -> tuple[str, list[Any], list[str]]:
    """The text, the calls and the kinds of the events, as the integration reads them."""
    text, calls, kinds, current = "", [], [], None
    async for event in stream:
        kinds.append(event.type)
        if isinstance(event, ResponseOutputItemAddedEvent) and isinstance(event.item, ResponseFunctionToolCall):
            current = event.item
        elif isinstance(event, ResponseTextDeltaEvent):
            text += event.delta
        elif isinstance(event, ResponseFunctionCallArgumentsDeltaEvent):
            current.arguments += event.delta
        elif isinstance(event, ResponseFunctionCallArgumentsDoneEvent):
            calls.append((current.call_id, current.name, json.loads(current.arguments)))
        elif isinstance(event, ResponseCompletedEvent | ResponseIncompleteEvent):  # a small model may ramble
            assert event.response.usage.input_tokens
            assert event.response.usage.output_tokens
    assert kinds[-1] in ("response.completed", "response.incomplete"), kinds
    return text, calls, kinds


async def _converse(address: str, messages: list[Any], **options: Any) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "model": "gpt-4o-mini",
        "input": messages,
        "max_output_tokens": 150,
        "top_p": 1.0,
        "temperature": 1.0,
        "user": "01JCONVERSATION",
        "store": False,
        "stream": True,
    } | options
    said: list[Any] = []
    text = ""
    async with AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        for _ in range(10):
            text, calls, _kinds = await _read(await client.responses.create(**arguments))
            if text:
                messages.append({"type": "message", "role": "assistant", "content": text})
            for id, name, given in calls:
                said.append({"name": name, "arguments": given})
                messages.append({"type": "function_call", "name": name, "arguments": json.dumps(given), "call_id": id})
            for id, _name, _given in calls:
                output = json.dumps({"response_type": "action_done", "data": {"success": []}})
                messages.append({"type": "function_call_output", "call_id": id, "output": output})
            if not calls:
                break
    return {"calls": said, "text": text}


async def turned_on(address: str) -> dict[str, Any]:
    return await _converse(address, _begin("Turn on the lamp in the kitchen."), tools=TOOLS, temperature=0.0)


async def reasoning_model(address: str) -> dict[str, Any]:
    """As a model that reasons is asked, with the functions of OpenAI's own."""
    return await _converse(
        address,
        _begin("Turn on the lamp in the kitchen."),
        model="gpt-5-mini",
        reasoning={"effort": "low", "summary": "auto"},
        include=["reasoning.encrypted_content", "code_interpreter_call.outputs"],
        text={"verbosity": "medium"},
        tools=[*TOOLS, *BUILT_IN],
    )


async def second_turn(address: str) -> dict[str, Any]:
    """A talk that goes on behind a call, its result and an answer."""
    messages = [
        *_begin("Turn on the lamp in the kitchen."),
        {"type": "function_call", "name": "HassTurnOn", "arguments": '{"name": "lamp"}', "call_id": "call_1"},
        {"type": "function_call_output", "call_id": "call_1", "output": '{"success": true}'},
        {"type": "message", "role": "assistant", "content": "The lamp is on."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Thank you, that is kind."}]},
    ]
    return await _converse(address, messages, tools=TOOLS, temperature=0.0)


async def structured(address: str) -> dict[str, Any]:
    """A task that generates data: the integration puts ``strict`` into the schema itself."""
    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string", "description": "Name of the character"},
            "age": {"type": ["number", "null"]},
            "size": {"type": "string", "enum": ["small", "large"]},
        },
        "required": ["name", "age", "size"],
        "strict": True,
        "additionalProperties": False,
    }
    form = {"format": {"type": "json_schema", "name": "a_character", "schema": schema}}
    told = await _converse(address, _begin("Make up a character of a game."), text=form, temperature=0.0)
    return json.loads(told["text"])


report(turned_on, reasoning_model, second_turn, structured)
