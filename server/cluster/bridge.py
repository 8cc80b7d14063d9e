"""An ASGI application that passes HTTP and websockets on to a server, in both directions as they come.

It reads no more than it has passed on: of each direction one message, or one piece of a body, is in hand.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from urllib.parse import quote_from_bytes

import aiohttp
from multidict import CIMultiDict
from yarl import URL

from server.cluster.asgi import Message, Receive, Scope, Send, unavailable
from server.cluster.guard import BRIDGE, CLIENT, OWN, SCHEME
from server.cluster.routes import HEADER, Routes, Target
from server.cluster.sockets import bridge_socket, keep_refusals

log = logging.getLogger(__name__)

CONNECT_SECONDS = 5.0
TELL_SECONDS = 10.0
BUFFER = 64 * 1024  # bytes of a response that wait to be passed on
# Of one connection, and not of the request that it carries (RFC 9110, 7.6.1); and what the websocket's client writes.
HOP = {
    *("connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"),
    *("transfer-encoding", "upgrade", "expect", "sec-websocket-key", "sec-websocket-version"),
    *("sec-websocket-extensions", "sec-websocket-protocol", HEADER.decode()),
}
BEFORE = {"date", "server"}  # headers of responses that what is before this adds; so does Serve with a request's id


class Bridge:
    """See the module. ``routes`` says where each request goes."""

    def __init__(self, routes: Routes) -> None:
        self.routes = routes
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI 3 has it."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        target = await self.routes.choose(self._opened, scope)
        if scope["type"] == "websocket":
            scope = {**scope, "query_string": _with_token(scope)}
            url = None if target is None else _url(target, scope)
            headers = CIMultiDict[str]() if target is None else _headers(target, scope)
            await bridge_socket(self._opened, url, headers, scope, receive, send)
        elif target is None:
            await _refuse(send)
        else:
            await self._request(target, scope, receive, send)

    async def tell(self, target: Target, path: str, body: object) -> None:
        """Post to a replica's guard; one that does not answer may have gone, and its memory with it."""
        try:
            async with (
                asyncio.timeout(TELL_SECONDS),
                self._opened.post(target.url + path, json=body, headers={BRIDGE: target.secret}) as response,
            ):
                if response.status != 204:
                    log.error("%s answered %s with %d", target.id, path, response.status)
        except (aiohttp.ClientError, OSError) as error:  # a TimeoutError is one
            log.warning("%s did not take %s: %s", target.id, path, type(error).__name__)

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()

    @property
    def _opened(self) -> aiohttp.ClientSession:
        """The pool of connections: no cookies, no proxies, no redirects, and nothing is decompressed."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                auto_decompress=False,
                read_bufsize=BUFFER,
                middlewares=(keep_refusals,),
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            )
        return self._session

    async def _request(self, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request, and its response; a client that leaves ends both."""
        passing = asyncio.create_task(self._pass_on(target, scope, body := _Body(receive), send), name="bridge")
        leaving = asyncio.create_task(body.left.wait(), name="bridge-client")
        try:
            await asyncio.wait([passing, leaving], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (passing, leaving):
                task.cancel()
            await asyncio.wait([passing, leaving])
            await body.close()
        if not passing.cancelled():
            passing.result()

    async def _pass_on(self, target: Target, scope: Scope, body: "_Body", send: Send) -> None:
        begun = False
        try:
            data = await body.begin(_headers_of(scope))
            async with self._opened.request(
                scope["method"], _url(target, scope), headers=_headers(target, scope), data=data, allow_redirects=False
            ) as response:
                gone = HOP | BEFORE | ({"x-request-id"} if "x-request-id" in _headers_of(scope) else set())
                given = [(name.lower(), value) for name, value in response.raw_headers]
                headers = [(name, value) for name, value in given if name.decode("latin-1") not in gone]
                begun = True
                await send({"type": "http.response.start", "status": response.status, "headers": headers})
                body.watch()
                async for piece in response.content.iter_any():
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        except (aiohttp.ClientError, OSError) as error:
            log.warning("%s %s failed at %s: %s", scope["method"], scope["path"], target.id, type(error).__name__)
            if begun:  # what ends here must not look complete: the server cuts the connection
                raise ConnectionError("the server of this request has gone") from None
            await _refuse(send)


class _Body:
    """A request's body, and whether its client has left."""

    def __init__(self, receive: Receive) -> None:
        self.left = asyncio.Event()
        self._receive = receive
        self._watching: asyncio.Task[None] | None = None
        self._whole = False

    async def begin(self, headers: CIMultiDict[str]) -> AsyncIterator[bytes] | None:
        """What is to be sent; None where there is no body."""
        if "Transfer-Encoding" in headers or headers.get("Content-Length", "0") != "0":
            return self._pieces()
        while not self._whole and not self.left.is_set():
            self._note(await self._receive())
        self.watch()
        return None

    async def _pieces(self) -> AsyncIterator[bytes]:
        while not self._whole:
            message = await self._receive()
            self._note(message)
            if self.left.is_set():
                raise ConnectionResetError("the client has left")
            if piece := message.get("body", b""):
                yield piece
        self.watch()

    def _note(self, message: Message) -> None:
        if message["type"] == "http.disconnect":
            self.left.set()
        self._whole = not message.get("more_body", False)

    def watch(self) -> None:
        """Notice from now on when the client leaves, once its body is read."""
        if self._whole and self._watching is None:
            self._watching = asyncio.create_task(self._watch(), name="bridge-watch")

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.left.set()

    async def close(self) -> None:
        """Watch no longer."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        kind = (await receive())["type"]
        await send({"type": f"{kind}.complete"})
        if kind == "lifespan.shutdown":
            return


def _headers_of(scope: Scope) -> CIMultiDict[str]:
    return CIMultiDict((name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"])


def _headers(target: Target, scope: Scope) -> CIMultiDict[str]:
    """Those of a request, without what concerns the connection that it came over, and who has sent it."""
    given = _headers_of(scope)
    named = {name.strip().lower() for value in given.getall("Connection", ()) for name in value.split(",")}
    gone = HOP | OWN | named
    headers = CIMultiDict((name, value) for name, value in given.items() if name.lower() not in gone)
    headers[BRIDGE] = target.secret
    headers[CLIENT] = (scope.get("client") or ("",))[0]
    headers[SCHEME] = "https" if scope.get("scheme") in ("https", "wss") else "http"
    return headers


def _url(target: Target, scope: Scope) -> URL:
    path = scope.get("raw_path") or scope["path"].encode()
    query = scope.get("query_string", b"")
    text = path.decode("latin-1") + (f"?{query.decode('latin-1')}" if query else "")
    return URL(target.url + text, encoded=True)


def _with_token(scope: Scope) -> bytes:
    """The query, with the session's token that came in a header."""
    query: bytes = scope.get("query_string", b"")
    token = next((value for name, value in scope["headers"] if name == HEADER), b"")
    if not token or b"session=" in query:
        return query
    return b"&".join(part for part in (query, b"session=" + quote_from_bytes(token).encode()) if part)


async def _refuse(send: Send) -> None:
    error = unavailable()
    body = json.dumps(error.body()).encode()
    headers = error.headers() | {"Content-Type": "application/json"}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": False})
