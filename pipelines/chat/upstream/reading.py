"""Turns the chunks of an upstream's reply into the events of ours: pure, and the same however they were cut."""

import json
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.chat.calls.reader import new_id
from pipelines.chat.upstream.chunks import CALLS, Call, Choice, Chunk, Token
from pipelines.chat.upstream.chunks import Usage as Counted
from pipelines.chat.upstream.sse import Malformed
from pipelines.events import (
    CallDelta,
    CallDone,
    CallStarted,
    Event,
    Finished,
    FinishReason,
    Started,
    TextDelta,
    TextDone,
    TokenLogprob,
    ToolCall,
    Usage,
)

FINISH: dict[str, FinishReason] = {
    "length": "length",
    "max_tokens": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}  # others end a reply like "stop"
BROKEN = ("abort", "error")  # with which servers end what they could not finish
HELD = 256  # log-probabilities that wait for their text
LONGEST_ID = 256  # characters
LARGEST = 4 * 1024 * 1024  # characters of a reply's calls together


class Broken(Exception):  # noqa: N818 - the upstream's words for its own failure
    """The upstream says that it could not finish."""


@dataclass(slots=True)
class _Call:
    id: str
    name: str
    arguments: str = ""
    announced: bool = False
    shown: int = 0  # characters of the arguments that were passed on
    tokens: int = 0  # that are accounted for with the next event


class ReplyReader:
    """Reads one reply. The events of a call are never mixed with text or with another call's, so a call that comes
    before an earlier one is complete waits for it."""

    def __init__(self, prompt_tokens: int) -> None:
        self._estimate = prompt_tokens  # until the upstream says how many there were
        self._usage: Counted | None = None
        self._pieces = 0  # of text and arguments: each is about a token
        self._calls: OrderedDict[int, _Call] = OrderedDict()  # the first one is being passed on; bounded by CALLS
        self._closed: set[int] = set()
        self._ids: set[str] = set()  # of its calls
        self._drawn: list[Token] = []  # log-probabilities that belong to the text to come
        self._last = -1  # the index of the last piece of a call
        self._size = 0  # of all arguments
        self._text_ended = False
        self._reason: str | None = None
        self.begun = False  # something of the reply was passed on
        self.alive = False  # the model has begun, be it to think

    @property
    def complete(self) -> bool:
        """Whether the upstream has said why the reply ends."""
        return self._reason is not None

    def feed(self, chunk: Chunk) -> Iterator[Event]:
        """The events that this chunk completes. Raises: Malformed, Broken."""
        if chunk.usage is not None:
            self._usage = chunk.usage
        for choice in chunk.choices:
            yield from self._choice(choice)

    def end(self) -> Iterator[Event]:
        """The last event. Raises: Malformed where the reply is not complete."""
        if self._reason is None:
            raise Malformed("the stream ended before the reply did")
        reason = FINISH.get(self._reason, "stop")
        if reason in ("stop", "tool_calls"):
            reason = "tool_calls" if self._closed else "stop"
        yield from self._begin()
        yield Finished(reason, self._counted())

    def _choice(self, choice: Choice) -> Iterator[Event]:
        delta = choice.delta
        if delta.reasoning_content or delta.reasoning:
            self.alive = True
            self._pieces += 1
        if choice.logprobs and choice.logprobs.content:
            self._drawn = [*self._drawn, *choice.logprobs.content][-HELD:]
        text = (delta.content or "") + (delta.refusal or "")
        if text and not self._text_ended:
            yield from self._begin()
            yield self._text(text)
        for call in delta.tool_calls or ():
            yield from self._call(call)
        if choice.finish_reason is not None and self._reason is None:
            if choice.finish_reason in BROKEN:
                raise Broken(f"the reply ended with {choice.finish_reason!r}")
            self._reason = choice.finish_reason
            yield from self._begin()
            yield from self._finish()

    def _begin(self) -> Iterator[Event]:
        self.alive = True
        if not self.begun:
            self.begun = True
            yield Started(self._estimate)

    def _text(self, text: str) -> TextDelta:
        drawn, self._drawn = self._drawn, []
        tokens = max(len(drawn), 1)
        self._pieces += tokens
        return TextDelta(text, tokens, tuple(map(_probability, drawn)))

    def _end_text(self) -> Iterator[Event]:
        if not self._text_ended:
            self._text_ended = True
            yield TextDone()

    def _call(self, piece: Call) -> Iterator[Event]:
        index = piece.index
        if index is None:  # some servers send whole calls, without one
            new = piece.id or (piece.function and piece.function.name)
            index = self._last + 1 if new else self._last
        self._last = index
        function = piece.function
        if index in self._closed:
            if function and function.arguments:
                raise Malformed("a call goes on that was complete")
            return
        known = self._calls.get(index) or self._new_call(index, piece)
        if function and function.arguments:
            self._size += len(function.arguments)
            if self._size > LARGEST:
                raise Malformed(f"the arguments of its calls have more than {LARGEST} characters")
            known.arguments += function.arguments
            known.tokens += 1
            self._pieces += 1
        yield from self._pass_on(last=False)

    def _new_call(self, index: int, piece: Call) -> _Call:
        name = piece.function.name if piece.function else None
        if not name or len(self._ids) == CALLS:
            raise Malformed("there are too many calls" if name else "a call has no name")
        id = piece.id if piece.id and len(piece.id) <= LONGEST_ID and piece.id not in self._ids else new_id()
        self._ids.add(id)
        made = self._calls[index] = _Call(id, name)
        return made

    def _pass_on(self, *, last: bool) -> Iterator[Event]:
        """What can be passed on of the calls, in their order; behind the ``last`` piece all of it."""
        while self._calls:
            index, call = next(iter(self._calls.items()))
            follows = len(self._calls) > 1
            if not call.announced:
                call.announced = True
                yield from self._begin()
                yield from self._end_text()
                yield CallStarted(call.id, call.name)
            if piece := call.arguments[call.shown :]:
                call.shown, tokens, call.tokens = len(call.arguments), call.tokens, 0
                yield CallDelta(call.id, piece, tokens)
            if not last and not (follows and _is_json(call.arguments)):
                return
            if not follows and FINISH.get(self._reason or "") == "length" and not _is_json(call.arguments):
                return  # it was cut short
            if not call.arguments:
                call.arguments = "{}"
                yield CallDelta(call.id, call.arguments, 0)
            yield CallDone(ToolCall(call.id, call.name, call.arguments))
            del self._calls[index]
            self._closed.add(index)

    def _finish(self) -> Iterator[Event]:
        yield from self._pass_on(last=True)
        yield from self._end_text()

    def _counted(self) -> Usage:
        if self._usage is None:
            return Usage(self._estimate, 0, self._pieces)
        details = self._usage.prompt_tokens_details
        cached = min((details.cached_tokens if details else None) or 0, self._usage.prompt_tokens)
        return Usage(self._usage.prompt_tokens, cached, self._usage.completion_tokens)


def _probability(token: Token) -> TokenLogprob:
    others = tuple((other.token, other.logprob) for other in token.top_logprobs or ())
    return TokenLogprob(token.token, token.logprob, others)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
