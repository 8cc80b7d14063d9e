"""A websocket to a realtime session that comes back when it breaks, and loses nothing by that."""

import asyncio
import json
import random
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any
from urllib.parse import quote

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from loquent.bookmark import Bookmark
from loquent.errors import ConnectionFailedError
from loquent.texts import clean
from loquent.wire import event_of, field, inner, malformed

SEND_SECONDS = 10.0
LEAVING_SECONDS = 1.0  # for what is sent on the way out
BACK_SECONDS = 30.0  # in which it tries to come back
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0  # seconds between two tries
OURS = (1002, 1003, 1007, 1009)  # close codes by which we end a socket whose peer breaks the protocol
LEAVING = 1001  # a close code behind which the server lets the session wait
RECOVERABLE = (1001, 1005, 1006, 1011, 1012, 1013, 1015)  # close codes behind which a session goes on
ANSWERS = {  # what shows that the server has an event of ours
    "session.update": "session.updated",
    "conversation.item.create": "conversation.item.done",
    "conversation.item.truncate": "conversation.item.truncated",
    "response.create": "response.created",
    "response.cancel": "response.done",
    "input_audio_buffer.commit": "input_audio_buffer.committed",
    "input_audio_buffer.clear": "input_audio_buffer.cleared",
}
UNANSWERED = 16  # events that are sent again, at most

Connect = Callable[[str], Awaitable[ClientConnection]]  # opens a socket, with this query


class Link:
    """The socket of one session. Each event of ours has an id, so that the server drops what it has already."""

    def __init__(
        self,
        socket: ClientConnection,
        connect: Connect,
        report: Callable[[str], None],
        bookmark: Bookmark | None = None,
    ) -> None:
        self._socket = socket
        self._connect = connect
        self._report = report
        self._token = bookmark.token if bookmark else ""
        self._events = f"event_{bookmark.session if bookmark else ''}"  # how the ids of the session's events begin
        self._last = bookmark.after if bookmark else ""  # the last event that came
        self._name, self._count = secrets.token_hex(4), 0
        self._unanswered: list[dict[str, Any]] = []
        self._recovering = asyncio.Lock()
        self._left = False

    async def send(self, event: dict[str, Any]) -> None:
        """Send an event. Raises: ConnectionFailedError when the session is lost."""
        event = self._named(event)
        socket = self._socket
        try:
            await _send(socket, event)
        except (ConnectionClosed, TimeoutError) as error:
            await self._recover(socket, error)

    async def send_in_passing(self, event: dict[str, Any]) -> None:
        """Send an event if the socket takes it now; otherwise it is sent when the session comes back, if it does."""
        event = self._named(event)
        with suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(LEAVING_SECONDS):
                await _send(self._socket, event)

    def _named(self, event: dict[str, Any]) -> dict[str, Any]:
        self._count += 1
        event = {**event, "event_id": f"{self._name}.{self._count}"}
        if event["type"] in ANSWERS:
            self._unanswered = [*self._unanswered, event][-UNANSWERED:]
        return event

    async def receive(self, patience: float | None) -> dict[str, Any]:
        """The next event. Raises: ConnectionFailedError when the session is lost, or nothing came for so long."""
        while True:
            socket = self._socket
            try:
                async with asyncio.timeout(patience):
                    event = event_of(await socket.recv())
            except TimeoutError as error:
                raise gone(error) from None
            except ConnectionClosed as error:
                await self._recover(socket, error)
                continue
            if self._note(event):
                return event

    def _note(self, event: dict[str, Any]) -> bool:
        """Whether the event is for the session. Raises: ConnectionFailedError when the session is lost."""
        kind, error, id = event["type"], inner(event, "error"), event.get("event_id")
        if kind == "session.created":
            self._token = str(inner(event, "loquent").get("resume_token") or "")
            self._events = f"event_{field(field(event, 'session', dict), 'id', str).removeprefix('sess_')}"
        if kind == "error" and error.get("code") == "session_not_found":
            text = "The server no longer has this conversation; begin a new one."
            raise ConnectionFailedError(text, "session_not_found")
        if kind == "error" and error.get("code") == "history_unavailable":
            return False  # the server closes the socket, and has the event for who comes back
        if isinstance(id, str) and id.startswith(self._events):
            self._last = id
        for ours in self._unanswered:
            if kind == ANSWERS[ours["type"]] or (kind == "error" and error.get("event_id") == ours["event_id"]):
                self._unanswered.remove(ours)
                break
        return True

    async def _recover(self, broken: ClientConnection, error: Exception) -> None:
        """Open another socket to the session. Raises: ConnectionFailedError when that can't be done."""
        async with self._recovering:
            if self._socket is not broken:
                return  # another task has
            if not self._token or self._left or not _may_come_back(error):
                raise gone(error) from None
            self._report("The connection was lost; coming back …")
            self._socket = await self._come_back(error)

    async def _come_back(self, error: Exception) -> ClientConnection:
        until = asyncio.get_running_loop().time() + BACK_SECONDS
        pause = FIRST_PAUSE
        while True:
            try:
                return await self._open()
            except (ConnectionFailedError, ConnectionClosed, TimeoutError):
                if asyncio.get_running_loop().time() + pause > until:
                    raise gone(error) from None
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause = min(2 * pause, LONGEST_PAUSE)

    async def _open(self) -> ClientConnection:
        """A socket to the session, with the events that got no answer sent again."""
        socket = await self._connect(f"session={quote(self._token)}&after={quote(self._last)}")
        try:
            for event in self._unanswered:
                await _send(socket, event)
        except ConnectionClosed as error:
            if _may_come_back(error):
                raise
            # The server has closed it for good and said why, which is what is read next.
        return socket

    def bookmark(self, response: str, item: str) -> Bookmark | None:
        """Where the session is, with the reply in progress; ``None`` where the server lets no session be resumed."""
        if not self._token:
            return None
        return Bookmark(self._token, self._events.removeprefix("event_"), self._last, response, item)

    async def leave(self) -> None:
        """Close the socket; the session waits for who comes back."""
        self._left = True
        await self._socket.close(LEAVING)

    async def close(self) -> None:
        """End the session."""
        self._left = True
        await self._socket.close()


async def _send(socket: ClientConnection, event: dict[str, Any]) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        await socket.send(clean(json.dumps(event, ensure_ascii=False)))


def _may_come_back(error: Exception) -> bool:
    if isinstance(error, ConnectionClosed) and _ours(error):
        return False
    return not isinstance(error, ConnectionClosed) or error.rcvd is None or error.rcvd.code in RECOVERABLE


def _ours(error: ConnectionClosed) -> bool:
    return error.sent is not None and not error.rcvd_then_sent and error.sent.code in OURS


def gone(error: Exception) -> ConnectionFailedError:
    """The error for a connection that is lost."""
    closed = error if isinstance(error, ConnectionClosed) else None
    code = closed.rcvd.code if closed and closed.rcvd else None
    if closed and _ours(closed):
        return malformed("a frame is no websocket message that it may send")
    if code == 1009:
        return ConnectionFailedError("The message is longer than the server takes.", "message_too_large")
    if code == 1001:
        return ConnectionFailedError("The server is shutting down.", "shutting_down")
    if code == 4001:
        return ConnectionFailedError("Another client has taken this conversation over.", "taken_over")
    if closed:
        return ConnectionFailedError("The server is gone.", "gone")
    return ConnectionFailedError("The server does not answer.", "no_answer")
