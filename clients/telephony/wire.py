"""A call's websocket: JSON messages both ways, checked, bounded, and sent within a time limit."""

import asyncio
import json
from typing import Any

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed

MESSAGE_BYTES = 64 * 1024
SEND_SECONDS = 10.0

Json = dict[str, Any]


class CallError(Exception):
    """The peer sent what a call does not have; the message says why."""


class CallEndedError(Exception):
    """The peer has ended the call, or is gone."""


class Wire:
    """The messages of one call."""

    def __init__(self, socket: ServerConnection) -> None:
        self._socket = socket

    async def receive(self, patience: float | None = None) -> Json:
        """The next message. Raises: CallError when it is malformed or late, CallEndedError."""
        try:
            async with asyncio.timeout(patience):
                data = await self._socket.recv()
        except TimeoutError:
            raise CallError(f"nothing came for {patience:.0f} s") from None
        except ConnectionClosed:
            raise CallEndedError from None
        try:
            message = json.loads(data)
        except (ValueError, RecursionError):
            raise CallError("a message is JSON") from None
        if not isinstance(message, dict):
            raise CallError("a message is a JSON object")
        return message

    async def send(self, message: Json) -> None:
        """Send a message. Raises: CallEndedError when the peer is gone or does not read."""
        try:
            async with asyncio.timeout(SEND_SECONDS):
                await self._socket.send(json.dumps(message, ensure_ascii=True))
        except ConnectionClosed:
            raise CallEndedError from None
        except TimeoutError:
            self._socket.transport.abort()
            raise CallEndedError from None


def text(message: Json, name: str, most: int) -> str:
    """A text in a message. Raises: CallError when there is none, or a longer one."""
    value = message.get(name)
    if not isinstance(value, str):
        raise CallError(f"{name} is a text")
    if len(value) > most:
        raise CallError(f"{name} may have {most} characters")
    return value


def within(message: Json, name: str) -> Json:
    """An object in a message. Raises: CallError when there is none."""
    value = message.get(name)
    if not isinstance(value, dict):
        raise CallError(f"{name} is a JSON object")
    return value
