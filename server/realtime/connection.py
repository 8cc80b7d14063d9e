"""One realtime websocket: reads its client's events, and sends those of its session."""

import asyncio
import hmac
import logging
import secrets
import time
from contextlib import suppress
from dataclasses import replace

from aiohttp import WSCloseCode, WSMsgType, web

from pipelines.capacity import site_of
from server.access.caller import CALLER
from server.auth import BETA_SUBPROTOCOL, offered, subprotocols
from server.backend import BACKEND, Backend, abort
from server.errors import RETRY_AFTER, ApiError
from server.history.interface import NOT_FOUND, TAKEN, HistoryError
from server.limits.pace import FRAME, REJECTED
from server.protocol import pace
from server.realtime import session, wire
from server.realtime.heartbeat import Heartbeat
from server.realtime.live import LiveSession, Place
from server.realtime.recording import Restored, hash_token
from server.realtime.session import Input, State, beta
from server.realtime.sessions import session_id

log = logging.getLogger(__name__)

WRITER_LIMIT = 16 * 1024  # bytes that aiohttp buffers before a send waits for the socket
FRAMES = (WSMsgType.TEXT, WSMsgType.BINARY, WSMsgType.PING, WSMsgType.PONG)
TAKEN_OVER = 4001, "session_taken_over"  # the close code and reason of a socket whose session another one has


class Connection:
    """A connected client, and the session that it speaks to."""

    __slots__ = (
        "_after",
        "_backend",
        "_closing",
        "_final",
        "_first",
        "_pinging",
        "_request",
        "_socket",
        "_waking",
        "_writing",
        "live",
    )

    def __init__(
        self,
        socket: web.WebSocketResponse,
        request: web.Request,
        backend: Backend,
        live: LiveSession,
        after: Place | None = None,
    ) -> None:
        self.live = live
        self._final = False  # the client has closed, and does not come back
        self._after = after  # the last event that a client has which comes back
        self._socket = socket
        self._request = request
        self._backend = backend
        self._first: list[str] = []  # what is sent before the session's log
        self._writing: asyncio.Task[None] | None = None
        self._pinging: asyncio.Task[None] | None = None
        self._waking: asyncio.Future[None] | None = None
        self._closing = False

    async def run(self) -> None:
        """Serve the client until either side closes; every task of the connection has ended by then."""
        self._first = self.live.attach(self, self._after)
        self.kick()
        heartbeat = Heartbeat(self._backend.settings.limits.heartbeat, ping=self._ping, cut=self._cut)
        own = pace(self._request)
        try:  # here, and not in a coroutine of its own, because an idle socket waits in it
            while (message := await self._socket.receive()).type in FRAMES:
                heartbeat.beat()
                cost = FRAME
                if message.type is WSMsgType.PING:
                    await self._backend.deliver(self._request, self._socket.pong(message.data))
                elif message.type is not WSMsgType.PONG:
                    with heartbeat.paused():
                        await self._take(given := self._parse(message.data))
                    cost = REJECTED if isinstance(given, session.Rejected) else FRAME
                if (wait := own.charge(cost)) is not None:
                    with heartbeat.paused():
                        await own.lane.wait(wait)
            self._final = message.type is WSMsgType.ERROR or message.data == WSCloseCode.OK
        except ConnectionError:
            pass  # the client disconnected, or was cut
        except Exception:
            log.exception("a realtime connection failed")
            self.live.fail()
        finally:
            heartbeat.stop()
            await self._leave()

    async def _leave(self) -> None:
        """Leave the session, and end what the connection runs."""
        if self.live.detach(self):
            self._backend.live.left(self.live, final=self._final)
        if self._writing is not None:
            if not self._closing:
                self._writing.cancel()
            await asyncio.wait([self._writing])
        if self._pinging is not None:
            self._pinging.cancel()
            await asyncio.wait([self._pinging])

    def _cut(self) -> None:
        abort(self._request)

    def kick(self) -> None:
        """Send what waits, by a task that lives as long as something does, or is about to come."""
        if self._waking is not None:
            if not self._waking.done():
                self._waking.set_result(None)
        elif self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="realtime-write")

    def replace(self) -> None:
        """Another socket has the session: send nothing more, and close."""
        if self._writing is not None:
            self._writing.cancel()
        self._closing = True
        self._writing = asyncio.create_task(self._close(*TAKEN_OVER), name="realtime-close")

    async def _take(self, given: Input) -> None:
        """Feed the session, once it has room for what follows from it."""
        ears = self.live.ears
        if isinstance(given, wire.AudioAppend) and ears is not None:
            if not ears.ready:
                await self._backend.pipeline.wait_until(lambda: ears.ready)
            await ears.room()
        await self.live.room()
        if not self.live.is_repeated(given):
            self.live.feed(given)

    def _ping(self) -> None:
        """Start a task that sends a ping, unless one is still sending."""
        if self._pinging is None or self._pinging.done():
            self._pinging = asyncio.create_task(self._send_ping(), name="realtime-ping")

    async def _send_ping(self) -> None:
        with suppress(ConnectionError):
            await self._backend.deliver(self._request, self._socket.ping())

    def _parse(self, raw: bytes) -> Input:
        try:
            event = wire.parse(raw, message_bytes=self._backend.settings.limits.message_bytes)
        except wire.WireError as error:
            return session.Rejected(error)
        if isinstance(event, wire.AudioAppend) and self.live.ears is None:
            return event.model_copy(update={"audio": ""})  # it is answered, and not held
        return event

    async def _write(self) -> None:
        events = self.live.log
        try:
            while self._first:
                await self._backend.deliver(self._request, self._socket.send_str(self._first[0]))
                self._first.pop(0)
            while True:
                while (entry := events.next()) is not None:
                    await events.storing(entry)
                    await self._backend.deliver(self._request, self._socket.send_str(entry.text))
                    events.sent()
                if events.ended or not self.live.replying:
                    break
                await self._more()
        except ConnectionError:
            return  # the client disconnected, or was cut
        except HistoryError as error:
            await self._unstored(error)
            return
        if events.ended:
            self._closing = True
            await self._close(*self.live.close_code)

    async def _more(self) -> None:
        """Wait for the next event of a reply in progress."""
        self._waking = asyncio.get_running_loop().create_future()
        try:
            await self._waking
        finally:
            self._waking = None

    async def _unstored(self, error: HistoryError) -> None:
        """What the next event announces is not stored: the client is sent away, and may come back for it."""
        if error.code == TAKEN:  # the session has ended here, and its socket is closed for that
            return
        if error.code == NOT_FOUND:
            self.live.deleted()
            self._writing = asyncio.create_task(self._write(), name="realtime-write")
            return
        log.warning("a conversation could not be stored: %s", error.code)
        event = wire.Error.of(wire.WireError(error.code, error.message))
        with suppress(ConnectionError):
            text = wire.dump(event, self.live.id_beside())
            await self._backend.deliver(self._request, self._socket.send_str(text))
        self._closing = True
        await self._close(WSCloseCode.TRY_AGAIN_LATER, error.code)

    async def _close(self, code: int, reason: str = "") -> None:
        try:
            async with asyncio.timeout(self._backend.settings.limits.send_seconds):
                await self._socket.close(code=code, message=reason.encode())
        except TimeoutError:
            abort(self._request)


def _check_wanted(request: web.Request, backend: Backend) -> None:
    """Raises: ApiError or StageError where the handshake asks for what is not here."""
    if request.query.get("intent") == "transcription" and backend.hearing is None:
        text = "This server has no speech recognition: there are no transcription sessions."
        raise ApiError(400, "transcription_not_supported", text, "intent")
    if "call_id" in request.query:
        raise ApiError(404, "call_id_not_found", "This server takes no calls over WebRTC or SIP.", "call_id")
    if BETA_SUBPROTOCOL in offered(request):
        raise ApiError(400, beta.REFUSAL.code, beta.REFUSAL.message)
    backend.names.resolve(request.query.get("model"))


def _state(request: web.Request, backend: Backend, id: str, token: str) -> State:
    """The state of a session that begins."""
    caller = request[CALLER]
    return State(
        id=id,
        token=token,
        names=backend.names.chosen(request.query.get("model")),
        limits=backend.settings.limits,
        tenant=caller.tenant,
        leash=caller.leash,
        turns_left=backend.access.secrets.turns_left(caller.leash),
        expires_at=backend.limiter.session_end(caller, time.time()),
        voices=backend.voices,
        verdicts=backend.reports_verdicts,
        draws=backend.draws,
        listens=backend.hearing is not None,
        transcribes=request.query.get("intent") == "transcription",
        beta_header="realtime=v1" in request.headers.get("OpenAI-Beta", ""),
    )


def _begun(request: web.Request, backend: Backend) -> LiveSession:
    """A new session."""
    id, caller = secrets.token_hex(8), request[CALLER]
    token = f"sess_{id}.{secrets.token_urlsafe(24)}" if backend.settings.sessions.linger else ""
    if token and caller.leash is not None:
        token += f".{caller.leash.secret}"  # whose conversation it is: its client may come back with another secret
    live = LiveSession(_state(request, backend, id, token), backend, caller, backend.origin(request))
    backend.live.begin(live, session.Connected())
    return live


async def _resumed(request: web.Request, backend: Backend, token: str) -> LiveSession:
    """The session that a client comes back to. Raises: ApiError where there is none, HistoryError."""
    owner = request[CALLER].owner
    live: LiveSession | None = backend.live.find(token, owner)
    if live is None and backend.history is not None:
        live = await _restored(request, backend, token) or backend.live.find(token, owner)
    if live is None:
        text = "There is no such session, or no longer; begin a new one."
        raise ApiError(404, "session_not_found", text, "session")
    return live


async def _restored(request: web.Request, backend: Backend, token: str) -> LiveSession | None:
    """The session as the history has it; None where it has none, or another socket brought it back meanwhile."""
    named, _, secret = token.partition(".")[2].partition(".")
    id, site = session_id(token), site_of(request[CALLER].owner)
    owner = f"{site}/{secret}" if secret else site
    if backend.history is None or not named:
        return None
    stored = await backend.history.load(owner, f"conv_{id}")
    if stored is None or stored.kind != "realtime" or id in backend.live:
        return None
    if not hmac.compare_digest(str(stored.session.get("token", "")), hash_token(token)):
        return None
    # Another server may still hold the session. What it stores from here on is refused, so what is read now is whole.
    if not await backend.history.claim(owner, f"conv_{id}"):
        return None
    stored = await backend.history.load(owner, f"conv_{id}")
    if stored is None or id in backend.live:
        return None
    backend.check_ready()  # again: a session that began behind the drain's beginning would not hear of it
    try:
        after = Place.of(id, request.query.get("after")).serial
        restored = Restored(stored, _state(request, backend, id, token), after)
    except ValueError as error:
        log.error("%s: %s", error, type(error.__cause__).__name__)
        return None
    live = LiveSession(restored.state, backend, replace(request[CALLER], owner=owner), backend.origin(request))
    live.restore(restored)
    backend.live.begin(live, session.Restored())
    return live


async def connect(request: web.Request) -> web.StreamResponse:
    """``GET /v1/realtime``: a websocket for the OpenAI Realtime protocol."""
    backend = request.app[BACKEND]
    limits = backend.settings.limits
    backend.check_ready()
    if len(backend.connections) >= limits.connections:
        raise ApiError(
            503, "too_many_connections", "The server has reached its limit of connections.", retry_after=RETRY_AFTER
        )
    _check_wanted(request, backend)
    token = request.query.get("session")
    live = _begun(request, backend) if token is None else await _resumed(request, backend, token)
    after = None if token is None else Place.of(live.id, request.query.get("after"))
    socket = web.WebSocketResponse(
        protocols=subprotocols(request),
        autoping=False,  # pings are answered in ``_read``, where only whole frames count for the heartbeat
        timeout=limits.send_seconds,
        max_msg_size=limits.audio_message_bytes + 1,  # aiohttp refuses what has as many
        compress=False,  # small frames do not shrink, and compression costs time
        writer_limit=WRITER_LIMIT,
        decode_text=False,
    )
    connection = Connection(socket, request, backend, live, after)
    backend.connections.add(connection)
    try:
        try:
            await socket.prepare(request)
        except BaseException:
            if live.outlet is None:
                backend.live.left(live, final=token is None)
            raise
        await connection.run()
    finally:
        backend.connections.discard(connection)
    return socket
