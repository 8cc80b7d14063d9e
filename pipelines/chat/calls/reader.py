"""Reads calls out of a reply's text, however it was cut into pieces."""

import json
import re
import secrets
from collections.abc import Callable, Iterator

from pipelines.chat.calls.prompt import OPEN
from pipelines.events import CallDelta, CallDone, CallStarted, Event, TextDelta, TextDone, TokenLogprob, ToolCall

HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\S)')
LONGEST_HEAD = 1024  # characters; what is longer is no call


def new_id() -> str:
    """A call's id."""
    return f"call_{secrets.token_hex(12)}"


class CallReader:
    """Turns the text of one reply into text and calls.

    What looks like a call and is none stays text; white space before a call, and what follows one, is no text.
    """

    def __init__(self, ids: Callable[[], str] = new_id) -> None:
        self.calls = 0  # complete ones
        self._ids = ids
        self._held = ""  # text that may yet become something else
        self._tokens = 0  # that are accounted for with the next event
        self._logprobs: tuple[TokenLogprob, ...] = ()  # likewise
        self._read = self._text
        self._text_ended = False
        self._opening = OPEN  # with the white space before it
        self._id = self._name = self._arguments = ""  # of the call whose arguments are read
        self._scan = _ValueEnd()

    def feed(self, delta: TextDelta) -> Iterator[Event]:
        """The events that this piece completes."""
        self._held += delta.text
        self._tokens += delta.tokens
        self._logprobs += delta.logprobs
        before = None
        while before != (self._read, self._held):  # until nothing more can be made of what is there
            before = (self._read, self._held)
            yield from self._read()

    def end(self) -> Iterator[Event]:
        """What is left at the reply's end. A call that was cut short gets no ``CallDone``."""
        if self._read == self._head:
            self._held = self._opening + self._held
        if self._read != self._body and not self.calls:
            yield from self._say(self._cut(len(self._held)))
        yield from self._end_text()

    def _text(self) -> Iterator[Event]:
        at = self._held.find(OPEN)
        if at >= 0:
            text = self._held[:at].rstrip()
            self._cut(len(text))
            self._opening = self._cut(at - len(text) + len(OPEN))
            self._read = self._head
        else:
            shown = len(self._held) - _overlap(self._held)
            text = self._cut(len(self._held[:shown].rstrip()) if not self.calls else shown)
        if not self.calls:
            yield from self._say(text)

    def _head(self) -> Iterator[Event]:
        head = HEAD.match(self._held)
        if head is not None:
            self._cut(head.end())
            self._id, self._name, self._arguments, self._scan = self._ids(), _name(head[1]), "", _ValueEnd()
            self._read = self._body
            yield from self._end_text()
            yield CallStarted(self._id, self._name)
        elif len(self._held) > LONGEST_HEAD:
            self._read = self._text
            if not self.calls:
                yield from self._say(self._opening + self._cut(len(self._held)))

    def _body(self) -> Iterator[Event]:
        end = self._scan.find(self._held)
        if piece := self._cut(len(self._held) if end is None else end):
            self._arguments += piece
            yield CallDelta(self._id, piece, self._spend())
        if end is not None:
            self.calls += 1
            self._read = self._text
            yield CallDone(ToolCall(self._id, self._name, self._arguments))

    def _say(self, text: str) -> Iterator[Event]:
        if text:
            logprobs, self._logprobs = self._logprobs, ()
            yield TextDelta(text, self._spend(), logprobs)

    def _end_text(self) -> Iterator[Event]:
        if not self._text_ended:
            self._text_ended = True
            yield TextDone()

    def _cut(self, count: int) -> str:
        text, self._held = self._held[:count], self._held[count:]
        return text

    def _spend(self) -> int:
        tokens, self._tokens = self._tokens, 0
        return tokens


class _ValueEnd:
    """Finds where a JSON object, list or string ends, piece by piece."""

    def __init__(self) -> None:
        self._depth = 0
        self._quoted = self._escaped = False

    def find(self, text: str) -> int | None:
        """The place behind its end in this piece, which follows the earlier ones."""
        for at, sign in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._quoted:
                self._escaped, self._quoted = sign == "\\", sign != '"'
            elif sign == '"':
                self._quoted = True
            elif sign in "{[":
                self._depth += 1
            elif sign in "}]":
                self._depth -= 1
            if self._depth <= 0 and not self._quoted:
                return at + 1 if sign in '"}]' else at
        return None


def _name(quoted: str) -> str:
    try:
        return str(json.loads(quoted))
    except ValueError:
        return quoted[1:-1]


def _overlap(text: str) -> int:
    """Length of the longest suffix of ``text`` that may become OPEN."""
    return next((n for n in range(min(len(text), len(OPEN) - 1), 0, -1) if OPEN.startswith(text[-n:])), 0)
