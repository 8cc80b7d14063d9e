"""A careful client on the stock ``openai`` package: it comes back after every break, and repeats what got no answer."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from openai import AsyncOpenAI
from openai.resources.realtime.realtime import AsyncRealtimeConnection
from openai.types.websocket_reconnection import ReconnectingEvent, ReconnectingOverrides
from websockets.exceptions import ConnectionClosed

PATIENCE = 240.0  # seconds of a turn, after which the client counts as stuck: servers may die one behind the other
PINGS: Any = {"ping_interval": 0.5, "ping_timeout": 1.0, "max_size": None}  # so that silence is noticed soon


class NeverBegunError(Exception):
    """The server died before anything of the session was acknowledged, so that nothing of it was stored."""


@dataclass
class Turn:
    """What came of one turn."""

    id: str = ""
    text: str = ""
    sound: bytes = b""
    done_text: str = ""
    dones: int = 0
    status: str = ""
    why: str = ""  # the status is so, where it has a reason
    restarted: bool = False  # the server died while it answered


@dataclass
class Conversation:
    """One session over sockets that break."""

    token: str = ""
    last: str = ""  # the last event's id
    events: list[dict[str, Any]] = field(default_factory=list)  # ids and types of all
    returns: int = 0
    patient: bool = False  # it expects to be sent away while nothing can be stored
    sent_away: int = 0
    configured: bool = False  # its settings are acknowledged
    connection: AsyncRealtimeConnection | None = None
    _unanswered: dict[str, dict[str, Any]] = field(default_factory=dict)
    _serial: Any = field(default_factory=lambda: count(1))
    _again: set[asyncio.Task[None]] = field(default_factory=set)

    def reconnecting(self, event: ReconnectingEvent) -> ReconnectingOverrides:
        """How to come back; and what got no answer is sent again, under the same id."""
        self.returns += 1
        if not self.token:
            return {}
        task = asyncio.get_running_loop().create_task(self._resend())
        self._again.add(task)
        task.add_done_callback(self._again.discard)
        return {"extra_query": {"session": self.token, "after": self.last}}

    async def _resend(self) -> None:
        for event in list(self._unanswered.values()):
            with suppress(ConnectionClosed):
                await self._connection.send(event)  # type: ignore[arg-type]

    @property
    def _connection(self) -> AsyncRealtimeConnection:
        assert self.connection is not None
        return self.connection

    async def send(self, event: dict[str, Any]) -> None:
        """Send an event, and again after each break until ``answered``."""
        event = {**event, "event_id": f"mine_{next(self._serial)}"}
        self._unanswered[event["event_id"]] = event
        with suppress(ConnectionClosed):  # the reader will notice, and come back
            await self._connection.send(event)  # type: ignore[arg-type]

    async def receive(self) -> AsyncIterator[Any]:
        """Every event of the session."""
        event: Any
        async for event in self._connection:
            self.last = event.event_id
            item = event.item.id if event.type == "conversation.item.done" else None
            self.events.append({"event_id": event.event_id, "type": event.type, "item": item})
            yield event

    def _look(self, event: Any) -> None:
        """Raises: NeverBegunError; AssertionError for an error that is not expected."""
        if event.type == "error":
            if event.error.code == "session_not_found" and not self.configured:
                raise NeverBegunError
            if not (self.patient and event.error.code == "history_unavailable"):
                raise AssertionError(f"an error: {event.error.code}: {event.error.message}")
            self.sent_away += 1

    async def until(self, coming: AsyncIterator[Any], kind: str) -> Any:
        """The next event of this type."""
        async with asyncio.timeout(PATIENCE):
            async for event in coming:
                self._look(event)
                if event.type == kind:
                    self._unanswered.clear()
                    return event
        raise AssertionError("the session has ended")

    async def begin(self, coming: AsyncIterator[Any], session: dict[str, Any]) -> None:
        """Wait for the greeting, and configure the session."""
        created = await self.until(coming, "session.created")
        self.token = created.loquent["resume_token"]
        await self.send({"type": "session.update", "session": {"type": "realtime", **session}})
        await self.until(coming, "session.updated")
        self.configured = True

    async def ask(self, coming: AsyncIterator[Any], text: str) -> Turn:
        """One turn, whole."""
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        await self.send({"type": "conversation.item.create", "item": item})
        await self.until(coming, "conversation.item.done")
        await self.send({"type": "response.create"})
        turn = Turn()
        async with asyncio.timeout(PATIENCE):
            async for event in coming:
                self._look(event)
                _take(turn, event)
                if event.type == "response.created":
                    self._unanswered.clear()
                if turn.dones and event.type == "response.done":
                    return turn
        raise AssertionError("the session has ended")


def _take(turn: Turn, event: Any) -> None:
    match event.type:
        case "response.created":
            turn.id = event.response.id
        case "response.output_text.delta" | "response.output_audio_transcript.delta":
            turn.text += event.delta
        case "response.output_audio.delta":
            turn.sound += base64.b64decode(event.delta)
        case "response.done":
            turn.dones += 1
            turn.status = event.response.status
            details = event.response.status_details
            turn.why = (details and ((details.error and details.error.code) or details.reason)) or ""
            turn.restarted = bool(details and details.error and details.error.code == "server_restarted")
            parts = [part for item in event.response.output for part in item.content or ()]
            turn.done_text = "".join(part.text or part.transcript or "" for part in parts)


@asynccontextmanager
async def conversing(
    url: str, *, retries: int = 20, patient: bool = False
) -> AsyncIterator[tuple[Conversation, AsyncIterator[Any]]]:
    """A session at this address, and its events."""
    mine = Conversation(patient=patient)
    client = AsyncOpenAI(base_url=f"{url}/v1", api_key="none")
    manager = client.realtime.connect(
        model="default",
        on_reconnecting=mine.reconnecting,
        initial_delay=0.05,
        max_delay=1.0,
        max_retries=retries,
        websocket_connection_options=PINGS,
    )
    async with client, manager as connection:
        mine.connection = connection
        coming = mine.receive()
        yield mine, coming
        await coming.aclose()  # type: ignore[attr-defined]
