"""The telephone adapter's listener: who may call, how many, how long."""

import asyncio
import http
import ipaddress
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from clients.target import Target, session
from clients.telephony import keys, media, signature, twiml
from clients.telephony.media import MediaCall
from clients.telephony.relay import RelayCall
from clients.telephony.wire import MESSAGE_BYTES, CallEndedError, CallError, Json, Wire
from loquent import LoquentError, UsageError

log = logging.getLogger(__name__)

DEFAULT_PORT = 8_710
READY_SECONDS = 15.0  # that a caller waits for the server
QUEUED = 64  # messages of a call that wait
PATHS = {twiml.MEDIA: "media", twiml.RELAY: "relay"}
CLOSED = {"malformed": 1007, "unavailable": 1011, "over": 1000}


@dataclass(frozen=True, slots=True)
class Line:
    """Where the adapter listens, and for whom."""

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT  # 0: any free one
    token: str = field(default="", repr=False)  # of the Twilio account; "" takes calls from this machine only
    public_url: str = ""  # the adapter's address as Twilio knows it, such as "https://phone.example"
    calls: int = 16  # at a time
    seconds: float = 1800.0  # that a call may take
    greeting: twiml.Greeting = field(default_factory=twiml.Greeting)
    keys: str = keys.MESSAGE  # the message that pressed keys become

    def __post_init__(self) -> None:
        """Raises: UsageError when others could call without a signature, or what is needed for one is missing."""
        if not self.token and not _loopback(self.host):
            raise UsageError(
                f"{self.host} can be reached from other machines: set TWILIO_AUTH_TOKEN to your account's auth token, "
                "by which Twilio's signature is checked, or listen on this machine only: 127.0.0.1."
            )
        if self.token and not self.public_url:
            raise UsageError("TWILIO_AUTH_TOKEN is set: name the address that Twilio signs, --public-url https://…")
        if self.public_url and urlsplit(self.public_url).scheme not in ("https", "http"):
            raise UsageError("--public-url looks like https://phone.example")


def _loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@asynccontextmanager
async def adapter(target: Target, line: Line) -> AsyncIterator[str]:
    """Take calls beside whatever runs in the context; yields the address, such as ``http://127.0.0.1:8710``.

    Raises: UsageError when the address can't be used.
    """
    switchboard = _Switchboard(target, line)
    try:
        server = await serve(
            switchboard.call,
            line.host,
            line.port,
            process_request=switchboard.admit,
            max_size=MESSAGE_BYTES,
            max_queue=QUEUED,
            compression=None,
            close_timeout=2,
        )
    except OSError as error:
        raise UsageError(f"The telephone can't listen on {line.host}, port {line.port}: {error.strerror}.") from None
    async with server:
        host, port = next(iter(server.sockets)).getsockname()[:2]
        yield f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Switchboard:
    """The calls of one adapter."""

    def __init__(self, target: Target, line: Line) -> None:
        self._target = target
        self._line = line
        self._calls = 0

    def admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """Refuse a handshake, or answer a request for a document; ``None`` lets a call in."""
        path = urlsplit(request.path).path
        documents, calls = path in twiml.VOICE, path in PATHS
        if not documents and not calls:
            return connection.respond(http.HTTPStatus.NOT_FOUND, "There is nothing at this path.\n")
        if not self._signed(request, websocket=calls):
            log.warning("a request without Twilio's signature was refused")
            return connection.respond(http.HTTPStatus.FORBIDDEN, "This has not Twilio's signature.\n")
        if documents:
            return self._document(path, request)
        if self._calls >= self._line.calls:
            log.warning("a call was refused: there are %d", self._calls)
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "Every line is busy.\n")
        return None

    def _signed(self, request: Request, *, websocket: bool) -> bool:
        line = self._line
        if not line.token:
            return "Origin" not in request.headers  # no page in a browser of this machine either
        given: Sequence[str] = request.headers.get_all(signature.HEADER)
        if len(given) != 1:
            return False
        return signature.signed(given[0], line.public_url.rstrip("/"), request.path, line.token, websocket=websocket)

    def _document(self, path: str, request: Request) -> Response:
        url = self._line.public_url.rstrip("/") or f"https://{request.headers.get('Host', '')}"
        kind: twiml.Kind = "media" if twiml.VOICE[path] == "media" else "relay"
        body = twiml.document(kind, url, self._line.greeting).encode()
        headers = Headers(
            {"Content-Type": "text/xml; charset=utf-8", "Content-Length": str(len(body)), "Connection": "close"}
        )
        return Response(200, "OK", headers, body)

    async def call(self, socket: ServerConnection) -> None:
        """Take a call until it ends, fails, or has taken too long."""
        if self._calls >= self._line.calls:  # several handshakes at a time
            await socket.close(1013, "every line is busy")
            return
        self._calls += 1
        try:
            why, reason = await self._connect(socket)
            await socket.close(CLOSED[why], reason[:120])
        finally:
            self._calls -= 1

    async def _connect(self, socket: ServerConnection) -> tuple[str, str]:
        """How a call ended, and why."""
        assert socket.request is not None  # noqa: S101 - its handshake is done
        kind = PATHS[urlsplit(socket.request.path).path]
        wire = Wire(socket)
        ready = False
        try:
            async with asyncio.timeout(READY_SECONDS) as patience, session(self._for(kind)) as opened:
                ready = True
                for warning in opened.warnings:
                    log.warning("the server: %s", warning)
                patience.reschedule(asyncio.get_running_loop().time() + self._line.seconds)
                call = (MediaCall if kind == "media" else RelayCall)(wire, opened, self._line.keys)
                await _run(call)
        except CallEndedError:
            return "over", ""
        except CallError as error:
            log.warning("a call broke the protocol: %s", error)
            return "malformed", str(error)
        except LoquentError as error:
            log.warning("a call failed: %s", error)
            return "unavailable", "the assistant is not available"
        except TimeoutError:
            if not ready:
                log.warning("a call failed: the server is not ready")
                return "unavailable", "the assistant is not available"
            return await self._too_long(wire, kind)
        return "over", ""

    def _for(self, kind: str) -> Target:
        """The server, and the settings of a call's session."""
        given = self._target.session
        if kind == "relay":
            text_only: Json = {name: value for name, value in given.items() if name != "audio"}
            return replace(self._target, session=text_only | {"output_modalities": ["text"]})
        return replace(self._target, session=given | {"audio": given.get("audio", {}) | media.SETTINGS})

    async def _too_long(self, wire: Wire, kind: str) -> tuple[str, str]:
        log.warning("a call was ended: it took too long")
        if kind == "relay":
            try:
                await wire.send({"type": "end"})
            except CallEndedError:
                return "over", ""
        return "over", "the call took too long"


async def _run(call: MediaCall | RelayCall) -> None:
    """Listen, speak and take keys until one of them ends. Raises: what that one raises."""
    tasks = [asyncio.create_task(work) for work in (call.listen(), call.speak(), call.keys.run())]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
