"""A call over Twilio's Media Streams: the caller's sound in, the assistant's sound out, both µ-law.

See https://www.twilio.com/docs/voice/media-streams/websocket-messages. A mark behind each piece of sound comes back
when Twilio has played it, so that what the caller has heard is known when they interrupt.
"""

import base64
import binascii
import logging
from collections import deque
from typing import Any

from clients.telephony.keys import Keys
from clients.telephony.mulaw import RATE, Encoder
from clients.telephony.wire import CallError, Json, Wire, text, within
from loquent import Session

log = logging.getLogger(__name__)

START_SECONDS = 10.0  # until the start of a stream
SILENCE_SECONDS = 60.0  # without a message amid a stream, which has fifty a second
PIECE = RATE // 5  # bytes of sound between two marks: 200 ms
MARKS = 2_000  # that may be out at a time: 400 s of sound
PAYLOAD = 32 * 1024  # characters of one message's sound
ID = 200  # characters of an identifier
FORMAT = {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}
# Codes of errors that a race between the caller and the server makes.
HARMLESS = ("response_cancel_not_active", "item_truncate_invalid_item_id", "input_audio_buffer_commit_empty")
SETTINGS: Json = {"input": {"format": {"type": "audio/pcmu"}}}  # of the session's audio, besides the voice


class MediaCall:
    """One call."""

    def __init__(self, wire: Wire, opened: Session, keys: str) -> None:
        self._wire = wire
        self._opened = opened
        self.keys = Keys(self._say_keys, keys)
        self._stream = ""
        self._marks: deque[tuple[str, str, int]] = deque()  # of unplayed sound: the name, the item, where it ends
        self._heard: dict[str, int] = {}  # milliseconds of the latest item that were played
        self._serial = 0  # of the latest mark
        self._encoder = Encoder()
        self._item = ""  # that is being spoken
        self._sent = 0  # bytes of it
        self._response = ""  # in progress
        self._dropped = ""  # the response that the caller interrupted, of which more sound may come

    async def listen(self) -> None:
        """Pass on what the caller says, until they hang up. Raises: CallError, CallEndedError."""
        await self._start()
        while (event := (message := await self._wire.receive(SILENCE_SECONDS)).get("event")) != "stop":
            match event:
                case "media":
                    await self._hear(within(message, "media"))
                case "mark":
                    self._played(text(within(message, "mark"), "name", ID))
                case "dtmf":
                    self.keys.press(text(within(message, "dtmf"), "digit", 1))
                    await self._interrupt()

    async def _start(self) -> None:
        while (event := (message := await self._wire.receive(START_SECONDS)).get("event")) != "start":
            if event != "connected":
                raise CallError("a stream begins with connected and start")
        start = within(message, "start")
        if within(start, "mediaFormat") != FORMAT:
            raise CallError("a stream's sound is audio/x-mulaw, 8000 samples a second, one channel")
        self._stream = text(start, "streamSid", ID)

    async def _hear(self, media: Json) -> None:
        if media.get("track", "inbound") != "inbound":
            return  # the assistant's own sound
        payload = text(media, "payload", PAYLOAD)
        try:
            binascii.a2b_base64(payload, strict_mode=True)
        except ValueError:
            raise CallError("payload is base64") from None
        await self._opened.send("input_audio_buffer.append", audio=payload)

    def _played(self, name: str) -> None:
        """A mark has come back; those of sound that was cleared come back too, and mean nothing."""
        if not any(each == name for each, _, _ in self._marks):
            return
        while self._marks:
            each, item, end = self._marks.popleft()
            self._heard = {item: end}
            if each == name:
                return

    async def speak(self) -> None:
        """Play what the assistant says, for as long as it takes. Raises: CallEndedError, ConnectionFailedError."""
        async for event in self._opened.events():
            match event["type"]:
                case "response.output_audio.delta" if event["response_id"] != self._dropped:
                    await self._play(event["item_id"], base64.b64decode(event["delta"]))
                case "response.output_audio.done" if event["response_id"] != self._dropped:
                    await self._send_sound(self._encoder.end())
                case "response.created":
                    self._response = event["response"]["id"]
                case "response.done":
                    self._response = ""
                    _report(event["response"])
                case "input_audio_buffer.speech_started":
                    await self._interrupt(cancel=False)  # the server has cancelled it already
                case "error" if event["error"].get("code") not in HARMLESS:
                    log.warning("the server: %s", event["error"].get("message"))

    async def _play(self, item: str, pcm: bytes) -> None:
        if item != self._item:
            self._item, self._sent, self._encoder = item, 0, Encoder()
        await self._send_sound(self._encoder.encode(pcm))

    async def _send_sound(self, sound: bytes) -> None:
        for begin in range(0, len(sound), PIECE):
            piece = sound[begin : begin + PIECE]
            self._sent += len(piece)
            self._serial += 1
            name = f"m{self._serial}"
            if len(self._marks) >= MARKS:
                raise CallError("no mark comes back")
            self._marks.append((name, self._item, self._sent * 1000 // RATE))
            await self._send("media", media={"payload": base64.b64encode(piece).decode()})
            await self._send("mark", mark={"name": name})

    async def _interrupt(self, *, cancel: bool = True) -> None:
        """Stop the assistant, and say how much of it was heard."""
        self._dropped = self._response
        if cancel and self._response:
            await self._opened.send("response.cancel")
        if not self._marks:
            return
        item = self._marks[0][1]
        self._marks.clear()
        await self._send("clear")
        end = self._heard.get(item, 0)
        await self._opened.send("conversation.item.truncate", item_id=item, content_index=0, audio_end_ms=end)

    async def _say_keys(self, said: str) -> None:
        await self._interrupt()
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": said}]}
        await self._opened.send("conversation.item.create", item=item)
        await self._opened.send("response.create")

    async def _send(self, event: str, **fields: Any) -> None:
        await self._wire.send({"event": event, "streamSid": self._stream, **fields})


def _report(response: Json) -> None:
    error = (response.get("status_details") or {}).get("error")
    if error:
        log.warning("a reply failed: %s", error.get("message"))
