"""The microphone, and other sources of live sound: PCM, mono, 16 bits, 24,000 samples a second."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from clients.terminal.sound import RATE
from loquent import LoquentError

PIECE = RATE // 25  # samples: 40 ms
WAITING = 250  # pieces that wait to be sent: ten seconds, and then the oldest go


@asynccontextmanager
async def microphone() -> AsyncIterator[AsyncIterator[bytes]]:
    """What the microphone hears, piece by piece. Raises: LoquentError that says what is missing."""
    try:
        import sounddevice
    except ModuleNotFoundError:
        raise LoquentError("To use the microphone install: pip install 'loquent[sound]'; or name a file.") from None
    except OSError:
        raise LoquentError(
            "To use the microphone install PortAudio (on Debian: apt install libportaudio2); or name a file."
        ) from None
    loop = asyncio.get_running_loop()
    pieces: asyncio.Queue[bytes] = asyncio.Queue(WAITING)

    def put(piece: bytes) -> None:
        if pieces.full():  # the server or the network is slow: what was said long ago is worth least
            pieces.get_nowait()
        pieces.put_nowait(piece)

    def take(data: Any, frames: int, time: Any, status: Any) -> None:
        loop.call_soon_threadsafe(put, bytes(data))

    try:
        stream = sounddevice.RawInputStream(samplerate=RATE, channels=1, dtype="int16", blocksize=PIECE, callback=take)
        stream.start()
    except sounddevice.PortAudioError as error:
        raise LoquentError(f"There is no microphone ({error}); name a file instead.") from None
    try:
        yield _taken(pieces)
    finally:
        await asyncio.to_thread(stream.abort)
        stream.close()


async def _taken(pieces: "asyncio.Queue[bytes]") -> AsyncIterator[bytes]:
    while True:
        yield await pieces.get()


async def piped() -> AsyncIterator[bytes]:
    """PCM from standard input, until its end."""
    file = sys.stdin.fileno()
    while data := await asyncio.to_thread(os.read, file, 2 * PIECE):
        yield data
