"""A chat completion's replies in OpenAI's format, as they come: whole, or as chunks."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.events import (
    CallDelta,
    CallDone,
    CallStarted,
    Event,
    Finished,
    FinishReason,
    Picture,
    Screened,
    Started,
    TextDelta,
    TokenLogprob,
    Usage,
)

FINISH: dict[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "cancelled": "stop",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
}

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Form:
    """What the request says about the form of its answer."""

    id: str
    model: str
    legacy: bool = False  # the call is ``function_call``
    logprobs: bool = False
    usage: bool = False  # whether a stream ends with it
    warnings: tuple[str, ...] = ()
    created: int = field(default_factory=lambda: int(time.time()))

    def finish(self, reason: FinishReason) -> str:
        """``finish_reason``."""
        return "function_call" if self.legacy and reason == "tool_calls" else FINISH[reason]

    def object(self, kind: str, choices: list[Json]) -> Json:
        """A completion, or a chunk of one."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


class Own:
    """What only this server says of a reply; it is the last thing that a stream says."""

    def __init__(self, warnings: Sequence[str]) -> None:
        self.fields: Json = {"warnings": list(warnings)} if warnings else {}

    def note(self, event: Event) -> None:
        """Note what belongs there."""
        if isinstance(event, Picture):
            self.fields.setdefault("images", []).append(event.to_json())
        elif isinstance(event, Screened):
            self.fields["screening"] = event.to_json()
        elif isinstance(event, Started):
            known = self.fields.get("warnings", [])
            if new := [notice for notice in event.notices if notice not in known]:
                self.fields["warnings"] = [*known, *new]


@dataclass(slots=True)
class _Call:
    id: str
    name: str
    arguments: str = ""

    def function(self) -> Json:
        return {"name": self.name, "arguments": self.arguments}


class WholeChoice:
    """One reply, collected."""

    def __init__(self, index: int, form: Form) -> None:
        self._index = index
        self._form = form
        self._text: list[str] = []
        self._tokens: list[TokenLogprob] = []
        self._calls: list[_Call] = []
        self.finished = Finished("stop", Usage())

    def add(self, event: Event) -> None:
        """Take the next event of the reply."""
        match event:
            case TextDelta(text, logprobs=tokens):
                self._text.append(text)
                self._tokens.extend(tokens)
            case Picture():
                self._text.append(link(event))
            case CallStarted(id, name):
                self._calls.append(_Call(id, name))
            case CallDelta(_, arguments):
                self._calls[-1].arguments += arguments
            case CallDone(call):
                self._calls[-1].arguments = call.arguments
            case Finished():
                self.finished = event

    def choice(self) -> Json:
        """The choice as the answer holds it."""
        text = "".join(self._text)
        message: Json = {"role": "assistant", "content": None if self._calls and not text else text, "refusal": None}
        if self._calls and self._form.legacy:
            message["function_call"] = self._calls[0].function()
        elif self._calls:
            message["tool_calls"] = [
                {"id": call.id, "type": "function", "function": call.function()} for call in self._calls
            ]
        return {
            "index": self._index,
            "message": message,
            "logprobs": logprobs_of(self._tokens) if self._form.logprobs else None,
            "finish_reason": self._form.finish(self.finished.reason),
        }


class StreamedChoice:
    """One reply as the chunks' choices."""

    def __init__(self, index: int, form: Form) -> None:
        self._index = index
        self._form = form
        self._begun = False
        self._calls = 0

    def choices(self, event: Event) -> Iterator[Json]:
        """What the clients are sent of this event: each is the only choice of a chunk."""
        match event:
            case TextDelta(text, logprobs=tokens):
                yield from self._begin()
                yield self._choice({"content": text}, logprobs_of(tokens) if self._form.logprobs else None)
            case Picture():
                yield from self._begin()
                yield self._choice({"content": link(event)})
            case CallStarted(id, name):
                yield from self._begin(None)
                function = {"name": name, "arguments": ""}
                self._calls += 1
                yield self._call(function, {"id": id, "type": "function"})
            case CallDelta(_, arguments):
                yield self._call({"arguments": arguments}, {})
            case Finished(reason):
                yield from self._begin()
                yield self._choice({}) | {"finish_reason": self._form.finish(reason)}

    def _begin(self, content: str | None = "") -> Iterator[Json]:
        if not self._begun:
            self._begun = True
            yield self._choice({"role": "assistant", "content": content, "refusal": None})

    def _call(self, function: Json, head: Json) -> Json:
        if self._form.legacy:
            return self._choice({"function_call": function})
        return self._choice({"tool_calls": [{"index": self._calls - 1} | head | {"function": function}]})

    def _choice(self, delta: Json, logprobs: Json | None = None) -> Json:
        return {"index": self._index, "delta": delta, "logprobs": logprobs, "finish_reason": None}


def total(usages: Sequence[Usage]) -> Usage:
    """The usage of a request's choices. They have one prompt; what the first one computed the others found cached."""
    return Usage(
        max((each.input_tokens for each in usages), default=0),
        min((each.cached_tokens for each in usages), default=0),
        sum(each.output_tokens for each in usages),
    )


def link(picture: Picture) -> str:
    """A picture's link, as it follows a reply's text."""
    return f"\n\n{picture.link}"


def logprobs_of(tokens: Sequence[TokenLogprob]) -> Json:
    """The log-probabilities of a text's tokens."""
    content = [
        _logprob(each.token, each.logprob) | {"top_logprobs": [_logprob(*other) for other in each.likeliest]}
        for each in tokens
    ]
    return {"content": content, "refusal": None}


def _logprob(token: str, logprob: float) -> Json:
    # A token that is only part of a character has no text.
    whole = "\ufffd" not in token
    return {"token": token, "logprob": logprob, "bytes": list(token.encode()) if whole else None}


def usage_of(usage: Usage) -> Json:
    """The usage in OpenAI's form."""
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
