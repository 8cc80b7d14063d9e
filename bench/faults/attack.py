"""What floods and slows a server, in a process of its own at a low priority.

On two cores an attacker would take the server's processor time from it, and nothing but the kernel's scheduler would be
measured; a real one has a machine of its own. ``python -m bench.faults.attack KIND HOST PORT SOCKETS SECONDS`` says
"begun" and, at its end, as JSON what became of its sockets.
"""

import asyncio
import json
import os
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from bench.faults.fates import STILL_THERE, Fates, ending
from bench.faults.raw import HANDSHAKE

NICE = 10
LIMIT = 1024 * 1024  # [limits] audio_message_bytes as shipped
CHAT = "POST /v1/chat/completions HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
BURST = 64 * 1024  # bytes of small frames that are written at a time
PIPELINED = 16  # requests that are written at a time


@dataclass(frozen=True)
class Target:
    """The server, and how long it is attacked."""

    host: str
    port: int
    until: float  # by ``time.monotonic``

    @property
    def name(self) -> str:
        """Its name in a request's header."""
        return f"{self.host}:{self.port}"

    @property
    def over(self) -> bool:
        """Whether the attack is over."""
        return time.monotonic() >= self.until


Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Attack = Callable[[Target, Fates], Awaitable[None]]


@asynccontextmanager
async def opened(target: Target, *, websocket: bool) -> AsyncIterator[Streams]:
    """A connection, as a websocket where one is wanted. Raises: ConnectionError where it is refused."""
    reader, writer = await asyncio.open_connection(target.host, target.port, limit=4 * BURST)
    try:
        if websocket:
            writer.write(HANDSHAKE.format(host=target.name).encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 101 " not in head:
                raise ConnectionRefusedError(f"HTTP {head.split()[1].decode()}")
        yield reader, writer
    finally:
        writer.transport.abort()


async def drain(reader: asyncio.StreamReader) -> bytes:
    """Read to the end; returns the last bytes."""
    tail = b""
    try:
        while data := await reader.read(BURST):
            tail = (tail + data)[-512:]
    except ConnectionError:
        return tail or b""
    return tail


async def until_cut(target: Target, fates: Fates, streams: Streams, send: Callable[[], Awaitable[None]]) -> None:
    """Call ``send`` again and again, until the server ends the connection or the attack is over."""
    begun, (reader, _) = time.monotonic(), streams

    async def forever() -> None:
        while True:
            await send()

    reading, sending = asyncio.create_task(drain(reader)), asyncio.create_task(forever())
    try:
        left = target.until - time.monotonic()
        done, _ = await asyncio.wait([reading, sending], timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if done and reading not in done:  # writing failed: what was sent before that may say why
            await asyncio.wait([reading], timeout=1.0)
        how = ending(reading.result()) if reading.done() else "reset" if done else STILL_THERE
        fates.add(how, time.monotonic() - begun)
    finally:
        for task in (reading, sending):
            task.cancel()
        await asyncio.gather(reading, sending, return_exceptions=True)


async def again(attack: Attack, target: Target, fates: Fates) -> None:
    """An attacker that comes back whenever it is cut."""
    while not target.over:
        begun = time.monotonic()
        try:
            async with asyncio.timeout(max(target.until - begun, 0.0) + 5.0):
                await attack(target, fates)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            name = str(error) if isinstance(error, ConnectionRefusedError) else type(error).__name__
            fates.add(name, time.monotonic() - begun)
            await asyncio.sleep(0.01)


async def attack(one: Attack, target: Target, sockets: int) -> Fates:
    """Attack with so many sockets until the time is over."""
    fates = Fates()
    await asyncio.gather(*(one(target, fates) for _ in range(sockets)))
    return fates


async def launch(kind: str, url: str, sockets: int, seconds: float, *, begun: Callable[[], None]) -> Fates:
    """Attack from another process; ``begun`` is called when it begins."""
    host, port = url.removeprefix("http://").split(":")
    command = [sys.executable, "-m", "bench.faults.attack", kind, host, port, str(sockets), str(seconds)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    try:
        await process.stdout.readline()
        begun()
        text = (await process.stdout.read()).decode()
        await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise ChildProcessError(f"the attackers ended with {process.returncode}")
    return Fates({how: (count, longest) for how, (count, longest) in json.loads(text).items()})


def main() -> None:
    """Attack, and say what became of it."""
    kind, host, port, sockets, seconds = sys.argv[1:]
    from bench.faults.floods import FLOODS
    from bench.faults.readers import READERS
    from bench.faults.slow import SLOW

    one = partial(again, FLOODS[kind]) if kind in FLOODS else (SLOW | READERS)[kind]
    os.nice(NICE)
    sys.stdout.write("begun\n")
    sys.stdout.flush()
    target = Target(socket.gethostbyname(host), int(port), time.monotonic() + float(seconds))
    fates = asyncio.run(attack(one, target, int(sockets)))
    sys.stdout.write(json.dumps(fates.found))


if __name__ == "__main__":
    main()
