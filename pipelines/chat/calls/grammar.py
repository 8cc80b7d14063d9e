"""The grammar of a reply that calls functions: every call names one of them, with arguments that fit its schema."""

from collections.abc import Callable, Mapping, Sequence
from json import dumps, loads
from typing import Any

from pipelines.chat.calls.prompt import CLOSE, OPEN
from pipelines.chat.model.interface import Grammar
from pipelines.chat.model.schemas import LENIENT, closed
from pipelines.events import Format, Tool

MOST_CALLS = 8  # of one reply
NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


def of_calls(tools: Sequence[Tool], quoted: Callable[[str], str], *, parallel: bool) -> Grammar:
    """A reply of one call, or of several."""
    return _grammar([f"start: opening {_calls(parallel)}"], tools, quoted, json=True)


def of_text_or_calls(
    tools: Sequence[Tool], quoted: Callable[[str], str], *, parallel: bool, text: Format | None = None
) -> Grammar:
    """A reply that may call functions, and otherwise is text, or JSON of a schema."""
    calls = _calls(parallel)
    if text is not None and text.kind in ("json", "json_schema"):
        schema = loads(text.source) if text.kind == "json_schema" else {"type": "object"}
        rules = [f"start: written | opening {calls}", f"written: {_json(schema)}"]
    elif quoted(OPEN).startswith("<"):  # a token of its own, which text does not contain
        rules = [f"start: WORDS | WORDS opening {calls}", r"WORDS: /(.|\n)*/"]
    else:
        rules = [f"start: WORDS | until {calls}", f"until[lazy]: WORDS {quoted(OPEN)}", r"WORDS: /(.|\n)*/"]
    return _grammar(rules, tools, quoted)


def _calls(parallel: bool) -> str:
    """The rules of calls behind the first one's opening."""
    return "call" + (f' ("\\n" opening call){{0,{MOST_CALLS - 1}}}' if parallel else "")


def _grammar(
    rules: Sequence[str], tools: Sequence[Tool], quoted: Callable[[str], str], *, json: bool = False
) -> Grammar:
    head, tail = dumps('\n{"name": '), dumps("}\n")
    named = [f"named_{number}" for number in range(len(tools))]
    lines = [
        *rules,
        f"opening: {quoted(OPEN)}",
        f"call: {head} named {tail} {quoted(CLOSE)}",
        f"named: {' | '.join(named)}",
    ]
    for rule, tool in zip(named, tools, strict=True):
        begin = dumps(f'{dumps(tool.name)}, "arguments": ')
        lines.append(f"{rule}: {begin} {_json(arguments_of(tool))}")
    return Grammar("lark", "\n".join(lines), json=json)


def arguments_of(tool: Tool) -> dict[str, Any]:
    """The schema of the arguments, which are an object."""
    schema = closed(dict(tool.parameters))
    if not schema:
        return dict(NO_ARGUMENTS)
    return schema if "type" in schema or "properties" not in schema else {"type": "object", **schema}


def _json(schema: Mapping[str, Any]) -> str:
    return f"%json {dumps({**schema, 'x-guidance': LENIENT})}"
