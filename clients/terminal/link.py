"""A websocket to a realtime session that comes back when it breaks, and loses nothing by that."""

import asyncio
import json
import random
import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from clients.terminal.errors import ConnectionFailedError
from clients.terminal.texts import clean

SEND_SECONDS = 10.0
BACK_SECONDS = 30.0  # in which it tries to come back
FIRST_PAUSE, LONGEST_PAUSE = 0.25, 5.0  # seconds between two tries
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

    def __init__(self, socket: ClientConnection, connect: Connect, report: Callable[[str], None]) -> None:
        self._socket = socket
        self._connect = connect
        self._report = report
        self._token = ""
        self._events = "event_"  # how the ids of the session's events begin
        self._last = ""  # the last event that came
        self._name, self._count = secrets.token_hex(4), 0
        self._unanswered: list[dict[str, Any]] = []
        self._recovering = asyncio.Lock()

    async def send(self, event: dict[str, Any]) -> None:
        """Send an event. Raises: ConnectionFailedError when the session is lost."""
        self._count += 1
        event = {**event, "event_id": f"{self._name}.{self._count}"}
        if event["type"] in ANSWERS:
            self._unanswered = [*self._unanswered, event][-UNANSWERED:]
        socket = self._socket
        try:
            await _send(socket, event)
        except (ConnectionClosed, TimeoutError) as error:
            await self._recover(socket, error)

    async def receive(self, patience: float | None) -> dict[str, Any]:
        """The next event. Raises: ConnectionFailedError when the session is lost, or nothing came for so long."""
        while True:
            socket = self._socket
            try:
                async with asyncio.timeout(patience):
                    event: dict[str, Any] = json.loads(await socket.recv())
            except TimeoutError as error:
                raise gone(error) from None
            except ConnectionClosed as error:
                await self._recover(socket, error)
                continue
            if self._note(event):
                return event

    def _note(self, event: dict[str, Any]) -> bool:
        """Whether the event is for the session. Raises: ConnectionFailedError when the session is lost."""
        kind, error = event["type"], event.get("error") or {}
        if kind == "session.created":
            self._token = (event.get("loquent") or {}).get("resume_token", "")
            self._events = f"event_{event['session']['id'].removeprefix('sess_')}"
        if kind == "error" and error.get("code") == "session_not_found":
            raise ConnectionFailedError("The server no longer has this conversation; begin a new one.")
        if kind == "error" and error.get("code") == "history_unavailable":
            return False  # the server closes the socket, and has the event for who comes back
        if event["event_id"].startswith(self._events):
            self._last = event["event_id"]
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
            if not self._token or not _may_come_back(error):
                raise gone(error) from None
            self._report("The connection was lost; coming back …")
            self._socket = await self._come_back(error)

    async def _come_back(self, error: Exception) -> ClientConnection:
        until = asyncio.get_running_loop().time() + BACK_SECONDS
        pause = FIRST_PAUSE
        while True:
            try:
                socket = await self._connect(f"session={self._token}&after={self._last}")
                for event in self._unanswered:
                    await _send(socket, event)
            except (ConnectionFailedError, ConnectionClosed, TimeoutError):
                if asyncio.get_running_loop().time() + pause > until:
                    raise gone(error) from None
            else:
                return socket
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause = min(2 * pause, LONGEST_PAUSE)

    async def close(self) -> None:
        """Leave the session."""
        await self._socket.close()


async def _send(socket: ClientConnection, event: dict[str, Any]) -> None:
    async with asyncio.timeout(SEND_SECONDS):
        await socket.send(clean(json.dumps(event, ensure_ascii=False)))


def _may_come_back(error: Exception) -> bool:
    return not isinstance(error, ConnectionClosed) or error.rcvd is None or error.rcvd.code in RECOVERABLE


def gone(error: Exception) -> ConnectionFailedError:
    """The error for a connection that is lost."""
    code = error.rcvd.code if isinstance(error, ConnectionClosed) and error.rcvd else None
    if code == 1009:
        return ConnectionFailedError("The message is longer than the server takes.")
    if code == 1001:
        return ConnectionFailedError("The server is shutting down.")
    if code == 4001:
        return ConnectionFailedError("Another client has taken this conversation over.")
    return ConnectionFailedError(
        "The server is gone." if isinstance(error, ConnectionClosed) else "The server does not answer."
    )
