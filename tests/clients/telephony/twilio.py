"""A scripted Twilio: what its servers send in a call, in the order of its documentation, over a real websocket."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from clients.target import Target
from clients.telephony.adapter import Line, adapter
from clients.telephony.mulaw import mu_law
from pipelines.listening.audio import MU_LAW
from tests.support import PATIENCE, eventually

STREAM = "MZ18ad3ab5a668481ce02b83e7395059f0"
FORMAT = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
FRAME = 160  # bytes of sound in one message: 20 ms


@asynccontextmanager
async def answering(url: str, line: Line | None = None, **target: Any) -> AsyncIterator[str]:
    """The websocket address of an adapter to this server."""
    async with adapter(Target.of(url=url, spoken=True, **target), line or Line(port=0)) as address:
        yield address.replace("http", "ws", 1)


@asynccontextmanager
async def calling(
    address: str, path: str = "/media", *, plays: bool = True, headers: Mapping[str, str] | None = None
) -> AsyncIterator["Twilio"]:
    """A call; with ``plays`` what the assistant says is played at once, otherwise never."""
    async with connect(address + path, compression=None, additional_headers=dict(headers or {})) as socket:
        call = Twilio(socket, plays=plays)
        reading = asyncio.create_task(call.read())
        try:
            yield call
        finally:
            await socket.close()
            await reading


class Twilio:
    """The peer's side of a call."""

    def __init__(self, socket: ClientConnection, *, plays: bool) -> None:
        self.socket = socket
        self.received: list[dict[str, Any]] = []
        self.sound = b""  # µ-law, that was to be played
        self.marks: list[str] = []  # that have not gone back
        self.code: int | None = None  # by which the adapter closed the call
        self._plays = plays
        self._chunk = 0

    async def read(self) -> None:
        """Take what comes, as Twilio does: a mark goes back once what is before it is played, or cleared."""
        try:
            while True:
                message = json.loads(await self.socket.recv())
                self.received.append(message)
                match message.get("event"):
                    case "media":
                        self.sound += base64.b64decode(message["media"]["payload"])
                    case "mark":
                        self.marks.append(message["mark"]["name"])
                        if self._plays:
                            await self.play(1)
                    case "clear":
                        await self.play(len(self.marks))
        except ConnectionClosed:
            self.code = self.socket.close_code

    async def play(self, marks: int) -> None:
        """The sound before so many marks has been played."""
        for _ in range(marks):
            await self.send(event="mark", streamSid=STREAM, mark={"name": self.marks.pop(0)})

    async def send(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def start(self, **start: Any) -> None:
        """The first two messages of a stream."""
        await self.send(event="connected", protocol="Call", version="1.0.0")
        given = {
            "accountSid": "AC1",
            "streamSid": STREAM,
            "callSid": "CA1",
            "tracks": ["inbound"],
            "mediaFormat": FORMAT,
            "customParameters": {},
        }
        await self.send(event="start", sequenceNumber="1", start=given | start, streamSid=STREAM)

    async def say(self, pcm: bytes, *, speed: float = 0) -> None:
        """The caller says this: PCM, mono, 16 bits, 8,000 samples a second."""
        sound = mu_law(np.frombuffer(pcm, dtype=np.int16))
        for begin in range(0, len(sound), FRAME):
            self._chunk += 1
            payload = base64.b64encode(sound[begin : begin + FRAME]).decode()
            media = {"track": "inbound", "chunk": str(self._chunk), "timestamp": "5", "payload": payload}
            await self.send(event="media", sequenceNumber=str(self._chunk), media=media, streamSid=STREAM)
            if speed:
                await asyncio.sleep(FRAME / 8000 / speed)

    async def press(self, keys: str) -> None:
        for key in keys:
            await self.send(event="dtmf", streamSid=STREAM, dtmf={"track": "inbound_track", "digit": key})

    def events(self) -> list[str]:
        """The kinds of what came."""
        return [message.get("event") or message.get("type") or "" for message in self.received]

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        await eventually(condition, what)

    async def closed(self) -> int | None:
        """The code by which the adapter ends the call."""
        async with asyncio.timeout(PATIENCE):
            await self.socket.wait_closed()
        return self.socket.close_code


def pcm_of(sound: bytes) -> bytes:
    """µ-law as PCM, by the server's table."""
    return MU_LAW[np.frombuffer(sound, dtype=np.uint8)].astype("<i2").tobytes()
