"""A turn's span and those of its stages, with attributes in OpenTelemetry's conventions for generative AI."""

import time
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context

from pipelines.events import Turn
from pipelines.tracing import Attributes
from server import logs

NANO = 1_000_000_000


def asked(turn: Turn, model: str) -> dict[str, str | int | float]:
    """The attributes that a turn begins with: the parameters of its request, and nothing that it says."""
    sampling = turn.sampling
    given: dict[str, Any] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "loquent",
        "gen_ai.request.model": model,
        "gen_ai.output.type": "speech" if turn.speech else "json" if turn.format else "text",
        "gen_ai.request.max_tokens": sampling.max_tokens,
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.top_k": sampling.top_k,
        "gen_ai.request.seed": sampling.seed,
        "gen_ai.request.presence_penalty": sampling.presence_penalty or None,
        "gen_ai.request.frequency_penalty": sampling.frequency_penalty or None,
        "gen_ai.response.id": turn.id,
        "gen_ai.response.model": model,
        "loquent.request_id": logs.request_id.get() or None,
    }
    return {name: value for name, value in given.items() if value is not None}


class TurnTrace:
    """The trace of one turn; see ``pipelines.tracing.Trace``."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self._context = set_span_in_context(span, Context())
        self._wall = time.time_ns() - time.monotonic_ns()  # a clock that is set meanwhile moves no span
        self._events: dict[str, float] = {}

    def event(self, name: str) -> None:
        """See ``Trace``."""
        if name not in self._events and self._span.is_recording():
            self._events[name] = now = time.monotonic()
            self._span.add_event(name, timestamp=self._time(now))

    def at(self, name: str) -> float | None:
        """See ``Trace``."""
        return self._events.get(name)

    def stage(self, name: str, begun: float, ended: float, attributes: Attributes, error: str = "") -> None:
        """See ``Trace``."""
        span = self._tracer.start_span(
            name, self._context, SpanKind.INTERNAL, dict(attributes), start_time=self._time(begun)
        )
        if error:
            _mark(span, error, failed=error != "cancelled")
        span.end(self._time(ended))

    def end(self, outcome: str, attributes: Attributes, *, failed: bool) -> None:
        """See ``Trace``."""
        self._span.set_attributes(dict(attributes))
        if failed:
            _mark(self._span, outcome, failed=True)
        else:
            self._span.set_attribute("gen_ai.response.finish_reasons", (outcome,))
        self._span.end()

    def _time(self, monotonic: float) -> int:
        """Nanoseconds since 1970."""
        return self._wall + int(monotonic * NANO)


def _mark(span: Span, error: str, *, failed: bool) -> None:
    """Note an error by its code. Its message may hold what a client sent."""
    span.set_attribute("error.type", error)
    if failed:
        span.set_status(Status(StatusCode.ERROR))
