"""What the stages of a turn record of their work where the server traces: times and counts, never a text.

Stages record when something begins or ends, and nothing for each token.
"""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

Attributes = Mapping[str, str | int | float | bool]

FIRST_TOKEN = "first_token"  # noqa: S105 - the name of an event
FIRST_AUDIO = "first_audio"

CODES = {"TimeoutError": "timeout", "CancelledError": "cancelled", "GeneratorExit": "cancelled"}


class Trace(Protocol):
    """The trace of one turn."""

    def event(self, name: str) -> None:
        """Something happened just now, for the first time in this turn; later ones are ignored."""

    def at(self, name: str) -> float | None:
        """When this event happened, by ``time.monotonic``."""

    def stage(self, name: str, begun: float, ended: float, attributes: Attributes, error: str = "") -> None:
        """A stage's work, with its times by ``time.monotonic`` and the code of the error that ended it, if any."""

    def end(self, outcome: str, attributes: Attributes, *, failed: bool) -> None:
        """The turn has ended. What a stage does in its shadow may still be recorded."""


@contextmanager
def traced(trace: Trace | None, name: str, attributes: Attributes | None = None) -> Iterator[None]:
    """Record the block as a stage's work."""
    if trace is None:
        yield
        return
    begun, error = time.monotonic(), ""
    try:
        yield
    except BaseException as raised:
        error = code_of(raised)
        raise
    finally:
        trace.stage(name, begun, time.monotonic(), attributes or {}, error)


def code_of(error: BaseException) -> str:
    """The code of an error, or its type's name; its message may hold what a client sent."""
    code, name = getattr(error, "code", None), type(error).__name__
    return code if isinstance(code, str) else CODES.get(name, name)


class Generation:
    """One run of the language model: prefill until the first token, and decode behind it."""

    def __init__(self, trace: Trace | None) -> None:
        self._trace = trace
        self._begun = time.monotonic()
        self._first: float | None = None
        self._prompt: Attributes = {}
        self._reply: Attributes = {}
        self._complete = False

    def first_token(self) -> None:
        """The first token is there."""
        if self._trace is not None:
            self._first = time.monotonic()
            self._trace.event(FIRST_TOKEN)

    def counted(self, input_tokens: int, cached_tokens: int, output_tokens: int) -> None:
        """It is complete, and this is its usage."""
        self._complete = True
        self._prompt = {
            "gen_ai.usage.input_tokens": input_tokens,
            "gen_ai.usage.cache_read.input_tokens": cached_tokens,
        }
        self._reply = {"gen_ai.usage.output_tokens": output_tokens}

    def end(self, error: str = "") -> None:
        """It has ended."""
        if self._trace is None:
            return
        now = time.monotonic()
        error = "" if self._complete else error  # its reader leaves it once it is complete
        if self._first is None:
            self._trace.stage("prefill", self._begun, now, self._prompt, error)
            return
        self._trace.stage("prefill", self._begun, self._first, self._prompt)
        self._trace.stage("decode", self._first, now, self._reply, error)


@contextmanager
def generating(trace: Trace | None) -> Iterator[Generation]:
    """Record the block as a run of the language model."""
    generation, error = Generation(trace), ""
    try:
        yield generation
    except BaseException as raised:
        error = code_of(raised)
        raise
    finally:
        generation.end(error)
