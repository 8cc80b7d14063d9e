"""How functions and calls stand in a prompt: as the model's own chat template has them, or in words.

Both use the form of Hermes, which Qwen and others learned: ``<tool_call>`` around a JSON object with ``name`` and
``arguments``, and ``<tool_response>`` around a result.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from pipelines.events import Message, Tool, ToolCall

OPEN, CLOSE = "<tool_call>", "</tool_call>"
RESULT_OPEN, RESULT_CLOSE = "<tool_response>", "</tool_response>"

INTRODUCTION = """# Tools

You can call these functions, given as JSON:
{tools}

To call a function, answer with a JSON object in this form, and with nothing else:
{open}
{{"name": <function-name>, "arguments": <args-json-object>}}
{close}"""


def described(tool: Tool) -> dict[str, Any]:
    """The function as chat templates take it."""
    function = {"name": tool.name, "description": tool.description, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}


def by_template(messages: Sequence[Message], defuse: Callable[[str], str]) -> list[dict[str, Any]]:
    """The conversation for a template that knows calls."""
    return [_entry(message, defuse) for message in messages]


def _entry(message: Message, defuse: Callable[[str], str]) -> dict[str, Any]:
    entry: dict[str, Any] = {"role": message.role, "content": defuse(message.content)}
    if message.calls:
        entry["tool_calls"] = [
            {"type": "function", "id": call.id, "function": {"name": call.name, "arguments": _arguments(call, defuse)}}
            for call in message.calls
        ]
    if message.call_id:
        entry["tool_call_id"] = message.call_id
    return entry


def _arguments(call: ToolCall, defuse: Callable[[str], str]) -> Any:
    """The arguments as an object, which templates want; text that is no JSON stays text."""
    text = defuse(call.arguments)
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def in_words(messages: Sequence[Message], tools: Sequence[Tool], defuse: Callable[[str], str]) -> list[dict[str, Any]]:
    """The conversation for a template that knows no calls: they are text, and results are the user's."""
    plain: list[Message] = []
    for message in messages:
        content = defuse(message.content)
        if message.calls:
            content = "\n".join([*([content] if content else []), *(_written(call, defuse) for call in message.calls)])
        if message.role != "tool":
            plain.append(Message(message.role, content))
            continue
        content = f"{RESULT_OPEN}\n{content}\n{RESULT_CLOSE}"
        if plain and plain[-1].role == "tool":
            plain[-1] = Message("tool", f"{plain[-1].content}\n{content}")
        else:
            plain.append(Message("tool", content))
    if tools:
        functions = "\n".join(json.dumps(described(tool)["function"], ensure_ascii=False) for tool in tools)
        introduction = INTRODUCTION.format(tools=functions, open=OPEN, close=CLOSE)
        if plain and plain[0].role == "system":
            plain[0] = replace(plain[0], content=f"{plain[0].content}\n\n{introduction}")
        else:
            plain.insert(0, Message("system", introduction))
    return [{"role": "user" if each.role == "tool" else each.role, "content": each.content} for each in plain]


def _written(call: ToolCall, defuse: Callable[[str], str]) -> str:
    body = json.dumps({"name": call.name, "arguments": _arguments(call, defuse)}, ensure_ascii=False)
    return f"{OPEN}\n{body}\n{CLOSE}"
