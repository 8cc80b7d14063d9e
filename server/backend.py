"""What every route needs of the server."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from aiohttp import web

from pipelines.anomaly.stage import AnomalyStage
from pipelines.build import Pipeline
from pipelines.chat.answering import AnsweringStage
from pipelines.embedding.names import MINILM, MODELS
from pipelines.events import Event, Picture, StageError, Turn, shutting_down
from pipelines.flow import Next, flow
from pipelines.image.stage import ImageStage
from pipelines.listening.hearing import Hearing
from pipelines.speech.stage import SpeechStage
from server.access.caller import ANYONE, Caller
from server.access.peer import PEER
from server.access.sessions import Sessions
from server.auth import AccessControl
from server.config import Settings
from server.history.store import DatabaseHistory
from server.image_store import ImageStore
from server.limits.gate import Gate
from server.limits.limiter import Limiter
from server.limits.meter import Meter
from server.limits.pace import Lane
from server.limits.stored import StoredBudgets
from server.metrics import Metrics
from server.names import ModelNames, VoiceNames, public_name
from server.realtime.sessions import LiveSessions
from server.sharing.build import Sharing
from server.tracing.switch import Tracing

Endpoint = Literal["embeddings", "moderations", "images", "speech", "transcriptions"]
DETECTOR = "loquent-anomaly"
UNNAMED = "upstream"  # the language model elsewhere, until its server has said what it is called
DRAWER = "loquent-mood"  # until the generator is loaded, which has a name of its own

log = logging.getLogger(__name__)

PIECE = 64 * 1024  # bytes of one send
BODY_OF_A_SEND = 1024 * 1024  # bytes of a body that a client must read in the time of one send, at least


@dataclass
class Backend:
    """What the handlers of one server share: its parts and its requests in flight."""

    settings: Settings
    pipeline: Pipeline
    access: AccessControl
    history: DatabaseHistory | None = None  # None where conversations are stored in memory alone
    tracing: Tracing | None = None
    connections: set[object] = field(default_factory=set)  # realtime; bounded by ``limits.connections``
    requests: int = 0  # in flight; an open websocket is one
    refusing: int = 0  # websockets that are accepted only to be refused
    large_bodies: int = 0  # bytes of large bodies that requests in flight hold
    draining: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)  # set while there is no request in flight
    metrics: Metrics = field(init=False)
    sharing: Sharing = field(init=False)
    images: ImageStore = field(init=False)
    limiter: Limiter = field(init=False)
    sessions: Sessions = field(init=False)
    gate: Gate = field(init=False)
    lane: Lane = field(init=False)
    _names: ModelNames = field(init=False)  # of the language model, as it is configured
    live: LiveSessions[Any] = field(init=False)  # realtime sessions in progress; of ``LiveSession``

    def __post_init__(self) -> None:
        limits, models = self.settings.limits, self.settings.models
        self._names = ModelNames(public_name(self.settings.chat.model), models.aliases, models.unknown)
        keyring = self.access.keyring
        self.limiter = Limiter(limits, on=lambda: limits.rates == "on" or (limits.rates == "auto" and keyring.required))
        self.sessions = Sessions(self.access, address_connections=lambda: self.limiter.address_connections)
        self.gate = Gate(limits.http_connections, self.access.proxies.trusted)
        self.lane = Lane(limits.overhead, lambda: self.metrics.running > 0 and not self.draining)
        self.sharing = Sharing(self.settings, self.limiter)
        self.images = self.sharing.images
        stored = self.history.metrics.collectors if self.history else ()
        self.metrics = Metrics(
            self.pipeline,
            lambda: len(self.connections),
            *stored,
            *self.sharing.collectors,
            requests=lambda: self.requests,
            lingering=lambda: self.live.lingering,
        )
        self.limiter.on_limited = lambda limit, subject: self.metrics.rate_limited.labels(limit, subject).inc()
        self.live = LiveSessions(self.settings.sessions.linger, self.settings.limits.connections)
        if self.history is not None:
            self.history.on_deleted = self.forget
            self.history.on_taken = self.live.taken_over
            if self.limiter.daily is not None:
                self.history.accompany(StoredBudgets(self.history, self.limiter.daily))
        self.idle.set()

    def forget(self, owner: str, conversations: tuple[str, ...]) -> None:
        """Drop what memory holds of conversations that were deleted: sessions, pictures, and the prefix cache."""
        self.live.deleted(owner, conversations)
        self.images.forget(frozenset(conversations))
        chat = self.pipeline.find(AnsweringStage)
        if chat is not None:
            site, _, secret = owner.partition("/")
            visitor = f"/{secret}" if secret else ""
            chat.forget((site + visitor, visitor))  # a tenant has no name where there is only one

    def in_flight(self) -> "_InFlight":
        """Count a request while the block runs."""
        return _InFlight(self)

    async def deliver(self, request: web.Request, sending: Awaitable[None], *, seconds: float | None = None) -> None:
        """Await one send to the client of ``request``; cut the connection when it exceeds the send time limit.

        Raises: ConnectionResetError when it was cut.
        """
        seconds = seconds or self.settings.limits.send_seconds
        try:
            async with asyncio.timeout(seconds):
                await sending
        except TimeoutError:
            log.info("a client did not read for %.0f s; its connection is cut", seconds)
            self.metrics.dropped.inc()
            abort(request)
            raise ConnectionResetError("the client does not read") from None

    async def answer(self, request: web.Request, response: web.StreamResponse) -> web.StreamResponse:
        """Send a whole response in pieces, each within the send time limit, and all of them in proportion.

        Raises: ConnectionResetError when the client does not read.
        """
        if response.prepared or not isinstance(response, web.Response):
            return response
        body = response.body
        if not isinstance(body, bytes | bytearray) or len(body) <= PIECE or request.method == "HEAD":
            await self.deliver(request, _finish(request, response))
            return response
        pieces = web.StreamResponse(status=response.status, reason=response.reason, headers=response.headers)
        pieces.content_length = len(body)
        await pieces.prepare(request)

        async def send() -> None:
            for start in range(0, len(body), PIECE):
                await self.deliver(request, pieces.write(body[start : start + PIECE]))
            await self.deliver(request, pieces.write_eof())

        # A client that reads a little now and then would hold the whole of it for as long as it likes.
        whole = self.settings.limits.send_seconds * (1 + len(body) / BODY_OF_A_SEND)
        await self.deliver(request, send(), seconds=whole)
        return pieces

    @property
    def names(self) -> ModelNames:
        """The names of the language model: as it is configured, or as its server elsewhere calls it."""
        chat = self.settings.chat
        if chat.engine == "builtin":
            return self._names
        stage = self.pipeline.find(AnsweringStage)
        here = (stage.model_name if stage is not None else "") or UNNAMED
        return replace(self._names, here=here, others=tuple(chat.upstream.models))

    def names_of(self, endpoint: Endpoint) -> ModelNames:
        """The names of the model behind an endpoint that is not the language model."""
        models, drawing = self.settings.models, self.pipeline.find(ImageStage)
        embedding, *others = self.embedding_models or (MINILM,)
        here = {
            "embeddings": embedding,
            "moderations": DETECTOR,
            "images": drawing.drawer.words.name if drawing is not None and drawing.ready else DRAWER,
            "speech": self.voice,
            "transcriptions": public_name(self.settings.listening.model),
        }
        aliases: tuple[str, ...] = getattr(models, endpoint)
        return ModelNames(here[endpoint], aliases, models.unknown, tuple(others) if endpoint == "embeddings" else ())

    @property
    def embedding_models(self) -> tuple[str, ...]:
        """The embedding models that parts of this server use; aliases mean the first."""
        return tuple(name for name in MODELS if name in self.pipeline.shared.embedders)

    def flow(
        self, turn: Turn, origin: str, caller: Caller = ANYONE, *, counts: bool = True
    ) -> AbstractAsyncContextManager[AsyncGenerator[Event]]:
        """Run a caller's turn through the configured stages and measure it; links begin with ``origin``.

        ``counts``: whether it counts as a request, as a turn of a realtime session does.
        """
        trace = None if self.tracing is None else self.tracing.begin(turn, self.names.here)
        turn = replace(turn, begun=time.monotonic(), trace=trace)
        meter = (self._meter(caller, counts=counts),) if self.limiter.on or caller.leash is not None else ()
        return flow(turn, (self.metrics.turn, *meter, partial(self._link, origin), *self.pipeline.stages))

    def _meter(self, caller: Caller, *, counts: bool) -> Meter:
        chat = self.settings.chat
        return Meter(self.limiter, self.access.secrets, caller, counts, chat.max_tokens, chat.context)

    async def _link(self, origin: str, turn: Turn, next: Next) -> AsyncGenerator[Event]:
        """A stage that stores each picture and replaces it by a link."""
        async with aclosing(next(turn)) as events:
            async for event in events:
                yield (
                    await self.images.put(event, origin, turn.tenant, turn.conversation)
                    if isinstance(event, Picture)
                    else event
                )

    def origin(self, request: web.Request) -> str:
        """The server's address as the client of ``request`` sees it."""
        peer = request[PEER]
        return self.settings.server.public_url or f"{peer.scheme}://{peer.host or request.host}"

    def ahead(self, *, spoken: bool) -> int:
        """Replies that must end before another one could begin."""
        chat, speech = self.pipeline.find(AnsweringStage), self.pipeline.find(SpeechStage)
        voiceless = 0 if speech is None else speech.capacity.waiting
        admitted = 0 if chat is None else chat.ahead
        # Those of realtime sessions count from their beginning: they pass other stages before the model admits them.
        written = max(admitted, self.live.turns - voiceless - self.settings.chat.at_once + 1)
        return max(written, speech.capacity.ahead) if spoken and speech is not None else written

    @property
    def draws(self) -> bool:
        """Whether replies can come with pictures."""
        return self.pipeline.find(ImageStage) is not None and self.settings.image.when != "never"

    @property
    def voices(self) -> VoiceNames | None:
        """The voices that can speak, if any can."""
        speech, settings = self.pipeline.find(SpeechStage), self.settings
        if speech is None or not speech.ready:
            return None
        speaking = settings.speech
        return VoiceNames(self.voice, speech.speakers, speaking.aliases, settings.models.unknown, speaking.voices)

    @property
    def voice(self) -> str:
        """The voice's name, as clients see it."""
        return public_name(self.settings.speech.voice)

    @property
    def reports_verdicts(self) -> bool:
        """Whether clients can ask for the verdicts on their messages."""
        return self.settings.anomaly.verdicts and self.pipeline.find(AnomalyStage) is not None

    @property
    def hearing(self) -> Hearing | None:
        """What listens, where something does."""
        hearing = self.pipeline.find(Hearing)
        return None if hearing is None or hearing.missing else hearing

    @property
    def ready(self) -> bool:
        """Whether turns are accepted."""
        return not (self.waiting_for or self.draining)

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """What the server needs and has not: required models, and the history's database."""
        missing = self.pipeline.waiting_for
        return missing if self.history is None or self.history.healthy else (*missing, "history")

    def check_ready(self) -> None:
        """Raises: StageError while no turn can be accepted."""
        if self.draining:
            raise shutting_down()
        if not self.pipeline.ready:
            missing = ", ".join(self.pipeline.waiting_for)
            raise StageError("unavailable", "model_not_ready", f"Not ready yet: {missing}; try again in a moment.")


class _InFlight:
    """Counts a request. It takes less than a generator does: an open websocket is a request."""

    __slots__ = ("_backend",)

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __enter__(self) -> None:
        self._backend.requests += 1
        self._backend.idle.clear()

    def __exit__(self, *_: object) -> None:
        self._backend.requests -= 1
        if not self._backend.requests:
            self._backend.idle.set()


async def _finish(request: web.Request, response: web.Response) -> None:
    await response.prepare(request)
    await response.write_eof()


def abort(request: web.Request) -> None:
    """Cut the connection at once; closing it would wait for a peer that does not read."""
    if request.transport is not None:
        request.transport.abort()


BACKEND = web.AppKey("backend", Backend)
