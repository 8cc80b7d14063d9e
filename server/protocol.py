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

log = logging.getLogger(__name__)

HEADER = "x-request-id"
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

    __slots__ = ()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit the connection, and bound what TLS buffers for a client that does not read: by default that is half a
        megabyte."""
        super().connection_made(transport)
        if not _gate(self).enter(transport) and isinstance(transport, asyncio.Transport):
            transport.write(refusal())
            transport.close()
        if isinstance(transport, asyncio.Transport) and transport.get_extra_info("sslcontext") is not None:
            transport.set_write_buffer_limits(high=WRITE_BUFFER)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Count it no more."""
        if self.transport is not None and isinstance(self._manager, _Server):
            self._manager.gate.leave(self.transport)
        super().connection_lost(exc)

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


def _gate(protocol: RequestHandler) -> Gate:
    server = protocol._manager
    assert isinstance(server, _Server)  # noqa: S101 - no other makes one
    return server.gate


class _Server(web.Server):
    gate: Gate

    def __call__(self) -> RequestHandler:
        return Protocol(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs an application with ``Protocol``, whose connections pass the gate."""

    __slots__ = ("_gate",)

    def __init__(self, app: web.Application, gate: Gate, **options: Any) -> None:
        super().__init__(app, **options)
        self._gate = gate

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
        server.gate = self._gate
        return server
