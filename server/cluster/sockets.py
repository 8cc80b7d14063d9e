"""Passes a websocket on: messages, how it is closed, and how it was refused, in both directions."""

import asyncio
import json
import logging
from collections.abc import Sequence
from contextlib import suppress

import aiohttp
from aiohttp import ClientHandlerType, ClientRequest, ClientResponse, ClientWSTimeout, WSCloseCode, WSMsgType
from multidict import CIMultiDict
from yarl import URL

from server.cluster.asgi import Receive, Scope, Send, unavailable
from server.errors import ApiError

log = logging.getLogger(__name__)

Inner = aiohttp.ClientWebSocketResponse[bool]

LARGEST = 64 * 1024 * 1024  # bytes of one message of a server; its own bound is below that
CLOSE_SECONDS = 5.0
REFUSAL_BODY = 64 * 1024  # bytes of the body of a refused handshake
RESPONSE = "websocket.http.response"  # the extension by which a refused handshake has a body
# Codes that no frame carries: a client that vanished is one that may come back.
UNSENT = (1004, 1005, 1006, 1015)
SHOWN = (b"content-type", b"retry-after", b"x-request-id")  # headers of a refusal
GONE = "gateway_gone"


class _RefusedError(Exception):
    """The server has refused the handshake."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        super().__init__(status)
        self.status = status
        self.headers = headers
        self.body = body

    @classmethod
    def of(cls, error: ApiError) -> "_RefusedError":
        """A refusal of this cluster's own."""
        given = error.headers() | {"Content-Type": "application/json"}
        headers = [(name.lower().encode(), value.encode()) for name, value in given.items()]
        return cls(error.status, headers, json.dumps(error.body()).encode())


async def bridge_socket(
    session: aiohttp.ClientSession,
    url: URL | None,
    headers: CIMultiDict[str],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Serve one websocket until either side has closed it; ``url`` is None where no server takes it."""
    await receive()  # websocket.connect
    try:
        if url is None:
            raise _RefusedError.of(unavailable())
        inner = await _connect(session, url, headers, scope.get("subprotocols", ()))
    except _RefusedError as refused:
        await _refuse(scope, send, refused)
        return
    try:
        await send({"type": "websocket.accept", "subprotocol": inner.protocol, "headers": []})
        await _both(inner, receive, send)
    finally:
        if not inner.closed:
            with suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await inner.close(code=WSCloseCode.GOING_AWAY)


async def keep_refusals(request: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
    """A middleware of the client's: aiohttp drops the body of a refused handshake. Raises: _RefusedError."""
    response = await handler(request)
    if response.status == 101 or "Upgrade" not in request.headers:
        return response
    try:
        body = await response.content.read(REFUSAL_BODY)
    finally:
        response.close()
    shown = [(name.lower(), value) for name, value in response.raw_headers if name.lower() in SHOWN]
    raise _RefusedError(response.status, shown, body)


async def _connect(
    session: aiohttp.ClientSession, url: URL, headers: CIMultiDict[str], protocols: Sequence[str]
) -> Inner:
    """A websocket to the server. Raises: _RefusedError."""
    waits = ClientWSTimeout(ws_close=CLOSE_SECONDS)
    try:
        return await session.ws_connect(
            url, headers=headers, protocols=protocols, autoclose=False, max_msg_size=LARGEST, timeout=waits
        )
    except (aiohttp.ClientError, OSError) as error:
        log.warning("a websocket failed at %s: %s", url.authority, type(error).__name__)
        raise _RefusedError.of(unavailable()) from None


async def _both(inner: Inner, receive: Receive, send: Send) -> None:
    """Pass messages on until one side has closed, and its close to the other."""
    tasks = [
        asyncio.create_task(_from_client(inner, receive), name="bridge-client"),
        asyncio.create_task(_from_server(inner, send), name="bridge-server"),
    ]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()


async def _from_client(inner: Inner, receive: Receive) -> None:
    while (message := await receive())["type"] == "websocket.receive":
        try:
            if (text := message.get("text")) is not None:
                await inner.send_str(text)
            else:
                await inner.send_bytes(message["bytes"])
        except ConnectionError:  # what reads from the server has noticed, and says how it has ended
            await asyncio.Event().wait()
    code = message.get("code") or WSCloseCode.GOING_AWAY
    await inner.close(
        code=WSCloseCode.GOING_AWAY if code in UNSENT else code, message=(message.get("reason") or "").encode()[:123]
    )


async def _from_server(inner: Inner, send: Send) -> None:
    while True:
        message = await inner.receive()
        match message.type:
            case WSMsgType.TEXT:
                await send({"type": "websocket.send", "text": message.data})
            case WSMsgType.BINARY:
                await send({"type": "websocket.send", "bytes": message.data})
            case WSMsgType.CLOSE:
                code = message.data or WSCloseCode.OK
                await send({"type": "websocket.close", "code": int(code), "reason": message.extra or ""})
                return
            case _:  # it has gone, and the client may come back to another one
                await send({"type": "websocket.close", "code": int(WSCloseCode.SERVICE_RESTART), "reason": GONE})
                return


async def _refuse(scope: Scope, send: Send, refused: _RefusedError) -> None:
    """Refuse the handshake as the server did, as far as what is before this can."""
    if RESPONSE in (scope.get("extensions") or {}):
        await send({"type": f"{RESPONSE}.start", "status": refused.status, "headers": refused.headers})
        await send({"type": f"{RESPONSE}.body", "body": refused.body, "more_body": False})
    else:
        await send({"type": "websocket.close", "code": int(WSCloseCode.TRY_AGAIN_LATER), "reason": "refused"})
