"""A proxy that breaks the websockets that pass through it, in the ways in which networks do."""

import asyncio
import random
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

Break = Literal["reset", "silence", "torn", "close-1001", "close-1006", "close-1011"]
BREAKS: tuple[Break, ...] = ("reset", "silence", "torn", "close-1001", "close-1006", "close-1011")
PIECE = 16 * 1024
BEHIND = 2.5, 5.0  # powers of ten: the least and the most bytes behind which a socket breaks


@dataclass
class Proxy:
    """One proxy, which breaks every socket until ``wanted`` have broken: some behind a few events, some behind many."""

    host: str
    port: int
    wanted: int
    chance: random.Random
    breaks: list[Break] = field(default_factory=list)  # that came to pass
    url: str = ""
    behind: tuple[float, float] = BEHIND

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass one connection on until it breaks, or ends."""
        try:
            there, back = await asyncio.open_connection(self.host, self.port)
        except OSError:
            writer.transport.abort()
            return
        up = asyncio.create_task(_pass(reader, back))
        down = asyncio.create_task(self._down(there, writer, back))
        try:
            await asyncio.wait([up, down], return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (up, down):
                task.cancel()
            await asyncio.gather(up, down, return_exceptions=True)
            for each in (writer, back):
                each.transport.abort()

    def plan(self) -> tuple[int, Break] | None:
        """After how many bytes of the server the next socket breaks, and how; None: it does not."""
        if len(self.breaks) >= self.wanted:
            return None
        return int(10 ** self.chance.uniform(*self.behind)), self.chance.choice(BREAKS)

    async def _down(
        self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, back: asyncio.StreamWriter
    ) -> None:
        """Pass on what the server sends, frame by frame, so that a break has its place."""
        planned = self.plan()
        writer.write(await there.readuntil(b"\r\n\r\n"))
        sent = 0
        while True:
            frame = await _frame(there)
            if planned is not None and sent + len(frame) > planned[0]:
                self.breaks.append(planned[1])
                await _break(planned[1], frame, writer, back)
                return
            writer.write(frame)
            await writer.drain()
            sent += len(frame)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(PIECE):
            writer.write(data)
            await writer.drain()


async def _frame(reader: asyncio.StreamReader) -> bytes:
    """A frame of the server, which is not masked."""
    head = await reader.readexactly(2)
    length = head[1] & 0x7F
    if length >= 126:
        more = await reader.readexactly(2 if length == 126 else 8)
        head, length = head + more, int.from_bytes(more)
    return head + await reader.readexactly(length)


async def _break(kind: Break, frame: bytes, writer: asyncio.StreamWriter, back: asyncio.StreamWriter) -> None:
    if kind == "torn":
        writer.write(frame[: max(len(frame) // 2, 1)])
        await asyncio.sleep(0)
    if kind.startswith("close-"):
        code = int(kind.removeprefix("close-"))
        if code != 1006:  # which no frame may carry: the connection just ends
            writer.write(bytes([0x88, 2]) + code.to_bytes(2))
            with suppress(TimeoutError):
                async with asyncio.timeout(0.5):
                    await writer.drain()
                    await asyncio.sleep(0.05)
    elif kind == "silence":
        await asyncio.sleep(SILENCE_SECONDS)
    else:
        for each in (writer, back):
            sock: socket.socket | None = each.get_extra_info("socket")
            if sock is not None:  # the peer gets a reset, and loses what it has not read
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


SILENCE_SECONDS = 2.5


@asynccontextmanager
async def proxy(
    host: str, port: int, wanted: int, chance: random.Random, behind: tuple[float, float] = BEHIND
) -> AsyncIterator[Proxy]:
    """A proxy to this server while the block runs."""
    breaking = Proxy(host, port, wanted, chance, behind=behind)
    tasks: set[asyncio.Task[None]] = set()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await breaking.serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()
        finally:
            tasks.discard(task)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    breaking.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield breaking
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
