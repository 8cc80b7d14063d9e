"""The requests of Home Assistant's Wyoming integration (``homeassistant.components.wyoming``), replayed.

Each function sends, with the wyoming package's own client, the events that the module it names sends, in its order,
and waits for what that module waits for. The package itself brings all of Home Assistant.
"""

import asyncio
import io
import wave
from collections.abc import AsyncIterator, Sequence
from typing import Any

from wyoming.asr import Transcribe, Transcript
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.event import Event
from wyoming.handle import Handled, NotHandled
from wyoming.info import Describe, Info
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeStopped, SynthesizeVoice
from wyoming.wake import Detect, Detection

from tests.support import PATIENCE

INFO_SECONDS = 1  # _INFO_TIMEOUT of data.py
PIECE = 2048  # bytes of sound in one event: what a satellite sends


class LostError(Exception):
    """The connection ended; Home Assistant shows an error."""


async def load_info(port: int) -> Info:
    """data.py, ``load_wyoming_info``, one try."""
    async with AsyncTcpClient("127.0.0.1", port) as client, asyncio.timeout(INFO_SECONDS):
        await client.write_event(Describe().event())
        while True:
            event = await client.read_event()
            if event is None:
                raise LostError
            if Info.is_type(event.type):
                return Info.from_event(event)


async def hear(port: int, pcm: bytes, language: str = "en") -> str | None:
    """stt.py, ``async_process_audio_stream``; ``None`` is an error."""
    async with AsyncTcpClient("127.0.0.1", port) as client, asyncio.timeout(PATIENCE):
        await client.write_event(Transcribe(language=language).event())
        await client.write_event(AudioStart(rate=16_000, width=2, channels=1).event())
        for begin in range(0, len(pcm), PIECE):
            chunk = AudioChunk(rate=16_000, width=2, channels=1, audio=pcm[begin : begin + PIECE])
            await client.write_event(chunk.event())
        await client.write_event(AudioStop().event())
        while (event := await client.read_event()) is not None:
            if Transcript.is_type(event.type):
                return Transcript.from_event(event).text
    return None


async def speak(port: int, text: str, voice: str | None = None) -> bytes | None:
    """tts.py, ``async_get_tts_audio``: a WAV file; ``None`` is an error."""
    async with AsyncTcpClient("127.0.0.1", port) as client, asyncio.timeout(PATIENCE):
        chosen = SynthesizeVoice(name=voice) if voice is not None else None
        await client.write_event(Synthesize(text=text, voice=chosen).event())
        with io.BytesIO() as file:
            writer: wave.Wave_write | None = None
            while (event := await client.read_event()) is not None and not AudioStop.is_type(event.type):
                if AudioChunk.is_type(event.type):
                    chunk = AudioChunk.from_event(event)
                    if writer is None:
                        writer = wave.open(file, "wb")  # noqa: SIM115 - closed below
                        writer.setframerate(chunk.rate)
                        writer.setsampwidth(chunk.width)
                        writer.setnchannels(chunk.channels)
                    writer.writeframes(chunk.audio)
            if writer is not None:
                writer.close()
            return file.getvalue() if event is not None else None


async def speak_stream(port: int, pieces: Sequence[str]) -> tuple[list[str], bytes]:
    """tts.py, ``async_stream_tts_audio``: the kinds of events that came, and the sound.

    The text is written by one task and the sound read by another, and behind the pieces comes the whole text once more.
    """
    kinds: list[str] = []
    pcm = b""
    client = AsyncTcpClient("127.0.0.1", port)
    await client.connect()

    async def write() -> None:
        await client.write_event(SynthesizeStart(voice=None).event())
        for piece in pieces:
            await client.write_event(SynthesizeChunk(text=piece).event())
        await client.write_event(Synthesize(text="".join(pieces), voice=None).event())
        await client.write_event(SynthesizeStop().event())

    writing = asyncio.create_task(write())
    try:
        async with asyncio.timeout(PATIENCE):
            while (event := await client.read_event()) is not None:
                if AudioChunk.is_type(event.type):
                    pcm += AudioChunk.from_event(event).audio
                else:
                    kinds.append(event.type)
                if SynthesizeStopped.is_type(event.type):
                    break
        await writing
    finally:
        writing.cancel()
        await client.disconnect()
    return kinds, pcm


async def converse(port: int, text: str, **ids: str) -> Event:
    """conversation.py, ``async_process``: the event that ends the answer."""
    async with AsyncTcpClient("127.0.0.1", port) as client, asyncio.timeout(PATIENCE):
        await client.write_event(Transcript(text, context=dict[str, Any](ids), language="en").event())
        while True:
            event: Event | None = await client.read_event()
            if event is None:
                raise LostError
            if Error.is_type(event.type) or Handled.is_type(event.type) or NotHandled.is_type(event.type):
                return event


async def detect(port: int, pcm: bytes, word: str | None = None) -> Detection | None:
    """wake_word.py, ``_async_process_audio_stream``: sound goes out and events come in at the same time."""

    async def stream() -> AsyncIterator[tuple[bytes, int]]:
        for begin in range(0, len(pcm), PIECE):
            yield pcm[begin : begin + PIECE], begin // 32
            await asyncio.sleep(0)

    chunks = stream()
    async with AsyncTcpClient("127.0.0.1", port) as client, asyncio.timeout(PATIENCE):
        await client.write_event(Detect(names=[word] if word else None).event())
        await client.write_event(AudioStart(rate=16_000, width=2, channels=1).event())
        waking = asyncio.create_task(client.read_event())
        try:
            async for chunk, timestamp in chunks:
                if waking.done():
                    break
                sound = AudioChunk(rate=16_000, width=2, channels=1, audio=chunk, timestamp=timestamp)
                await client.write_event(sound.event())
            await asyncio.wait([waking], timeout=5)
            if not waking.done() or (event := waking.result()) is None or not Detection.is_type(event.type):
                return None
            return Detection.from_event(event)
        finally:
            waking.cancel()
            await asyncio.gather(waking, return_exceptions=True)
