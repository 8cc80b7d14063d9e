"""``synthesize``: text in, sound out while it is computed; whole, or as the text streams in."""

from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any

from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.event import Event
from wyoming.tts import SynthesizeChunk, SynthesizeStop, SynthesizeStopped

from clients.streaming import request
from clients.target import Target
from clients.wyoming.frames import FrameError, object_of, text_of
from clients.wyoming.sentences import Cutter
from loquent import RefusedError

RATE = 24_000  # samples a second, mono, 16 bits
TEXT_BYTES = 64 * 1024  # of one text, streamed or not; the server's own limit
CHUNK_BYTES = 4_096  # of one event's sound
PAUSE = bytes(2 * RATE * 3 // 20)  # of 150 ms, as the server makes between two sentences
FORMAT = {"rate": RATE, "width": 2, "channels": 1}
SILENT = "nothing_to_say"  # the code of an error about a text without a word, such as an emoji

Send = Callable[[Event], Coroutine[Any, Any, None]]
Take = Callable[[], Coroutine[Any, Any, Event]]


async def speak(target: Target, event: Event, voice: str | None, send: Send) -> None:
    """Answer ``synthesize``. Raises: LoquentError, FrameError, OSError when the peer is gone."""
    text = text_of(event, most=TEXT_BYTES)
    await send(AudioStart(**FORMAT).event())
    await _say(target, text, voice, send)
    await send(AudioStop().event())


async def speak_stream(target: Target, voice: str | None, take: Take, send: Send) -> None:
    """Answer ``synthesize-start`` and what follows it, each sentence once. Raises: as ``speak``."""
    await send(AudioStart(**FORMAT).event())
    cutter = Cutter()
    size = 0
    gap = b""  # between two parts; inside one the server makes it
    while not SynthesizeStop.is_type((event := await take()).type):
        if not SynthesizeChunk.is_type(event.type):  # such as the whole text once more, for servers that can't stream
            continue
        text = text_of(event, most=TEXT_BYTES)
        size += len(text.encode(errors="replace"))
        if size > TEXT_BYTES:
            raise FrameError(f"A text that streams may have {TEXT_BYTES} bytes.")
        gap = await _say(target, cutter.add(text), voice, send, gap)
    await _say(target, cutter.rest(), voice, send, gap)
    await send(AudioStop().event())
    await send(SynthesizeStopped().event())


async def _say(target: Target, text: str, voice: str | None, send: Send, gap: bytes = b"") -> bytes:
    """Send a part's sound, behind ``gap`` if there is some; returns the gap that is due before the next part."""
    if not text.strip():
        return gap
    async with aclosing(_sound(target, text, voice)) as pieces:
        async for piece in pieces:
            await send(AudioChunk(audio=gap + piece, **FORMAT).event())
            gap = b""
    return gap or PAUSE


async def _sound(target: Target, text: str, voice: str | None) -> AsyncGenerator[bytes]:
    """The sound of a text, in pieces of whole samples."""
    body = {"input": text, "model": target.model, "voice": voice, "response_format": "pcm"}
    rest = b""
    try:
        given = {key: value for key, value in body.items() if value}
        async with request(target, "/v1/audio/speech", given) as answer, aclosing(answer.pieces()) as pieces:
            async for piece in pieces:
                rest += piece
                whole = len(rest) - len(rest) % 2
                for begin in range(0, whole, CHUNK_BYTES):
                    yield rest[begin : min(begin + CHUNK_BYTES, whole)]
                rest = rest[whole:]
    except RefusedError as error:
        if error.code != SILENT:
            raise


def voice_of(event: Event) -> tuple[str | None, str | None]:
    """The voice that the peer asks for, and else the language. Raises: FrameError."""
    voice = object_of(event, "voice")
    named = Event(event.type, voice)
    name = text_of(named, "speaker", most=200) or text_of(named, "name", most=200)
    return name or None, text_of(named, "language", most=40) or None
