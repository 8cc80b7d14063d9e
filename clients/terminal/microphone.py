"""The microphone, and other sources of live sound: PCM, mono, 16 bits, 24,000 samples a second."""

import asyncio
import os
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from clients.terminal.sound import RATE
from loquent import LoquentError

PIECE = RATE // 25  # samples: 40 ms
WAITING = 250  # pieces that wait to be sent: ten seconds


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
    pieces: deque[bytes] = deque(maxlen=WAITING)  # what was said long ago is worth least, and goes first
    there = asyncio.Event()
    called = False  # the loop, which need not be told piece by piece how much there is

    def wake() -> None:
        nonlocal called
        called = False
        there.set()

    def take(data: Any, frames: int, time: Any, status: Any) -> None:
        nonlocal called
        pieces.append(bytes(data))
        if not called:
            called = True
            loop.call_soon_threadsafe(wake)

    try:
        stream = sounddevice.RawInputStream(samplerate=RATE, channels=1, dtype="int16", blocksize=PIECE, callback=take)
        stream.start()
    except sounddevice.PortAudioError as error:
        raise LoquentError(f"There is no microphone ({error}); name a file instead.") from None
    try:
        yield _taken(pieces, there)
    finally:
        # Not ``abort``: PortAudio cancels its thread by that, which may be just about to call Python. It then dies with
        # the interpreter's lock half taken, and the process hangs.
        await asyncio.to_thread(stream.stop)
        stream.close()


async def _taken(pieces: deque[bytes], there: asyncio.Event) -> AsyncIterator[bytes]:
    while True:
        await there.wait()
        there.clear()
        while pieces:
            yield pieces.popleft()
            await asyncio.sleep(0)  # sending may not wait at all, and a Ctrl-C needs a turn of the loop


async def piped() -> AsyncIterator[bytes]:
    """PCM from standard input, until its end."""
    file = sys.stdin.fileno()
    while data := await asyncio.to_thread(os.read, file, 2 * PIECE):
        yield data
