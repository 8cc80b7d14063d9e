"""Thousands of bodies that are almost right: none of them is the server's fault, and every answer is JSON."""

import copy
import itertools
import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from tests.mutations import mutated
from tests.server.scripts import WEATHER, Json, Scripted, calls, text
from tests.support import running

BODIES = 5000
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
FUNCTION = {"name": "weather", "description": "Of a city", "parameters": SCHEMA, "strict": True}
ASKED = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}

CHAT: Json = {
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": [ASKED]},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "sunny"}]},
        {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": "{}"}},
        {"role": "function", "name": "weather", "content": "sunny"},
        {"role": "assistant", "content": "It is", "prefix": True},
    ],
    "tools": [{"type": "function", "function": FUNCTION}, {"name": "time"}, {"type": "mcp", "server_label": "x"}],
    "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [{"name": "time"}]}},
    "functions": None,
    "function_call": "none",
    "parallel_tool_calls": False,
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}},
    "structured_outputs": None,
    "n": 2,
    "stream": True,
    "stream_options": {"include_usage": True},
    "continue_final_message": True,
    "add_generation_prompt": False,
    "temperature": 1,
    "top_p": 0,
    "seed": 3,
    "stop": ["x"],
    "logit_bias": {"5": 1},
    "logprobs": True,
    "top_logprobs": 2,
    "loquent": {"session": "s"},
}
LEGACY: Json = {
    "messages": [{"role": "user", "content": "Weather?"}],
    "functions": [FUNCTION],
    "function_call": {"name": "weather"},
    "guided_choice": ["a", "b"],
    "stream": False,
}
RESPONSE: Json = {
    "input": [
        {"role": "developer", "content": "Be kind."},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "a", "annotations": []}]},
        {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": [{"type": "input_text", "text": "sunny"}]},
    ],
    "instructions": "Be brief.",
    "tools": [{"type": "function", **FUNCTION}, {"name": "time"}, {"type": "web_search"}],
    "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "time"}]},
    "text": {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}, "verbosity": "low"},
    "reasoning": {"effort": "low", "summary": "auto"},
    "metadata": {"a": "b"},
    "include": ["message.output_text.logprobs"],
    "top_logprobs": 2,
    "max_output_tokens": 9,
    "truncation": "auto",
    "store": True,
    "stream": True,
    "user": "u",
}
SHORT: Json = {"input": "Hi", "previous_response_id": None, "conversation": None, "max_tool_calls": 3, "stream": False}

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e308, "", " ", "auto", "none",
    "required", "function", "message", "item_reference", "\x00", "💥", "a" * 5000, [], {}, [[]], [None], [{}],
    {"": None}, {"type": "function"}, {"type": "message"}, {"type": "item_reference", "id": "x"}, {"id": "x"},
    {"name": "weather"},
)  # fmt: skip


def spots(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container and key within."""
    keys: Any = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from spots(value[key])


def almost(body: Json, chance: random.Random, texts: Iterator[str]) -> Json:
    """The body with one to four changes at random spots."""
    changed = copy.deepcopy(body)
    for _ in range(chance.choice((1, 1, 2, 4))):
        container, key = chance.choice(list(spots(changed)))
        match chance.randrange(6):
            case 0 | 1:
                container[key] = copy.deepcopy(chance.choice(ODD))
            case 2:
                container[key] = next(texts).encode("utf-8", "replace").decode()
            case 3:
                del container[key]
                if not changed:
                    return changed
            case 4:
                other, where = chance.choice(list(spots(body)))
                container[key] = copy.deepcopy(other[where])
            case _ if isinstance(container, list):
                container.extend(copy.deepcopy(container) * chance.choice((1, 3)))
            case _:
                container[next(texts)[:20].encode("utf-8", "replace").decode()] = container[key]
    return changed


@pytest.mark.parametrize(
    ("path", "bodies"),
    [("chat/completions", (CHAT, LEGACY)), ("responses", (RESPONSE, SHORT))],
    ids=["chat", "responses"],
)
async def test_no_body_is_the_servers_fault(path: str, bodies: tuple[Json, ...]) -> None:
    chance, texts = random.Random(16), mutated(16, 10 * BODIES)
    scripts = itertools.cycle((text("Hi"), calls(WEATHER, said="Hi")))
    model = Scripted(text("Hi"))
    seen: dict[int, int] = {}
    async with running(model.pipeline) as server:
        for body in bodies:
            async with server.http.post(f"{server.url}/v1/{path}", json=body) as answer:
                assert answer.status == 200, "the body that the others are made of is right"
        for number in range(BODIES):
            model.follow(next(scripts))
            raw = json.dumps(almost(bodies[number % len(bodies)], chance, texts)).encode()
            if chance.random() < 0.05:
                at = chance.randrange(len(raw))
                raw = raw[:at] + chance.choice((b"", b"\xff", b"1e999", b'"', b"{")) + raw[at + 1 :]
            async with server.http.post(f"{server.url}/v1/{path}", data=raw) as answer:
                sent = await answer.text()
            assert answer.status < 500, (answer.status, sent, raw)
            assert "internal_error" not in sent, (sent, raw)
            if answer.status >= 400:
                assert json.loads(sent)["error"]["message"]
            elif answer.content_type == "application/json":
                json.loads(sent, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
            seen[answer.status] = seen.get(answer.status, 0) + 1
        assert server.backend.requests == 0
    assert model.open == 0
    assert seen[200] > BODIES / 50, seen
    assert seen[400] > BODIES / 5, seen
