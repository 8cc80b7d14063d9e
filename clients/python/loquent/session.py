"""A session: a conversation with a server, one streamed reply at a time."""

import asyncio
import base64
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from ssl import SSLContext
from typing import Any

from websockets.asyncio.client import ClientConnection

from loquent.address import DEFAULT_URL
from loquent.bookmark import Bookmark
from loquent.errors import ConnectionFailedError, RefusedError, UsageError
from loquent.link import Link
from loquent.opening import Server, no_access
from loquent.pieces import Piece, Sound, Text
from loquent.settings import Settings
from loquent.wire import HEARD, Event, ending, error_of, field, inner, malformed, pieces, texts

SILENCE_SECONDS = 120.0  # without a message amid a reply, after which the server counts as lost
AUDIO_BYTES = 48_000  # of one event: a second
PENDING = 10_000  # events that came while a session was being resumed
BUSY = "A session streams one reply at a time; open another session beside it."
HARMLESS = "response_cancel_not_active"
Step = tuple[Event, str]  # an event to send, and the type of its answer


class Session:
    """An open conversation. ``connect`` makes it; one reply is streamed at a time."""

    def __init__(self, link: Link, silence: float) -> None:
        self._link = link
        self._silence = silence
        self._pending: deque[Event] = deque()
        self._place = ""  # the last event that was read, while some are pending
        self._heard: list[Event] = []  # what the user said, recognised before the reply began
        self._receiving = self._starting = False
        self._turn = 0  # counts them, so that an abandoned one sees that it is
        self._expected = ""  # the event that the turn in progress waits for
        self._response = ""  # in progress
        self._item = ""  # of the latest reply, if it is spoken
        self.model = ""  # the name of the model that answers
        self.warnings: list[str] = []  # requested settings that are not available

    # --- replies -----------------------------------------------------------------------------------------------------

    def ask(self, text: str) -> AsyncGenerator[Piece]:
        """Say ``text``; yields the reply while it is written, and at last ``Done``.

        Leaving the loop early cancels the reply; so does the next question, if the loop has not ended.

        Raises: RefusedError when the server refuses or the reply fails, ConnectionFailedError when the session is lost,
        UsageError when another task reads this session.
        """
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        return self._reply(_create(item))

    def answer(self, outputs: Mapping[str, str]) -> AsyncGenerator[Piece]:
        """Give the results of functions, by the ``id`` of each ``ToolCall``; yields the reply, as ``ask`` does."""
        items = ({"type": "function_call_output", "call_id": id, "output": text} for id, text in outputs.items())
        return self._reply(*map(_create, items))

    def answer_sound(self) -> AsyncGenerator[Piece]:
        """Reply to the sound that was sent since the last reply; yields ``Heard`` besides the reply, as ``ask`` does.

        It is for sessions with ``push_to_talk``; elsewhere the server begins a reply when the user has finished, and
        ``events`` has it.
        """
        return self._reply(({"type": "input_audio_buffer.commit"}, "input_audio_buffer.committed"))

    def rest(self) -> AsyncGenerator[Piece]:
        """The rest of the reply that was in progress when this session was left; nothing where none was."""
        return self._rest(self._turn, self._response, whole=False)

    async def _reply(self, *steps: Step) -> AsyncGenerator[Piece]:
        rest = self._rest(*await self._start(steps), whole=True)
        try:
            async for piece in rest:
                yield piece
        finally:
            await rest.aclose()

    async def _start(self, steps: Iterable[Step]) -> tuple[int, str]:
        """Begin a turn; returns its number and its response."""
        if self._receiving or self._starting:
            raise UsageError(BUSY, "busy")
        self._starting = True
        try:
            await self._settle()
            self._turn += 1
            self._heard.clear()
            for event, answer in steps:
                await self._request(event, answer)
            created = await self._request({"type": "response.create"}, "response.created")
            self._expected, self._item = "response.done", ""
            self._response = field(field(created, "response", dict), "id", str)
        except RefusedError:
            self._expected = ""  # nothing of this turn comes any more
            raise
        except BaseException:
            await self._abandon(self._turn)
            raise
        finally:
            self._starting = False
        return self._turn, self._response

    async def _rest(self, turn: int, response: str, *, whole: bool) -> AsyncGenerator[Piece]:
        """What comes of a response; ``whole`` if that is all of it."""
        said: list[str] = []
        try:
            while self._heard:
                for piece in pieces(self._heard.pop(0), response):
                    yield piece
            while response and self._turn == turn:
                event = await self._receive()
                if event["type"] == "response.done" and inner(event, "response").get("id") == response:
                    self._expected = self._response = ""
                    for piece in ending(event, "".join(said) if whole else ""):
                        yield piece
                    return
                for piece in pieces(event, response):
                    if isinstance(piece, Text):
                        said.append(piece.text)
                    elif isinstance(piece, Sound):
                        self._item = field(event, "item_id", str)
                    yield piece
        except ConnectionFailedError:
            self._expected = self._response = ""
            raise
        finally:
            await self._abandon(turn)

    async def _abandon(self, turn: int) -> None:
        """Cancel the reply of a turn whose reader has left; the next turn reads what still comes of it."""
        if self._turn == turn and self._expected.startswith("response."):
            self._turn += 1
            await self._link.send_in_passing({"type": "response.cancel"})

    async def _settle(self) -> None:
        """Wait until an abandoned turn has ended at the server too."""
        await self._abandon(self._turn)
        while self._expected:
            try:
                event = await self._receive()
            except RefusedError:
                if self._expected != "response.done":
                    self._expected = ""
                continue
            if event["type"] == self._expected == "response.created":
                self._expected = "response.done"
                self._response = field(field(event, "response", dict), "id", str)
            elif event["type"] == self._expected and (
                self._expected != "response.done" or inner(event, "response").get("id") == self._response
            ):
                self._expected = self._response = ""

    async def cancel(self) -> None:
        """Cancel the reply; it still ends with a ``Done``, of status "cancelled". Raises: ConnectionFailedError."""
        await self._link.send({"type": "response.cancel"})

    # --- sound -------------------------------------------------------------------------------------------------------

    async def append(self, pcm: bytes) -> None:
        """Send more of the user's sound: PCM, mono, signed 16 bits, 24,000 samples a second.

        Raises: ConnectionFailedError.
        """
        for begin in range(0, len(pcm), AUDIO_BYTES):
            audio = base64.b64encode(pcm[begin : begin + AUDIO_BYTES]).decode()
            await self._link.send({"type": "input_audio_buffer.append", "audio": audio})

    async def heard(self, milliseconds: int) -> None:
        """Report how much of the latest spoken reply was heard; the rest leaves the conversation.

        A reply that is still being spoken ends by that. Raises: RefusedError, ConnectionFailedError.
        """
        if not self._item:
            return
        event = {"item_id": self._item, "content_index": 0, "audio_end_ms": milliseconds}
        await self._link.send({"type": "conversation.item.truncate", **event})
        if not self._expected and not self._receiving:
            await self._wait_for("conversation.item.truncated")

    # --- the session -------------------------------------------------------------------------------------------------

    async def update(self, settings: Settings | Mapping[str, Any]) -> None:
        """Change the settings, between two replies; ``warnings`` says what can't be had.

        Raises: RefusedError when one is invalid, ConnectionFailedError.
        """
        await self._settle()
        session = settings.to_event() if isinstance(settings, Settings) else settings
        event = {"type": "session.update", "session": {"type": "realtime", **session}}
        try:
            self._see(await self._request(event, "session.updated"))
        finally:
            self._expected = ""

    @property
    def bookmark(self) -> str:
        """What ``connect`` takes as ``resume``, in this process or another one; empty where the server has no way back.

        It holds a secret, and the place up to which the session was read: take it again after what was read.
        """
        bookmark = self._link.bookmark(self._response, self._item)
        if bookmark is not None and self._pending:
            bookmark = replace(bookmark, after=self._place)
        return str(bookmark or "")

    async def leave(self) -> str:
        """Close the connection but not the session, whose reply goes on; returns the bookmark to come back with."""
        bookmark = self.bookmark
        self._turn += 1
        self._expected = self._response = ""
        await self._link.leave()
        return bookmark

    async def send(self, kind: str, **fields: Any) -> None:
        """Send an event of the Realtime API, for what has no method here. Raises: ConnectionFailedError."""
        await self._link.send({"type": kind, **fields})

    async def events(self) -> AsyncGenerator[Event]:
        """Every event of the server as it is, errors too, for as long as it takes. Raises: ConnectionFailedError."""
        while True:
            yield self._take() if self._pending else await self._link.receive(None)

    # --- events ------------------------------------------------------------------------------------------------------

    async def greet(self, url: str) -> None:
        """Wait for the greeting; ``connect`` does. Raises: ConnectionFailedError, also when access is refused."""
        try:
            self._see(await self._wait_for("session.created"))
        except RefusedError as error:
            raise no_access(url, str(error), error.code) from error

    async def come_back(self, url: str, bookmark: Bookmark) -> None:
        """Learn that the session is there, and what came of its reply; ``connect`` does. Raises: as ``greet``."""
        refused: RefusedError | None = None
        # A server without the session says so and closes, maybe before this is sent: what it says is read all the same.
        await self._link.send_in_passing({"type": "session.update", "session": {"type": "realtime"}})
        try:
            async with within(self._silence):
                event = await self._link.receive(self._silence)
                while event["type"] != "session.updated" or "resumed" in inner(event, "loquent"):
                    refused = error_of(event) if event["type"] == "error" else None
                    if len(self._pending) >= PENDING:
                        raise malformed("it sends without end")
                    self._pending.append(event)
                    event = await self._link.receive(self._silence)
        except ConnectionFailedError as error:
            raise no_access(url, str(refused), refused.code) if refused else error from None
        self._see(event)
        self._place, self._response, self._item = bookmark.after, bookmark.response, bookmark.item
        self._expected = "response.done" if bookmark.response else ""

    def _see(self, event: Event) -> None:
        self.model = str(field(event, "session", dict).get("model") or "")
        self.warnings = texts(inner(event, "loquent"), "warnings")

    async def _request(self, event: Event, answer: str) -> Event:
        self._expected = answer
        await self._link.send(event)
        found = await self._wait_for(answer)
        self._expected = ""
        return found

    async def _wait_for(self, kind: str) -> Event:
        async with within(self._silence):
            while (event := await self._receive())["type"] != kind:
                if event["type"] == HEARD:
                    self._heard.append(event)
        return event

    def _take(self) -> Event:
        """The next pending event."""
        event = self._pending.popleft()
        self._place = str(event.get("event_id") or self._place)
        return event

    async def _receive(self) -> Event:
        """The next event. Raises: RefusedError when it is an error, ConnectionFailedError, UsageError."""
        if self._receiving:
            raise UsageError(BUSY, "busy")
        self._receiving = True
        try:
            event = self._take() if self._pending else await self._link.receive(self._silence)
        finally:
            self._receiving = False
        if event["type"] == "error" and (error := error_of(event)).code != HARMLESS:
            raise error
        return event


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[None]:
    """Bound what waits for the server's answer. Raises: ConnectionFailedError."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise ConnectionFailedError("The server does not answer.", "no_answer") from None


def _create(item: Event) -> Step:
    return {"type": "conversation.item.create", "item": item}, "conversation.item.done"


def _silent(text: str) -> None:
    """Report nothing."""


@asynccontextmanager
async def connect(
    url: str = DEFAULT_URL,
    *,
    key: str | None = None,
    model: str | None = None,
    settings: Settings | Mapping[str, Any] | None = None,
    tls: SSLContext | None = None,
    resume: str | None = None,
    report: Callable[[str], None] = _silent,
    silence: float = SILENCE_SECONDS,
) -> AsyncIterator[Session]:
    """Open a session, which ends with the context.

    ``url`` is the server's address, ``key`` an API key or a client secret, ``tls`` says which certificates to trust.
    ``settings`` are ``Settings()`` by default, for text; a mapping is sent as the ``session`` of ``session.update``.
    ``resume``, a ``Session.bookmark``, goes on with a session that was left, under its own settings; others, if they
    are given, end a reply in progress. ``report`` gets a sentence when the server loads its model, and when the
    connection breaks and the session goes on over another one. A server from which nothing comes for ``silence``
    seconds amid an answer is lost.

    Raises: ConnectionFailedError that says why, RefusedError for invalid settings, UsageError for an invalid argument.
    """
    bookmark = Bookmark.read(resume) if resume is not None else None
    server = Server(url, key, model, tls)

    async def come_back(query: str) -> ClientConnection:
        return await server.open(_silent, query)

    link = Link(await server.open(report, bookmark.query if bookmark else ""), come_back, report, bookmark)
    try:
        session = Session(link, silence)
        if bookmark is not None:
            await session.come_back(url, bookmark)
        else:
            await session.greet(url)
            settings = Settings() if settings is None else settings
        if settings:
            await session.update(settings)
        yield session
    finally:
        await link.close()
