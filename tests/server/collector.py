"""A collector of spans: OTLP over HTTP, as an aiohttp handler that decodes what comes."""

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)


@dataclass(frozen=True, slots=True)
class Span:
    """A span that came."""

    name: str
    trace: str
    id: str
    parent: str  # "" where it has none
    begun: int  # nanoseconds since 1970
    ended: int
    attributes: dict[str, Any]
    events: tuple[tuple[str, int], ...]
    failed: bool
    message: str


@dataclass
class Collector:
    """What came."""

    url: str = ""
    spans: list[Span] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    status: int = 200  # that it answers with

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def turns(self) -> list[Span]:
        return [span for span in self.spans if span.name.startswith("chat ")]

    def children(self, of: Span) -> list[Span]:
        return sorted((span for span in self.spans if span.parent == of.id), key=lambda span: span.begun)

    async def take(self, request: web.Request) -> web.Response:
        raw = await request.read()
        if request.headers.get("Content-Encoding") == "gzip" and raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        if self.status == 200:
            self._add(raw)
        body = ExportTraceServiceResponse().SerializeToString()
        return web.Response(status=self.status, body=body, content_type="application/x-protobuf")

    def _add(self, raw: bytes) -> None:
        self.raw.append(raw)
        message = ExportTraceServiceRequest.FromString(raw)
        for resource in message.resource_spans:
            self.resources.append(_values(resource.resource.attributes))
            self.spans += [_span(each) for scope in resource.scope_spans for each in scope.spans]


def _span(each: Any) -> Span:
    return Span(
        each.name,
        each.trace_id.hex(),
        each.span_id.hex(),
        each.parent_span_id.hex(),
        each.start_time_unix_nano,
        each.end_time_unix_nano,
        _values(each.attributes),
        tuple((event.name, event.time_unix_nano) for event in each.events),
        each.status.code == 2,
        each.status.message,
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {each.key: _value(each.value) for each in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """A collector on a free port of this machine."""
    found = Collector()
    app = web.Application()
    app.router.add_post("/v1/traces", found.take)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield found
    finally:
        await runner.cleanup()
