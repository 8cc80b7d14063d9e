"""Refuses a websocket in a way that every client sees: a browser learns nothing of a failed handshake but a number."""

import asyncio
import secrets
from contextlib import suppress

from aiohttp import web

from server.auth import subprotocols
from server.backend import BACKEND, abort
from server.errors import ApiError
from server.realtime import wire

SECONDS = 2.0  # for all of it; what is refused holds nothing longer
MOST = 64  # at a time; further ones are refused over HTTP
CLOSE_CODES = {"invalid_api_key": 3000, "model_not_found": 4004, "call_id_not_found": 4004, "session_not_found": 4004}
OTHERS = ("beta_api_shape_disabled", "invalid_after", "transcription_not_supported")
INVALID_REQUEST = 4000  # the close code of those


def is_refused(request: web.Request, error: ApiError) -> bool:
    """Whether this error of a websocket's handshake is sent on the websocket; others are answered over HTTP."""
    if error.code not in CLOSE_CODES and error.code not in OTHERS:
        return False
    if request.path != "/v1/realtime" or request.app[BACKEND].refusing >= MOST:
        return False
    return web.WebSocketResponse().can_prepare(request).ok


async def refuse(request: web.Request, error: ApiError) -> web.StreamResponse:
    """Accept the websocket, send the error, and close it with a code and a reason."""
    socket = web.WebSocketResponse(
        protocols=subprotocols(request), timeout=SECONDS, max_msg_size=1024, compress=False, autoping=False
    )
    backend = request.app[BACKEND]
    backend.refusing += 1
    with suppress(ConnectionError):
        try:
            async with asyncio.timeout(SECONDS):
                await socket.prepare(request)
                body = wire.ErrorBody(
                    type="invalid_request_error", code=error.code, message=error.message, param=error.param
                )
                await socket.send_str(wire.dump(wire.Error(error=body), f"event_{secrets.token_hex(8)}"))
                code = CLOSE_CODES.get(error.code, INVALID_REQUEST)
                await socket.close(code=code, message=f"invalid_request_error.{error.code}".encode())
        except TimeoutError:
            abort(request)
        finally:
            backend.refusing -= 1
    return socket
