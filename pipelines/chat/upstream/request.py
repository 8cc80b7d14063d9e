"""A turn as the body of a chat completion: pure."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipelines.chat.calls.grammar import NO_ARGUMENTS
from pipelines.chat.calls.prompt import described
from pipelines.chat.prompt import size_of
from pipelines.chat.settings import ChatSettings
from pipelines.chat.writing import Writing
from pipelines.events import Format, Message, Sampling, StageError, Tool, Turn

CHARACTERS_A_TOKEN = 4  # about, until the upstream says how many tokens there were
EXTRAS = ("top_k", "min_p", "repetition_penalty")  # vLLM's, which many servers understand; sent only where asked for
PLAIN = ("temperature", "top_p")


def body_of(
    turn: Turn, writing: Writing, settings: ChatSettings, model: str, lacks: Collection[str] = ()
) -> dict[str, Any]:
    """The body, without what the upstream ``lacks``. Raises: StageError for what has no form there."""
    limit = "max_completion_tokens" if "max_tokens" in lacks else "max_tokens"
    body: dict[str, Any] = {
        "model": model,
        "messages": [_entry(message) for message in turn.messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        limit: turn.sampling.max_tokens or settings.max_tokens,
    }
    if "stream_options" in lacks:
        del body["stream_options"]
    body |= _sampling(turn.sampling, settings) | _tools(writing)
    if writing.format is not None and writing.calls is not True:
        body["response_format"] = _format(writing.format)
    if turn.prefill:
        body |= {"continue_final_message": True, "add_generation_prompt": False}
    return body


def estimate(messages: Sequence[Message]) -> int:
    """About how many tokens the messages have."""
    return sum(map(size_of, messages)) // CHARACTERS_A_TOKEN


def shorter(messages: Sequence[Message]) -> tuple[Message, ...] | None:
    """The messages without the older half of those that may go; None where none may."""
    removable = [index for index, message in enumerate(messages[:-1]) if message.role != "system"]
    removed = set(removable[: -(-len(removable) // 2)])
    left = [message for index, message in enumerate(messages) if index not in removed]
    called = {call.id for message in left for call in message.calls}
    whole = tuple(message for message in left if not message.call_id or message.call_id in called)
    return whole if whole and len(whole) < len(messages) else None


def _entry(message: Message) -> dict[str, Any]:
    entry: dict[str, Any] = {"role": message.role, "content": message.content}
    if message.calls:
        entry["content"] = message.content or None
        entry["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.calls
        ]
    if message.role == "tool":
        entry["tool_call_id"] = message.call_id
    return entry


def _sampling(asked: Sampling, settings: ChatSettings) -> dict[str, Any]:
    configured: Mapping[str, Any] = {name: getattr(settings, name) for name in (*PLAIN, *EXTRAS)}
    body: dict[str, Any] = {}
    for name in (*PLAIN, *EXTRAS):
        value = getattr(asked, name)
        if value is None and configured[name] != "model":
            value = configured[name]
        if value is not None:
            body[name] = value
    for name in ("presence_penalty", "frequency_penalty"):
        if value := getattr(asked, name):
            body[name] = value
    if asked.seed is not None:
        body["seed"] = asked.seed
    if asked.stop:
        body["stop"] = list(asked.stop)
    if asked.logit_bias:
        body["logit_bias"] = {str(token): bias for token, bias in asked.logit_bias}
    if asked.ignore_eos:
        body["ignore_eos"] = True
    if asked.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": asked.logprobs}
    return body


def _tools(writing: Writing) -> dict[str, Any]:
    if writing.calls is False:
        return {}
    # Those that may not be called are not described: there is no form for it that all servers know.
    body: dict[str, Any] = {"tools": [_function(tool) for tool in writing.callable]}
    if writing.calls is True:
        # Also where it has to be one certain function, which is then the only one described: llama.cpp's server takes a
        # choice that names one for "auto".
        body["tool_choice"] = "required"
    if not writing.parallel:
        body["parallel_tool_calls"] = False
    return body


def _function(tool: Tool) -> dict[str, Any]:
    entry = described(tool if tool.parameters else replace(tool, parameters=NO_ARGUMENTS))
    if tool.strict is not None:
        entry["function"]["strict"] = tool.strict
    return entry


def _format(format: Format) -> dict[str, Any]:
    if format.kind == "json":
        return {"type": "json_object"}
    if format.kind == "json_schema":
        try:
            schema = json.loads(format.source)
        except (ValueError, RecursionError) as error:
            text = f"{format.param}: the schema can't be read: {error}"
            raise StageError("invalid_request", "invalid_grammar", text, param=format.param) from None
        return {
            "type": "json_schema",
            "json_schema": {"name": "response", "schema": schema, "strict": format.strict},
        }
    kind = "a regular expression" if format.kind == "regex" else "a grammar"
    text = f"{format.param}: the language model runs elsewhere, and OpenAI's format has no form for {kind}."
    raise StageError("invalid_request", "unsupported_parameter", text, param=format.param or None)
