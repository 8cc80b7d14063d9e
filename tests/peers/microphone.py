"""A microphone for the scripts: what is said into it comes at the speed of speech, with silence between."""

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

RATE = 24_000  # samples a second, mono, 16 bits
PIECE = 960  # samples: 40 ms


class Microphone:
    """``send`` gets PCM, piece by piece."""

    def __init__(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        self._send = send
        self._waiting = b""

    def say(self, name: str) -> None:
        """Say a recording, behind what is being said."""
        self._waiting += (Path(os.environ["RECORDINGS"]) / f"{name}.pcm").read_bytes()

    async def run(self) -> None:
        """Send until cancelled."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            piece, self._waiting = self._waiting[: 2 * PIECE], self._waiting[2 * PIECE :]
            await self._send(piece + bytes(2 * PIECE - len(piece)))
            due += PIECE / RATE
            await asyncio.sleep(max(due - loop.time(), 0))


@asynccontextmanager
async def microphone(send: Callable[[bytes], Awaitable[None]]) -> AsyncIterator[Microphone]:
    """A microphone that is open within the block."""
    opened = Microphone(send)
    running = asyncio.create_task(opened.run())
    try:
        yield opened
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so; the case has a limit of its own."""
    while not condition():
        await asyncio.sleep(0.05)
