"""A response as it comes into being: a pipeline's events become OpenAI's, in OpenAI's order, and a response object.

It never touches a socket. ``add`` takes the events of the reply, ``finish`` or ``fail`` ends it.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.events import (
    CallDelta,
    CallDone,
    CallStarted,
    Event,
    FinishReason,
    Picture,
    Started,
    TextDelta,
    TokenLogprob,
    Usage,
)
from server.api.chat.reply import Own, link
from server.api.responses.items import new_id, output_text
from server.errors import ApiError
from server.response_store import Json

INCOMPLETE: dict[FinishReason, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}
STATUS: dict[FinishReason, str] = {
    "stop": "completed",
    "tool_calls": "completed",
    "length": "incomplete",
    "content_filter": "incomplete",
    "cancelled": "cancelled",
}
ERRORS = {400: "invalid_prompt", 429: "rate_limit_exceeded"}  # OpenAI's codes; the server's own is under ``loquent``


@dataclass(slots=True)
class _Text:
    """The message that is being written."""

    index: int
    id: str = field(default_factory=lambda: new_id("message"))
    said: str = ""
    tokens: list[TokenLogprob] = field(default_factory=list)

    def item(self, status: str, *, whole: bool) -> Json:
        content = [output_text(self.said, _logprobs(self.tokens))] if whole else []
        return {"id": self.id, "type": "message", "role": "assistant", "status": status, "content": content}


@dataclass(slots=True)
class _Call:
    """The call that is being written."""

    index: int
    call_id: str
    name: str
    id: str = field(default_factory=lambda: new_id("function_call"))
    arguments: str = ""

    def item(self, status: str) -> Json:
        return {
            "id": self.id,
            "type": "function_call",
            "status": status,
            "call_id": self.call_id,
            "name": self.name,
            "arguments": self.arguments,
        }


class Reply:
    """One response."""

    def __init__(self, id: str, model: str, echo: Json, warnings: Sequence[str] = ()) -> None:
        self.id = id
        self._head = {"id": id, "object": "response", "created_at": int(time.time()), "model": model, **echo}
        self._own = Own(warnings)
        self._output: list[Json] = []
        self._open: _Text | _Call | None = None
        self._sequence = 0
        self._status = "in_progress"
        self._input_tokens = self._cached_tokens = self._output_tokens = 0
        self._end: Json = {"error": None, "incomplete_details": None, "completed_at": None, "usage": None}

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self._status != "in_progress"

    @property
    def status(self) -> str:
        """As the response object has it."""
        return self._status

    @property
    def output(self) -> tuple[Json, ...]:
        """The items that are complete."""
        return tuple(self._output)

    def response(self) -> Json:
        """The response object as it is now."""
        own = {"loquent": dict(self._own.fields)} if self._own.fields else {}
        return self._head | self._end | {"status": self._status, "output": list(self._output)} | own

    def not_stored(self) -> None:
        """Say that the response could not be stored: nothing can go on from it."""
        self._own.fields["stored"] = False

    def add(self, event: Event) -> Iterator[Json]:
        """The events that tell of the next event of the reply, which is not its end."""
        yield from self._begin()
        self._own.note(event)
        match event:
            case Started(input_tokens, cached_tokens):
                self._input_tokens, self._cached_tokens = input_tokens, cached_tokens
            case TextDelta(text, tokens, logprobs):
                self._output_tokens += tokens
                yield from self._say(text, logprobs)
            case Picture():
                yield from self._say(link(event))
            case CallStarted(id, name):
                yield from self._close("completed")
                self._open = call = _Call(len(self._output), id, name)
                yield self._event("output_item.added", output_index=call.index, item=call.item("in_progress"))
            case CallDelta(_, arguments, tokens) if isinstance(self._open, _Call):
                self._output_tokens += tokens
                self._open.arguments += arguments
                yield self._event("function_call_arguments.delta", **self._place(self._open), delta=arguments)
            case CallDone():
                yield from self._close("completed")

    def finish(self, reason: FinishReason, usage: Usage | None = None) -> Iterator[Json]:
        """The events that end the response; without ``usage`` it is what was counted so far."""
        yield from self._begin()
        status = STATUS[reason]
        if not self._output and self._open is None and status != "cancelled":
            yield from self._say("")  # clients expect a message
        yield from self._close("completed" if status == "completed" else "incomplete")
        self._status = status
        counted = usage or Usage(self._input_tokens, self._cached_tokens, self._output_tokens)
        self._end["usage"] = _usage(counted)
        if reason in INCOMPLETE:
            self._end["incomplete_details"] = {"reason": INCOMPLETE[reason]}
        if status == "completed":
            self._end["completed_at"] = int(time.time())
        yield self._event("completed" if status == "completed" else "incomplete", response=self.response())

    def fail(self, failure: ApiError) -> Iterator[Json]:
        """The events that end a response that failed; what is open stays open, as with OpenAI."""
        if failure.code == "content_filter":
            yield from self.finish("content_filter")
            return
        yield from self._begin()
        self._status = "failed"
        self._end["error"] = {"code": ERRORS.get(failure.status, "server_error"), "message": failure.message}
        self._own.fields["error"] = {"code": failure.code, "param": failure.param}
        yield self._event("failed", response=self.response())

    def _begin(self) -> Iterator[Json]:
        if not self._sequence:
            yield self._event("created", response=self.response())
            yield self._event("in_progress", response=self.response())

    def _say(self, text: str, logprobs: Sequence[TokenLogprob] = ()) -> Iterator[Json]:
        if not isinstance(self._open, _Text):
            yield from self._close("completed")
            self._open = _Text(len(self._output))
            item = self._open.item("in_progress", whole=False)
            yield self._event("output_item.added", output_index=self._open.index, item=item)
            yield self._event("content_part.added", **self._place(self._open), content_index=0, part=output_text(""))
        message = self._open
        message.said += text
        message.tokens.extend(logprobs)
        if text or logprobs:
            brief = [_briefly(each) for each in _logprobs(logprobs)]
            place = self._place(message)
            yield self._event("output_text.delta", **place, content_index=0, delta=text, logprobs=brief)

    def _close(self, status: str) -> Iterator[Json]:
        """End the item that is open."""
        opened, self._open = self._open, None
        if isinstance(opened, _Text):
            place = self._place(opened) | {"content_index": 0}
            item = opened.item(status, whole=True)
            brief = [_briefly(each) for each in item["content"][0]["logprobs"]]
            yield self._event("output_text.done", **place, text=opened.said, logprobs=brief)
            yield self._event("content_part.done", **place, part=item["content"][0])
        elif isinstance(opened, _Call):
            item = opened.item(status)
            yield self._event("function_call_arguments.done", **self._place(opened), arguments=opened.arguments)
        else:
            return
        self._output.append(item)
        yield self._event("output_item.done", output_index=opened.index, item=item)

    def _place(self, item: _Text | _Call) -> Json:
        return {"item_id": item.id, "output_index": item.index}

    def _event(self, kind: str, **fields: Any) -> Json:
        self._sequence += 1
        return {"type": f"response.{kind}", "sequence_number": self._sequence - 1, **fields}


def _logprobs(tokens: Sequence[TokenLogprob]) -> list[Json]:
    return [
        _logprob(each.token, each.logprob) | {"top_logprobs": [_logprob(*other) for other in each.likeliest]}
        for each in tokens
    ]


def _logprob(token: str, logprob: float) -> Json:
    # A token that is only part of a character has no text.
    return {"token": token, "logprob": logprob, "bytes": [] if "\ufffd" in token else list(token.encode())}


def _briefly(logprob: Json) -> Json:
    """As deltas have it: without bytes."""
    brief = {"token": logprob["token"], "logprob": logprob["logprob"]}
    return brief | {"top_logprobs": [{k: each[k] for k in ("token", "logprob")} for each in logprob["top_logprobs"]]}


def _usage(usage: Usage) -> Json:
    return {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
