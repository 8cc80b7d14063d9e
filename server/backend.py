"""What every route needs of the server."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web

from pipelines.build import Pipeline
from pipelines.events import Event, Picture, StageError, Turn
from pipelines.flow import Stage, flow
from server.auth import Doors
from server.config import Settings
from server.image_store import ImageStore
from server.metrics import Metrics
from server.names import ModelNames, VoiceNames, public_name

log = logging.getLogger(__name__)


class Drainable(Protocol):
    """A connection that can be asked to end well."""

    async def drain(self) -> None:
        """Ask it to finish what is in progress and then to close."""


@dataclass
class Backend:
    """One server's parts, and what is going on in it."""

    settings: Settings
    pipeline: Pipeline
    names: ModelNames
    doors: Doors
    connections: set[Drainable] = field(default_factory=set)  # bounded by ``limits.connections``
    requests: int = 0  # in flight; an open websocket is one
    draining: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)  # set while there is no request in flight
    metrics: Metrics = field(init=False)
    pictures: ImageStore = field(init=False)

    def __post_init__(self) -> None:
        self.pictures = ImageStore(self.settings.image.kept_bytes, self.settings.image.expires)
        self.metrics = Metrics(self.pipeline, lambda: len(self.connections))
        self.idle.set()

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Count a request while the block runs."""
        self.requests += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.requests -= 1
            if not self.requests:
                self.idle.set()

    async def deliver(self, request: web.Request, sending: Awaitable[None]) -> None:
        """Wait for one send to the client of ``request``, and cut the connection when it takes too long.

        Raises: ConnectionResetError then.
        """
        seconds = self.settings.limits.send_seconds
        try:
            async with asyncio.timeout(seconds):
                await sending
        except TimeoutError:
            log.info("a client did not read for %.0f s and was dropped", seconds)
            self.metrics.dropped.inc()
            abort(request)
            raise ConnectionResetError("the client does not read") from None

    def flow(self, turn: Turn, origin: str) -> AbstractAsyncContextManager[AsyncGenerator[Event]]:
        """Run a turn through the configured stages, measured: the text where it is made, the rest at the end.

        ``origin`` is the server's address in links.
        """
        stages: list[Stage] = []
        for stage in self.pipeline.stages:
            stages.append(stage)
            if stage is self.pipeline.chat:
                stages.append(self.metrics.text())
        if self.pipeline.image is not None:
            before, behind = self.pipeline.image.around()
            stages = [before, *stages, behind, self._keep(origin, turn.tenant)]
        if self.pipeline.anomaly is not None:
            before, behind = self.pipeline.anomaly.around()
            stages = [before, *stages, behind]
        return flow(turn, *stages, self.metrics.turn())

    def _keep(self, origin: str, tenant: str) -> Stage:
        """A stage that keeps pictures, and puts their links into their place."""

        async def keep(events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
            async for event in events:
                yield self.pictures.keep(event, origin, tenant) if isinstance(event, Picture) else event

        return keep

    def origin(self, request: web.Request) -> str:
        """The server's address as the client of ``request`` sees it."""
        return self.settings.server.public_url or f"{request.scheme}://{request.host}"

    @property
    def draws(self) -> bool:
        """Whether replies can come with pictures."""
        return self.pipeline.image is not None and self.settings.image.when != "never"

    @property
    def voices(self) -> VoiceNames | None:
        """The voices that can speak, if any can."""
        speech, settings = self.pipeline.speech, self.settings
        if speech is None or not speech.ready:
            return None
        return VoiceNames(self.voice, speech.speakers, settings.speech.aliases, settings.models.unknown)

    @property
    def voice(self) -> str:
        """What clients are told of the voice."""
        return public_name(self.settings.speech.voice)

    @property
    def tells_verdicts(self) -> bool:
        """Whether clients that ask are told how their messages were screened."""
        return self.settings.anomaly.verdicts and self.pipeline.anomaly is not None

    @property
    def ready(self) -> bool:
        return self.pipeline.ready and not self.draining

    def check_ready(self) -> None:
        """Raises: StageError while no turn can be taken."""
        if self.draining:
            raise StageError("unavailable", "server_shutting_down", "The server is shutting down.")
        if not self.pipeline.ready:
            raise StageError(
                "unavailable", "model_not_ready", "The language model is not ready; try again in a moment."
            )


def abort(request: web.Request) -> None:
    """Cut the connection now; a close would wait for a peer that does not read."""
    if request.transport is not None:
        request.transport.abort()


BACKEND = web.AppKey("backend", Backend)
