"""HTTP below the application: what aiohttp answers by itself has OpenAI's format too."""

import asyncio
import json
import logging
import secrets
from collections.abc import Callable
from typing import Any

from aiohttp import http_exceptions, web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from server.errors import ApiError
from server.limits.gate import Gate, refusal
from server.limits.pace import CONNECTION, UNIT_BYTES, Lane, Pace

log = logging.getLogger(__name__)

HEADER = "x-request-id"
READ_BYTES = 32 * 1024  # that one connection receives before others do
WRITE_BUFFER = 64 * 1024  # bytes that wait for a client under TLS before sends wait


def new_request_id() -> str:
    """The id of a request that brought none."""
    return f"req_{secrets.token_hex(12)}"


def answered(error: ApiError, request_id: str) -> web.Response:
    """An error outside the application; the connection is closed behind it."""
    response = web.Response(
        status=error.status,
        body=json.dumps(error.body()).encode(),
        content_type="application/json",
        headers=error.headers() | {HEADER: request_id, "Server": "loquent"},
    )
    response.force_close()
    return response


class Protocol(RequestHandler):
    """One connection."""

    __slots__ = ("_held", "pace")

    def __init__(self, manager: "_Server", **options: Any) -> None:
        super().__init__(manager, **options)
        self.pace = Pace(manager.lane)
        self._held: asyncio.TimerHandle | None = None  # while it is not read because others go first

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit the connection, and bound what TLS buffers for a client that does not read: by default that is half a
        megabyte."""
        super().connection_made(transport)
        if hasattr(transport, "max_size"):
            transport.max_size = READ_BYTES
        if not _server(self).gate.enter(transport) and isinstance(transport, asyncio.Transport):
            transport.write(refusal())
            transport.close()
            return
        self._hold(self.pace.lane.take(CONNECTION))
        if isinstance(transport, asyncio.Transport) and transport.get_extra_info("sslcontext") is not None:
            transport.set_write_buffer_limits(high=WRITE_BUFFER)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count it no more."""
        if self.transport is not None and isinstance(self._manager, _Server):
            self._manager.gate.leave(self.transport)
        if self._held is not None:
            self._held.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has arrived. What a websocket receives costs time before it is a whole frame."""
        super().data_received(data)
        if self._payload_parser is not None:
            self._hold(self.pace.charge(len(data) / UNIT_BYTES) or 0.0)

    def _hold(self, seconds: float) -> None:
        """Do not read for so long."""
        if seconds > 0 and self._held is None:
            self._pause_transport_reading()
            self._release(self.pace.lane.clock() + seconds)

    def _release(self, until: float) -> None:
        """Read on, once it is time."""
        left = self.pace.lane.left(until)
        self._held = self._loop.call_later(left, self._release, until) if left else None
        if self._held is None and not self._reading_paused and not self._buffer_paused:
            self._resume_transport_reading()

    def _resume_transport_reading(self) -> None:
        if self._held is None:
            super()._resume_transport_reading()

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """The answer to what is no HTTP request, or to a failure outside every handler.

        Raises: ConnectionError when a response has begun.
        """
        if request.writer.output_size > 0:
            raise ConnectionError("the response has begun")
        if status >= 500:
            if not isinstance(exc, ConnectionError):  # the client has left
                log.error("a request failed outside its handler", exc_info=exc)
            error = ApiError(status, "internal_error", "The server failed on this request; its log says why.")
        elif isinstance(exc, http_exceptions.LineTooLong):
            error = ApiError(431, "request_header_too_large", "The request line or a header is too long.")
        elif isinstance(exc, http_exceptions.ContentEncodingError):
            error = ApiError(415, "unsupported_encoding", "The body's Content-Encoding is not supported.")
        else:
            error = ApiError(status, "invalid_http", "This is not a valid HTTP request.")
        log.info("a request could not be read: %d %s", error.status, error.code)
        return answered(error, new_request_id())

    async def finish_response(
        self, request: BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send the response; a refusal that aiohttp made before any handler ran is put into OpenAI's format."""
        if isinstance(resp, web.HTTPException):
            status = resp.status
            unmet = status == 417
            text = "Expect: only 100-continue is supported." if unmet else resp.reason
            code = "expectation_failed" if unmet else "bad_request"
            resp = answered(ApiError(status, code, text), new_request_id())
        return await super().finish_response(request, resp, start_time)


def _server(protocol: RequestHandler) -> "_Server":
    server = protocol._manager
    assert isinstance(server, _Server)  # noqa: S101 - no other makes one
    return server


def pace(request: web.Request) -> Pace:
    """What the request's connection may use."""
    assert isinstance(request.protocol, Protocol)  # noqa: S101 - no other serves it
    return request.protocol.pace


class _Server(web.Server):
    gate: Gate
    lane: Lane

    def __call__(self) -> RequestHandler:
        return Protocol(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs an application with ``Protocol``, whose connections pass the gate, and share the lane."""

    __slots__ = ("_gate", "_lane")

    def __init__(self, app: web.Application, gate: Gate, lane: Lane, **options: Any) -> None:
        super().__init__(app, **options)
        self._gate = gate
        self._lane = lane

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        options: dict[str, Any] = made._kwargs
        handler: Callable[..., Any] = made.request_handler
        server = _Server(
            handler,
            request_factory=made.request_factory,
            handler_cancellation=made.handler_cancellation,
            **options,
        )
        server.gate, server.lane = self._gate, self._lane
        return server
