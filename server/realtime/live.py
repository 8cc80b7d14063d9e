"""A realtime session in progress, which may outlive its socket.

``feed`` applies one input at once and in whole, so the state has one writer at a time although several tasks feed it:
the reader of the socket, and one task per response in progress. Each of them waits for room in the log before it feeds.
A client that does not read therefore slows down only itself (backpressure).
"""

import asyncio
import logging
import re
import secrets
from dataclasses import dataclass
from typing import Protocol

from aiohttp import WSCloseCode

from pipelines.events import StageError, Turn
from server.access.caller import Caller
from server.backend import Backend
from server.errors import ApiError, as_stage_error
from server.realtime import session, wire
from server.realtime.ears import Ears
from server.realtime.encoding import SoundEncoder
from server.realtime.log import GREETING, EventLog
from server.realtime.recording import Recorder, Restored
from server.realtime.session import Begin, Input, State, Stop
from server.realtime.session.feedback import rating_of
from server.realtime.session.resuming import RESPONSES, Announced, catch_up

log = logging.getLogger(__name__)

ANNOUNCING = (
    wire.SessionUpdated,
    wire.ItemDone,
    wire.ItemDeleted,
    wire.ItemTruncated,
    wire.FeedbackRecorded,
    wire.ResponseCreated,
    wire.ResponseDone,
)
SEEN = 1024  # ids of client events that are remembered


class Outlet(Protocol):
    """The socket of a session."""

    def kick(self) -> None:
        """There is something to send."""

    def replace(self) -> None:
        """Another socket takes the session over: send nothing more, and close."""


@dataclass(frozen=True, slots=True)
class Place:
    """The last event that a client has."""

    serial: int
    stands_for: int = 0  # of the events that came behind it in place of others, so many

    @classmethod
    def of(cls, session: str, event_id: str | None) -> "Place":
        """Where an event of a session stands; None stands for the first, without which nobody comes back.

        Raises: ApiError where that is none of its events.
        """
        if event_id is None:
            return cls(GREETING)
        found = re.fullmatch(rf"event_{session}(\d{{1,15}})(?:\.(\d{{1,6}}))?(?:e[0-9a-f]{{8}})?", event_id, re.ASCII)
        if found is None:
            raise ApiError(400, "invalid_after", f"{event_id!r:.80} is no event of this session.", "after")
        return cls(int(found[1]), int(found[2] or 0))


class LiveSession:
    """A session and what it runs."""

    __slots__ = (
        "_announcing",
        "_backend",
        "_caller",
        "_came_back",
        "_encoders",
        "_items",
        "_rated",
        "_recorder",
        "_responses",
        "_seen",
        "_state",
        "_turns",
        "_watch",
        "ears",
        "failed",
        "log",
        "origin",
        "outlet",
    )

    def __init__(self, state: State, backend: Backend, caller: Caller, origin: str) -> None:
        sessions, limits = backend.settings.sessions, backend.settings.limits
        self.log = EventLog(limits.outgoing_bytes, sessions.replay_bytes)
        self.origin = origin  # that links to pictures begin with
        self.failed = False
        self.outlet: Outlet | None = None
        self.ears = None if backend.hearing is None else Ears(backend.hearing, state.tenant, self.feed, self.room)
        self._state = state
        self._backend = backend
        self._caller = caller
        self._watch = backend.sessions.watch(caller, state.expires_at, self.feed)
        self._items: dict[str, int] = {}  # serials of the events that acknowledged them
        self._rated: dict[str, int] = {}  # serials of the events that acknowledged their feedback
        self._responses: dict[str, Announced] = {}  # the last ones
        self._turns: dict[str, asyncio.Task[None]] = {}  # bounded by ``limits.responses``
        self._encoders: dict[str, SoundEncoder] = {}  # by response, of those that are not PCM
        self._recorder = None if backend.history is None else Recorder(backend.history, caller.owner)
        self._announcing = 0  # the first event of a step that says that something is stored
        self._seen: dict[int, None] = {}  # the hashes of client events' ids
        self._came_back = False  # its client, at least once

    @property
    def id(self) -> str:
        """The session's id."""
        return self._state.id

    @property
    def owner(self) -> str:
        """Whose session it is."""
        return self._caller.owner

    @property
    def token(self) -> str:
        """What lets a client come back to it."""
        return self._state.token

    @property
    def replying(self) -> bool:
        """Whether a response is in progress."""
        return bool(self._state.replies)

    @property
    def close_code(self) -> tuple[int, str]:
        """The code and reason with which its socket is closed once it has ended."""
        if self.failed:
            return WSCloseCode.INTERNAL_ERROR, ""
        return self._state.refused or (WSCloseCode.GOING_AWAY if self._state.draining else WSCloseCode.OK, "")

    def feed(self, given: Input) -> None:
        """Apply one input. A fault of ours ends the session, and raises nothing."""
        if self.log.ended:
            return
        before, self._announcing = self._state, 0
        try:
            self._state, outputs = session.advance(before, given)
            for output in outputs:
                self._perform(output)
            self._record(before, given)
            if isinstance(given, wire.GiveFeedback):
                self._count(before, given)
            if self.ears is not None and self.ears.listener is not None:
                self.ears.listener.replying(active=self._state.active is not None)
        except Exception:
            log.exception("a realtime session failed")
            self.failed = True
        if self.failed or self._state.closed or (self._state.draining and not self._state.replies):
            self.log.ended = True
            if self.outlet is None:
                self._backend.live.ended(self)
        if self.outlet is not None:
            self.outlet.kick()

    def _record(self, before: State, given: Input) -> None:
        """Store what a step has changed; what it announces is sent behind that."""
        if self._recorder is None or not (self._announcing or before.items is not self._state.items):
            return  # a token of a reply, as most steps
        stored = self._recorder.step(before, self._state, given, self._items, self._responses)
        if stored is not None and self._announcing:
            self.log.hold(self._announcing, stored)

    def _count(self, before: State, given: wire.GiveFeedback) -> None:
        """Count feedback that changes a rating; one that is repeated, or only gets a comment, was counted."""
        rating = rating_of(self._state, given.item_id)
        if rating is not None and rating != rating_of(before, given.item_id):
            self._backend.metrics.feedback.labels(rating).inc()

    async def room(self) -> None:
        """Wait while the client, or the history, is behind (backpressure)."""
        await self.log.room()
        if self._backend.history is not None:
            await self._backend.history.room()

    def is_repeated(self, event: Input) -> bool:
        """Whether this client event was brought already, by its ``event_id``.

        Only a client that has come back sends events again. Before that, ids are not looked at: some clients give every
        event the same one.
        """
        if not isinstance(event, wire.ClientEvent) or event.event_id is None:
            return False
        id = hash(event.event_id)
        if self._came_back and id in self._seen:
            return True
        self._seen[id] = None
        if len(self._seen) > SEEN:
            del self._seen[next(iter(self._seen))]
        return False

    def id_beside(self) -> str:
        """An id for an event that is none of the log's: a client that comes back with it goes on from where it is."""
        return f"event_{self.id}{self.log.reached}e{secrets.token_hex(4)}"

    def attach(self, outlet: Outlet, after: "Place | None") -> list[str]:
        """Send to this socket from now on, events behind ``after`` first; an earlier socket is closed.

        Returns the events that come before those of the log.
        """
        self._backend.metrics.attached(came_back=after is not None, replaces=self.outlet is not None)
        if self.outlet is not None:
            self.outlet.replace()
        self.outlet = outlet
        self._came_back = self._came_back or after is not None
        self._backend.live.returned(self)
        if self._recorder is not None and self.log.unstored:
            self.log.hold_again(self._recorder.whole(self._state, self._items, self._responses))
        if after is None:
            return []
        reached = self.log.rewind(after.serial)
        return self._catch_up(after, reached) if reached > after.serial else []

    def restore(self, restored: Restored) -> None:
        """Go on with what was stored."""
        self.log.serial = restored.serial
        self._items, self._responses = dict(restored.items), dict(restored.responses)
        self._seen = dict.fromkeys(map(hash, restored.event_ids))
        if self._backend.history is not None:
            self._recorder = Recorder(self._backend.history, self.owner, begun=True)

    def deleted(self) -> None:
        """Its stored conversation was deleted: end."""
        self.log.hold_again(None)
        self.feed(session.Expired("conversation_deleted", "The conversation of this session was deleted."))

    def taken_over(self) -> None:
        """Another server has the session: send nothing more, and end."""
        self.log.hold_again(None)
        self.log.ended = True
        if self.outlet is not None:
            self.outlet.replace()
        else:
            self._backend.live.ended(self)

    def detach(self, outlet: Outlet) -> bool:
        """This socket is gone; whether it was the session's."""
        if self.outlet is not outlet:
            return False
        self.outlet = None
        return True

    def fail(self) -> None:
        """End the session because of a fault of ours."""
        self.failed = self.log.ended = True
        if self.outlet is not None:
            self.outlet.kick()

    async def close(self) -> None:
        """End what is in progress; every task of the session has ended then."""
        self._watch.cancel()
        self.feed(session.Disconnected())
        if self._recorder is not None:
            self._recorder.end(self._state)
        self.log.ended = True
        tasks = [*self._turns.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self.ears is not None:
            await self.ears.close()

    def _perform(self, output: session.Output) -> None:
        match output:
            case Begin(response_id, turn):
                task = asyncio.create_task(self._respond(response_id, turn), name=response_id)
                self._turns[response_id] = task
                self._backend.live.turns += 1
                task.add_done_callback(lambda _: self._turn_ended(response_id))
            case Stop(response_id):
                if response_id in self._turns:
                    self._turns[response_id].cancel()
            case wire.ServerEvent():
                if self.ears is not None and not self._beside(output):
                    self.ears.said(output)
                for event in self._encoded(output):
                    self.log.append(wire.dump(event, f"event_{self.id}{self.log.serial + 1}"))
                self._remember(output)
            case _ if self.ears is not None:
                self.ears.perform(output)

    def _remember(self, event: wire.ServerEvent) -> None:
        """What a client has to learn that missed this event."""
        serial = self.log.serial
        if isinstance(event, ANNOUNCING) and not self._announcing:
            self._announcing = serial
        match event:
            case wire.ItemDone():
                self._items[event.item.id or ""] = serial
            case wire.ItemDeleted():
                self._items.pop(event.item_id, None)
                self._rated.pop(event.item_id, None)
            case wire.FeedbackRecorded():
                self._rated[event.item_id] = serial
            case wire.ResponseCreated(response=response):
                self._responses[response.id] = Announced(serial, response)
                while len(self._responses) > RESPONSES:
                    del self._responses[next(iter(self._responses))]
            case wire.ResponseDone(response=response) if begun := self._responses.get(response.id):
                self._responses[response.id] = Announced(begun.created, response, serial, event.loquent)

    def _catch_up(self, after: "Place", until: int) -> list[str]:
        """Events that stand for those from ``after`` to ``until``, which are gone."""
        events = catch_up(self._state, self._items, self._responses, self._rated, after.serial, until)
        texts = [wire.dump(event, f"event_{self.id}{after.serial}.{number}") for number, event in enumerate(events, 1)]
        return texts[after.stands_for :]

    def _beside(self, event: wire.ServerEvent) -> bool:
        """Whether it belongs to a response beside the conversation, which is none that the user may interrupt."""
        of = getattr(event, "response_id", None)
        return any(reply.out_of_band and reply.id == of for reply in self._state.replies)

    def _encoded(self, event: wire.ServerEvent) -> list[wire.ServerEvent]:
        """The event, with sound in the encoding that was announced, and with limits as they stand."""
        match event:
            case wire.RateLimits():
                return [wire.RateLimits(rate_limits=self._backend.limiter.rate_limits(self._caller))]
            case wire.ResponseCreated(response=wire.Response(audio=wire.ResponseAudio() as audio) as response):
                format = audio.output.format if audio.output else None
                if format is not None and format.type != wire.PCM.type:
                    self._encoders[response.id] = SoundEncoder(format.type)
                return [self._queued(event)]
            case wire.ResponseCreated():
                return [self._queued(event)]
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

    def _turn_ended(self, response_id: str) -> None:
        self._backend.live.turns -= 1
        self._turns.pop(response_id, None)

    def _queued(self, event: wire.ResponseCreated) -> wire.ResponseCreated:
        """The event, with the length of the queue where the response joins one."""
        ahead = self._backend.ahead(spoken="audio" in event.response.output_modalities)
        if not ahead:
            return event
        notes = event.loquent or wire.ResponseNotes()
        return event.model_copy(update={"loquent": notes.model_copy(update={"queue": wire.Queue(ahead=ahead)})})

    async def _respond(self, response_id: str, turn: Turn) -> None:
        """Run one turn, and feed its events."""
        try:
            async with self._backend.flow(turn, self.origin, self._caller) as events:
                async for event in events:
                    if self.log.full or self._recorder is not None:
                        await self.room()
                    self.feed(session.Produced(response_id, event))
        except Exception as error:
            failure: StageError = as_stage_error(error)
            if failure is not error:
                log.exception("response %s failed", response_id)
            await self.room()
            self.feed(session.Failed(response_id, failure))
