"""What the model is to write in a turn: free text, text of a format, function calls, or either."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.chat.calls.choice import Chooser
from pipelines.chat.calls.grammar import arguments_of, of_calls, of_text_or_calls
from pipelines.chat.model.interface import Constraint, Grammar, Tokenizer
from pipelines.chat.model.schemas import REFUSED, closed
from pipelines.events import Format, Message, StageError, Tool, ToolUse, Turn

CHARACTERS_A_TOKEN = 2  # of descriptions of functions, at the least
JSON_OBJECT = '{"type": "object"}'
# Behind a function's result a small model likes to go on with the markup of results, or with JSON: its text begins with
# neither, and nowhere has a tag "<to…" or "</to…".
WORDS = Grammar("regex", r"[^<{\[\s]([^<]|<+/?[^t/<]|<+/?t[^o<])*")


@dataclass(frozen=True, slots=True)
class Writing:
    """What is to be written."""

    tools: tuple[Tool, ...] = ()  # that the prompt describes
    calls: bool | None = False  # whether it is calls; None: if the model likes
    callable: tuple[Tool, ...] = ()  # those that may be called
    parallel: bool = True
    format: Format | None = None  # of text
    words: bool = False  # whether the text may not begin as markup or JSON does

    @property
    def exact(self) -> bool:
        """Whether the text has a form, for which penalties on repetition would be wrong."""
        return self.format is not None or self.calls is True


async def writing_of(turn: Turn, chooser: Chooser | None, context: int) -> Writing:
    """What is to be written in this turn; with a ``chooser`` the model need not know when to call.

    Raises: StageError for a function that is not there, and as ``Chooser.choose``.
    """
    use = turn.tools
    text = Writing(format=turn.format, words=chooser is not None and _behind_result(turn))
    if use is None or not use.tools or use.mode == "none":
        return text
    may = _allowed(use)
    must = use.mode == "required"
    if chooser is None:
        return Writing(use.tools, must or None, may, use.parallel, turn.format)
    if must:
        may = _not_called(turn.messages, may)
    chosen = may if must and len(may) == 1 else await chooser.choose(turn.messages, may, must=must)
    if not chosen:
        return text
    described = use.tools if _size(use.tools) <= context * CHARACTERS_A_TOKEN else chosen
    return Writing(described, True, chosen, False, turn.format)  # a small model would not end after one


def _behind_result(turn: Turn) -> bool:
    return turn.format is None and bool(turn.messages) and turn.messages[-1].role == "tool"


def _allowed(use: ToolUse) -> tuple[Tool, ...]:
    missing = set(use.allowed) - {tool.name for tool in use.tools}
    if missing:
        known = ", ".join(tool.name for tool in use.tools)
        text = f"There is no function {min(missing)!r:.100} among the tools; there are {known:.500}."
        raise StageError("invalid_request", "invalid_value", text, param="tool_choice")
    return tuple(tool for tool in use.tools if not use.allowed or tool.name in use.allowed)


def _not_called(messages: Sequence[Message], tools: tuple[Tool, ...]) -> tuple[Tool, ...]:
    """The functions that were not called since the user's last message; all, if each one was.

    A message is as like a function whatever results stand behind it. So a client that requires a call in every step,
    and ends with the function of its typed output, would have the first function called for ever.
    """
    called: set[str] = set()
    for message in reversed(messages):
        if message.role == "user":
            break
        called.update(call.name for call in message.calls)
    return tuple(tool for tool in tools if tool.name not in called) or tools


def _size(tools: Sequence[Tool]) -> int:
    return sum(len(tool.description) + len(json.dumps(tool.parameters)) for tool in tools)


def constraint_of(writing: Writing, tokenizer: Tokenizer, tenant: str) -> Constraint | None:
    """What holds the reply to its form; None where it has none.

    Raises: StageError that names the parameter at fault.
    """
    if writing.words:
        return tokenizer.constrain(WORDS, tenant)
    if writing.calls is False:
        return None if writing.format is None else _of_format(writing.format, tokenizer, tenant)
    tools, quoted, parallel = writing.callable, tokenizer.quoted, writing.parallel
    try:
        if writing.calls:
            grammar = of_calls(tools, quoted, parallel=parallel)
        else:
            grammar = of_text_or_calls(tools, quoted, parallel=parallel, text=writing.format)
    except RecursionError:
        text = "tools: the parameters of a function are nested too deeply."
        raise StageError("invalid_request", REFUSED, text, param="tools") from None
    try:
        return tokenizer.constrain(grammar, tenant)
    except StageError as error:
        raise _blamed(error, writing.callable, tokenizer, tenant) from None


def _of_format(format: Format, tokenizer: Tokenizer, tenant: str) -> Constraint | None:
    grammar = grammar_of(format)
    try:
        return tokenizer.constrain(grammar, tenant)
    except StageError as error:
        param = ".".join(part for part in (format.param, error.param) if part)
        raise StageError(error.kind, error.code, f"{param}: {error.message}", param=param) from None


def grammar_of(format: Format) -> Grammar:
    """The format as a grammar. Raises: StageError for a schema that is no JSON object."""
    if format.kind in ("regex", "lark"):
        return Grammar("regex" if format.kind == "regex" else "lark", format.source)
    source = format.source if format.kind == "json_schema" else JSON_OBJECT
    try:
        schema = json.loads(source)
        return Grammar("json_schema", json.dumps(closed(schema)), strict=format.strict)
    except (ValueError, RecursionError) as error:
        text = f"{format.param}: the schema can't be read: {error}"
        raise StageError("invalid_request", REFUSED, text, param=format.param) from None


def _blamed(error: StageError, tools: Sequence[Tool], tokenizer: Tokenizer, tenant: str) -> StageError:
    """The error, with the name of the function whose schema is at fault."""
    for tool in tools:
        try:
            tokenizer.constrain(Grammar("json_schema", json.dumps(arguments_of(tool)), strict=False), tenant)
        except StageError as found:
            text = f"tools: the parameters of {tool.name!r:.100}: {found.param or ''}: {found.message}"
            return StageError(error.kind, error.code, text, param="tools")
    return StageError(error.kind, error.code, f"tools: {error.message}", param="tools")
