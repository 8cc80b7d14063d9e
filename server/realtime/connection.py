"""One realtime websocket: moves events between its socket, its session and the pipeline.

One task owns the session's state. The reader, and one task per response in progress, send it inputs; the writer sends
its events to the socket. Every queue between them is bounded in bytes. A client that does not read therefore slows down
only itself (backpressure), and its connection is cut when one send exceeds its time limit.
"""

import asyncio
import logging
import secrets
from contextlib import suppress

from aiohttp import WSCloseCode, WSMsgType, web

from pipelines.events import AudioDelta, StageError, Turn
from pipelines.listening.events import Ended, Hears, Report, Transcribed
from pipelines.listening.listener import Listener
from server.auth import BETA_SUBPROTOCOL, TENANT, offered, subprotocols
from server.backend import BACKEND, Backend, abort
from server.errors import RETRY_AFTER, ApiError, as_stage_error
from server.realtime import session, wire
from server.realtime.encoding import SoundEncoder
from server.realtime.heartbeat import Heartbeat
from server.realtime.queues import ByteQueue
from server.realtime.session import Begin, Input, State, Stop, beta

log = logging.getLogger(__name__)

INBOX = 256 * 1024  # bytes of inputs queued for the owner
WRITER_LIMIT = 16 * 1024  # bytes that aiohttp buffers before a send waits for the socket


class Connection:
    """A connected client and its session."""

    def __init__(self, socket: web.WebSocketResponse, request: web.Request, backend: Backend) -> None:
        self._socket = socket
        self._request = request
        self._backend = backend
        self._limits = backend.settings.limits
        self._hearing = backend.hearing
        self._listener: Listener | None = None  # from the first audio on
        self._hears: Hears | None = None
        self._listening: asyncio.Task[None] | None = None
        self._state = State(
            id=secrets.token_hex(8),
            names=backend.names,
            limits=self._limits,
            tenant=request[TENANT],
            voices=backend.voices,
            verdicts=backend.reports_verdicts,
            draws=backend.draws,
            listens=self._hearing is not None,
            transcribes=request.query.get("intent") == "transcription",
            beta_header="realtime=v1" in request.headers.get("OpenAI-Beta", ""),
        )
        self._inbox: ByteQueue[Input] = ByteQueue(INBOX)
        self._outgoing: ByteQueue[str | None] = ByteQueue(self._limits.outgoing_bytes)
        self._encoders: dict[str, SoundEncoder] = {}  # by response, of those that are not PCM
        self._turns: dict[str, asyncio.Task[None]] = {}  # bounded by ``limits.responses``
        self._pinging: asyncio.Task[None] | None = None
        self._sent = 0
        self._failed = False

    async def run(self) -> None:
        """Serve the client until either side closes; every task of the connection has ended by then."""
        writer = asyncio.create_task(self._write(), name="realtime-write")
        others = (
            asyncio.create_task(self._read(), name="realtime-read"),
            asyncio.create_task(self._own(), name="realtime-own"),
        )
        try:
            # The writer ends when everything is sent, or when the connection is lost; the others end only by a fault.
            waiting = {writer, *others}
            while not writer.done():
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        except Exception:
            log.exception("a realtime connection failed")
            self._failed = True
        finally:
            more = (task for task in (self._pinging, self._listening) if task is not None)
            tasks = (writer, *others, *self._turns.values(), *more)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            if self._listener is not None and self._hearing is not None:
                self._hearing.capacity.release(self._state.tenant)
        if self._failed:
            await self._close(WSCloseCode.INTERNAL_ERROR)

    async def drain(self) -> None:
        """Let the session finish what is in progress, start nothing new, and then close (1001)."""
        await self._inbox.put(session.Draining())

    async def _read(self) -> None:
        heartbeat = Heartbeat(self._limits.heartbeat, ping=self._ping, cut=lambda: abort(self._request))
        try:
            async for message in self._socket:
                heartbeat.beat()
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    given = self._parse(message.data)
                    with heartbeat.paused():
                        await self._room_for(given)
                        held = self._hearing is not None or not isinstance(given, wire.AudioAppend)
                        await self._inbox.put(given, len(message.data) if held else 0)
                elif message.type is WSMsgType.PING:
                    await self._backend.deliver(self._request, self._socket.pong(message.data))
        except ConnectionError:
            pass  # the client disconnected, or was cut
        finally:
            heartbeat.stop()
        await self._inbox.put(session.Disconnected())

    async def _room_for(self, given: Input) -> None:
        """Hold the client back while much of its audio waits to be heard, or the models that hear it are loaded."""
        if not isinstance(given, wire.AudioAppend) or self._hearing is None:
            return
        if self._listener is None:
            hearing = self._hearing
            await self._backend.pipeline.wait_until(lambda: hearing.ready)
        else:
            await self._listener.room()

    def _ping(self) -> None:
        """Start a task that sends a ping, unless one is still sending."""
        if self._pinging is None or self._pinging.done():
            self._pinging = asyncio.create_task(self._send_ping(), name="realtime-ping")

    async def _send_ping(self) -> None:
        with suppress(ConnectionError):
            await self._backend.deliver(self._request, self._socket.ping())

    def _parse(self, raw: bytes) -> Input:
        try:
            event = wire.parse(raw, message_bytes=self._limits.message_bytes)
        except wire.WireError as error:
            return session.Rejected(error)
        if isinstance(event, wire.AudioAppend) and self._hearing is None:
            return event.model_copy(update={"audio": ""})  # it is answered, and not held
        return event

    async def _own(self) -> None:
        """The only task that changes the state."""
        given: Input = session.Connected()
        while True:
            await self._advance(given)
            if self._state.closed or (self._state.draining and not self._state.replies):
                break
            given = await self._inbox.get()
        await self._outgoing.put(None)

    async def _advance(self, given: Input) -> None:
        self._state, outputs = session.advance(self._state, given)
        for output in outputs:
            await self._perform(output)
        if self._listener is not None:
            self._listener.replying(active=self._state.active is not None)

    async def _perform(self, output: session.Output) -> None:
        match output:
            case Begin(response_id, turn):
                task = asyncio.create_task(self._respond(response_id, turn), name=response_id)
                self._turns[response_id] = task
                task.add_done_callback(lambda _: self._turns.pop(response_id, None))
            case Stop(response_id):
                if response_id in self._turns:
                    self._turns[response_id].cancel()
            case session.Configure(hears):
                self._hears = hears
                if self._listener is not None:
                    self._listener.configure(hears)
            case session.Hear(data):
                await self._hear(data)
            case session.CommitAudio(serial):
                if self._listener is not None:
                    self._listener.commit(serial)
            case session.ClearAudio():
                if self._listener is not None:
                    self._listener.clear()
            case session.Silence():
                if self._listener is not None:
                    self._listener.silenced()
            case wire.ServerEvent():
                self._tell_listener(output)
                for event in self._encoded(output):
                    self._sent += 1
                    text = wire.dump(event, f"event_{self._state.id}{self._sent}")
                    await self._outgoing.put(text, len(text))

    def _encoded(self, event: wire.ServerEvent) -> list[wire.ServerEvent]:
        """The event, with sound in the encoding that was announced."""
        match event:
            case wire.ResponseCreated(response=wire.Response(audio=wire.ResponseAudio() as audio) as response):
                format = audio.output.format if audio.output else None
                if format is not None and format.type != wire.PCM.type:
                    self._encoders[response.id] = SoundEncoder(format.type)
            case wire.ResponseDone():
                self._encoders.pop(event.response.id, None)
            case wire.AudioDelta() if encoder := self._encoders.get(event.response_id):
                delta = encoder(event.delta)
                return [event.model_copy(update={"delta": delta})] if delta else []
            case wire.AudioDone() if encoder := self._encoders.get(event.response_id):
                rest = encoder("", last=True)
                last = wire.AudioDelta(response_id=event.response_id, item_id=event.item_id, delta=rest)
                return [*([last] if rest else []), event]
        return [event]

    async def _hear(self, data: bytes) -> None:
        """Pass audio to the session's ears, which begin with the first of it."""
        if self._listener is None:
            if self._listening is not None or self._hearing is None or self._hears is None:
                return  # they can't be had, and the client knows
            try:
                self._hearing.check()
                self._hearing.capacity.acquire(self._state.tenant)
            except StageError as error:
                self._listening = asyncio.create_task(asyncio.sleep(0), name="realtime-deaf")
                await self._advance(session.Rejected(wire.WireError(error.code, error.message)))
                return
            self._listener = Listener(self._hearing, self._hears, self._report)
            self._listening = asyncio.create_task(self._listen(self._listener), name="realtime-listen")
        self._listener.push(data)

    async def _listen(self, listener: Listener) -> None:
        try:
            await listener.run()
        except Exception:
            log.exception("listening failed")
            error = wire.WireError("listening_failed", "The server can't hear this session any more; connect again.")
            await self._inbox.put(session.Rejected(error))

    async def _report(self, report: Report) -> None:
        """Queue what was heard for the owner."""
        size = len(report.pcm) if isinstance(report, Ended | Transcribed) else 0
        await self._inbox.put(session.Heard(report), size)

    def _tell_listener(self, event: wire.ServerEvent) -> None:
        """The ears must know what the client hears, or they take its echo for the user."""
        if self._listener is None or not isinstance(event, wire.AudioDelta | wire.TranscriptDelta):
            return
        if any(reply.out_of_band and reply.id == event.response_id for reply in self._state.replies):
            return  # it is none that the user may interrupt
        if isinstance(event, wire.AudioDelta):
            self._listener.sounded(len(event.delta) * 3 // 8, "")
        else:
            self._listener.sounded(0, event.delta)

    async def _respond(self, response_id: str, turn: Turn) -> None:
        """Run one turn and queue its events for the owner."""
        try:
            async with self._backend.flow(turn, self._backend.origin(self._request)) as events:
                async for event in events:
                    size = len(event.pcm) if isinstance(event, AudioDelta) else 0
                    await self._inbox.put(session.Produced(response_id, event), size)
        except Exception as error:
            failure = as_stage_error(error)
            if failure is not error:
                log.exception("response %s failed", response_id)
            await self._inbox.put(session.Failed(response_id, failure))

    async def _write(self) -> None:
        while (text := await self._outgoing.get()) is not None:
            try:
                await self._backend.deliver(self._request, self._socket.send_str(text))
            except ConnectionError:
                return  # the client disconnected, or was cut
        if self._state.refused is not None:
            await self._close(*self._state.refused)
        else:
            await self._close(WSCloseCode.GOING_AWAY if self._state.draining else WSCloseCode.OK)

    async def _close(self, code: int, reason: str = "") -> None:
        try:
            async with asyncio.timeout(self._limits.send_seconds):
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
    socket = web.WebSocketResponse(
        protocols=subprotocols(request),
        autoping=False,  # pings are answered in ``_read``, where only whole frames count for the heartbeat
        timeout=limits.send_seconds,
        max_msg_size=limits.audio_message_bytes,
        compress=False,  # small frames do not shrink, and compression costs time
        writer_limit=WRITER_LIMIT,
        decode_text=False,
    )
    connection = Connection(socket, request, backend)
    backend.connections.add(connection)
    try:
        await socket.prepare(request)
        await connection.run()
    finally:
        backend.connections.discard(connection)
    return socket
