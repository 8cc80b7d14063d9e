"""What a realtime session hears: its audio goes to a listener, and reports of that come back as inputs."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from pipelines.events import StageError
from pipelines.listening.events import Hears, Report
from pipelines.listening.hearing import Hearing
from pipelines.listening.listener import Listener
from server.realtime import session, wire
from server.realtime.session import Input

log = logging.getLogger(__name__)


class Ears:
    """The listener of one session, which begins with its first audio. ``feed`` takes an input of the session, and
    ``room`` waits while the session's client is behind."""

    __slots__ = ("_feed", "_hearing", "_hears", "_room", "_task", "_tenant", "listener")

    def __init__(
        self, hearing: Hearing, tenant: str, feed: Callable[[Input], None], room: Callable[[], Awaitable[None]]
    ) -> None:
        self._hearing = hearing
        self._tenant = tenant
        self._feed = feed
        self._room = room
        self._hears: Hears | None = None
        self._task: asyncio.Task[None] | None = None
        self.listener: Listener | None = None  # from the first audio on

    async def room(self) -> None:
        """Hold the client back while much of its audio waits to be heard."""
        if self.listener is not None:
            await self.listener.room()

    @property
    def ready(self) -> bool:
        """Whether audio can be taken: the models are loaded, or something listens already."""
        return self.listener is not None or self._hearing.ready

    def perform(self, output: session.Output) -> None:
        """Do what the session wants of its ears; anything else is ignored."""
        match output:
            case session.Configure(hears):
                self._hears = hears
                if self.listener is not None:
                    self.listener.configure(hears)
            case session.Hear(data):
                self._hear(data)
            case session.CommitAudio(serial) if self.listener is not None:
                self.listener.commit(serial)
            case session.ClearAudio() if self.listener is not None:
                self.listener.clear()
            case session.Silence() if self.listener is not None:
                self.listener.silenced()

    def said(self, event: wire.ServerEvent) -> None:
        """A reply of the conversation goes out: its echo must not be taken for the user."""
        match event:
            case wire.AudioDelta() if self.listener is not None:
                self.listener.sounded(len(event.delta) * 3 // 8, "")
            case wire.TranscriptDelta() if self.listener is not None:
                self.listener.sounded(0, event.delta)

    def _hear(self, data: bytes) -> None:
        if self.listener is None:
            if self._task is not None or self._hears is None:
                return  # they can't be had, and the client knows
            try:
                self._hearing.check()
                self._hearing.capacity.acquire(self._tenant)
            except StageError as error:
                self._task = asyncio.create_task(asyncio.sleep(0), name="realtime-deaf")
                self._feed(session.Rejected(wire.WireError(error.code, error.message)))
                return
            self.listener = Listener(self._hearing, self._hears, self._report)
            self._task = asyncio.create_task(self._listen(self.listener), name="realtime-listen")
        self.listener.push(data)

    async def _listen(self, listener: Listener) -> None:
        try:
            await listener.run()
        except Exception:
            log.exception("listening failed")
            error = wire.WireError("listening_failed", "The server can't hear this session any more; connect again.")
            self._feed(session.Rejected(error))

    async def _report(self, report: Report) -> None:
        await self._room()
        self._feed(session.Heard(report))

    async def close(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        if self.listener is not None:
            self.listener = None
            self._hearing.capacity.release(self._tenant)
