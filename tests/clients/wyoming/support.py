"""What the tests of the Wyoming adapter share."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.event import Event

from clients.target import Target
from clients.wyoming.adapter import Exposure, adapter, bind
from tests.support import PATIENCE

HERE = Exposure.of("127.0.0.1", 0, ())


@asynccontextmanager
async def adapting(url: str, **target: Any) -> AsyncIterator[int]:
    """The port of an adapter to this server."""
    async with adapter(Target.of(url=url, **target), HERE, bind(HERE)) as address:
        yield int(address.rpartition(":")[2])


async def exchange(port: int, *events: Event, last: tuple[str, ...] = ("error",)) -> list[Event]:
    """Send events on a connection of their own; everything that comes back, up to one of the kinds ``last``."""
    found: list[Event] = []
    async with AsyncTcpClient("127.0.0.1", port) as client, asyncio.timeout(PATIENCE):
        for event in events:
            await client.write_event(event)
        while (event := await client.read_event()) is not None:
            found.append(event)
            if event.type in last:
                break
    return found


def sound(pcm: bytes, rate: int = 16_000, width: int = 2, channels: int = 1, piece: int = 4_000) -> list[Event]:
    """The events of a sound."""
    chunks = [
        AudioChunk(rate, width, channels, pcm[begin : begin + piece]).event() for begin in range(0, len(pcm), piece)
    ]
    return [AudioStart(rate, width, channels).event(), *chunks, AudioStop().event()]


def kinds(events: list[Event]) -> list[str]:
    """Their types."""
    return [event.type for event in events]
