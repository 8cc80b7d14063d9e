"""Spans by OpenTelemetry's SDK, exported by OTLP over HTTP from a thread of its own.

The queue of spans is bounded (``OTEL_BSP_MAX_QUEUE_SIZE``, 2,048). While the endpoint is away, spans
are lost and nothing else.
"""

import asyncio
import logging
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from contextvars import ContextVar
from importlib.metadata import version

from aiohttp import web
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pipelines.events import Turn
from server.tracing.turns import TurnTrace, asked

log = logging.getLogger(__name__)

PATIENCE = 5.0  # seconds that a stopping server waits for its last spans to be exported

_parent: ContextVar[Context | None] = ContextVar("traceparent", default=None)


class Exported:
    """Makes spans, and exports them."""

    def __init__(self) -> None:
        _quieten()
        named = os.environ.get("OTEL_SERVICE_NAME") or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        own = {"service.version": version("loquent")} | ({} if named else {"service.name": "loquent"})
        self._provider = TracerProvider(resource=Resource.create(own), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(_Reported(OTLPSpanExporter())))
        self._tracer = self._provider.get_tracer("loquent", version("loquent"))
        self._propagator = TraceContextTextMapPropagator()

    def meet(self, request: web.Request) -> None:
        """See ``Tracing``. Tasks that the request starts inherit it, as a websocket's turns are."""
        names = ("traceparent", "tracestate")
        carried = {name: ",".join(request.headers.getall(name, ())) for name in names}
        _parent.set(self._propagator.extract(carried, Context()) if carried["traceparent"] else None)

    def begin(self, turn: Turn, model: str) -> TurnTrace | None:
        """See ``Tracing``."""
        context = _parent.get() or Context()
        span = self._tracer.start_span(f"chat {model}", context, SpanKind.SERVER, asked(turn, model))
        return TurnTrace(self._tracer, span) if span.is_recording() else None

    async def close(self) -> None:
        """See ``Tracing``. A thread that still waits for the endpoint ends with the process."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def run() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(done.set)

        threading.Thread(target=run, name="traces-close", daemon=True).start()
        try:
            await asyncio.wait_for(done.wait(), PATIENCE)
        except TimeoutError:
            log.warning("the last spans are lost: the endpoint for traces does not answer")


class _Reported(SpanExporter):
    """Exports spans, and logs when that begins to fail and when it works again."""

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self._lost = 0  # spans, since it last worked

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """See the base class."""
        result = self._inner.export(spans)
        if result is SpanExportResult.SUCCESS:
            if self._lost:
                log.warning("traces are exported again; %d spans were lost", self._lost)
            self._lost = 0
            return result
        if not self._lost:
            log.warning("traces can't be exported: spans are lost until the endpoint takes them")
        self._lost += len(spans)
        return result

    def shutdown(self) -> None:
        """See the base class."""
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """See the base class."""
        return self._inner.force_flush(timeout_millis)


def _quieten() -> None:
    """The SDK logs each batch that fails, some of them with what the endpoint answers."""
    for name in ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.attributes"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
