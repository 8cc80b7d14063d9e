"""Whether the server traces: where OpenTelemetry's environment names an endpoint."""

import logging
import os
from collections.abc import Mapping
from typing import Protocol

from aiohttp import web

from pipelines.events import Turn
from pipelines.tracing import Trace

log = logging.getLogger(__name__)

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class Tracing(Protocol):
    """What makes traces, and exports them."""

    def meet(self, request: web.Request) -> None:
        """Note the trace that a request, or a websocket's handshake, belongs to; its turns continue it."""

    def begin(self, turn: Turn, model: str) -> Trace | None:
        """A turn begins; None where it is not sampled."""

    async def close(self) -> None:
        """Export what is left, as far as the endpoint takes it in a short time."""


def tracing(environment: Mapping[str, str] | None = None) -> Tracing | None:
    """What traces, as OpenTelemetry's variables say; None where none names an endpoint, or they switch it off."""
    given = os.environ if environment is None else environment
    if not any(given.get(name) for name in ENDPOINTS):
        return None
    if given.get("OTEL_SDK_DISABLED", "").lower() == "true" or given.get("OTEL_TRACES_EXPORTER", "otlp") == "none":
        return None
    try:
        from server.tracing.export import Exported
    except ImportError as error:
        log.warning("turns are not traced: that needs the extra `otel`: pip install 'loquent[otel]' (%s)", error)
        return None
    try:
        return Exported()
    except ValueError as error:  # in one of OpenTelemetry's variables
        log.warning("turns are not traced: %s", error)
        return None
