"""``transcribe``: sound in, its words out; it is recognised while it streams in."""

import asyncio
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from wyoming.asr import Transcript, TranscriptChunk, TranscriptStart, TranscriptStop
from wyoming.audio import AudioChunk, AudioStop
from wyoming.event import Event

from clients.pcm import Converter, FormatError
from clients.target import Target, session
from clients.wyoming.frames import FrameError, text_of
from clients.wyoming.speaking import Send, Take
from loquent import ConnectionFailedError, LoquentError, Session

RATE = 24_000  # samples a second, of the server
SHORTEST_BYTES = RATE * 2 // 10  # of sound that can be committed: 100 ms
SECONDS = 120.0  # of sound of one request; the server's own limit
RECOGNISING_SECONDS = 60.0  # from the end of the sound to its words, beside others that speak
TRANSCRIPTION = "conversation.item.input_audio_transcription."


async def transcribe(target: Target, asked: Event | None, start: Event, take: Take, send: Send) -> None:
    """Answer ``audio-start`` and what follows it; ``asked`` is the ``transcribe`` event before it, if there was one.

    Raises: LoquentError, FrameError, OSError when the peer is gone.
    """
    language = text_of(asked, "language", most=40) if asked is not None else ""
    words = _words(asked) if asked is not None else []
    transcription = {"model": "whisper-1", "language": language, "keywords": words}
    settings = {
        "type": "transcription",
        "audio": {
            "input": {
                "turn_detection": None,
                "transcription": {key: value for key, value in transcription.items() if value},
            }
        },
    }
    converter = converter_of(start, RATE)
    async with session(replace(target, session=settings)) as opened:
        size = await _pass_on(opened, converter, take)
        text = await _recognised(opened) if size >= SHORTEST_BYTES else ""
    await _answer(text, language or None, send)


def _words(asked: Event) -> list[str]:
    """Names and words that may occur, as far as the peer says any."""
    found: list[str] = []
    for name in ("transcript_names", "transcript_terms"):
        given = asked.data.get(name) or []
        if not isinstance(given, list) or not all(isinstance(each, str) for each in given):
            raise FrameError(f"transcribe: {name} is a list of texts.")
        found += given
    return [word[:100] for word in found[:50]]


def converter_of(event: Event, out: int) -> Converter:
    """What converts the sound that begins, or that a chunk holds, to ``out`` samples a second. Raises: FrameError."""
    try:
        return Converter(*(_number(event, name) for name in ("rate", "width", "channels")), out=out)
    except FormatError as error:
        raise FrameError(str(error)) from None


def _number(event: Event, name: str) -> int:
    value = event.data.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise FrameError(f"{event.type}: {name} is a whole number.")
    return value


async def _pass_on(opened: Session, converter: Converter, take: Take) -> int:
    """Send the sound on, up to its end; returns its bytes."""
    size = 0
    while not AudioStop.is_type((event := await take()).type):
        if not AudioChunk.is_type(event.type):
            continue
        pcm = converter.convert(event.payload or b"")
        size += len(pcm)
        if size > SECONDS * RATE * 2:
            raise FrameError(f"Sound may last {SECONDS:.0f} s.")
        await opened.append(pcm)
    rest = converter.end()
    await opened.append(rest)
    return size + len(rest)


async def _recognised(opened: Session) -> str:
    """The words; "" where no speech was heard. Raises: LoquentError."""
    await opened.send("input_audio_buffer.commit")
    try:
        async with asyncio.timeout(RECOGNISING_SECONDS), aclosing(opened.events()) as events:
            async for event in events:
                match event["type"]:
                    case "error":
                        raise LoquentError(event["error"]["message"])
                    case kind if kind == TRANSCRIPTION + "completed":
                        return str(event["transcript"])
                    case kind if kind == TRANSCRIPTION + "failed":
                        return _failed(event["error"])
    except TimeoutError:
        pass
    raise ConnectionFailedError("The server does not answer.")


def _failed(error: dict[str, Any]) -> str:
    if error.get("code") == "no_speech":
        return ""
    raise LoquentError(error["message"])


async def _answer(text: str, language: str | None, send: Send) -> None:
    await send(TranscriptStart(language=language).event())
    if text:
        await send(TranscriptChunk(text=text).event())
    await send(Transcript(text=text, language=language).event())
    await send(TranscriptStop().event())
