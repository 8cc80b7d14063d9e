"""Many idle websockets: what each one costs in memory, how fast they are accepted, and how soon SIGTERM closes them.

Run ``python -m bench.faults idle --count 10000``; ``ulimit -n`` must allow two files for each.
"""

import asyncio
import os
import time
from dataclasses import dataclass

import psutil

from bench.faults.process import Process
from bench.faults.raw import HANDSHAKE

WAVE = 200  # that connect at a time
SETTLE_SECONDS = 3.0
WATCH_SECONDS = 10.0  # in which the processor's time is taken
GREETED = b'"conversation.created"'


@dataclass(frozen=True)
class Found:
    """What was found."""

    sockets: int
    kib: float  # of the server's memory, a socket
    accepted: float  # a second
    share: float  # of one core, while all are idle
    closed: float  # seconds from SIGTERM until the last one is closed
    codes: int  # that were closed with 1001
    exit_code: int


class _Socket(asyncio.Protocol):
    """One idle websocket, in as little memory of this process as may be."""

    def __init__(self, host: str) -> None:
        self._host = host
        self.greeted = asyncio.get_running_loop().create_future()
        self.closed = asyncio.get_running_loop().create_future()
        self._seen = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(HANDSHAKE.format(host=self._host).encode())

    def data_received(self, data: bytes) -> None:
        self._seen = (self._seen + data)[-4096:]
        if not self.greeted.done() and GREETED in self._seen:
            self.greeted.set_result(None)
            self._seen = b""
        elif self.greeted.done() and b"\x88\x02\x03\xe9" in self._seen and not self.closed.done():
            self.closed.set_result(1001)
            assert isinstance(self.transport, asyncio.WriteTransport)
            self.transport.write(b"\x88\x82\x00\x00\x00\x00\x03\xe9")  # the answer, masked with zeros

    def connection_lost(self, error: Exception | None) -> None:
        for each in (self.greeted, self.closed):
            if not each.done():
                each.set_result(1006)


def _memory(process: psutil.Process) -> int:
    return int(process.memory_full_info().uss)


async def idle(count: int) -> Found:
    """Open so many, watch them, and end the server."""
    server = Process({"limits.connections": count + 100, "limits.heartbeat": 120.0})
    server.start()
    try:
        await server.ready()
        await asyncio.sleep(20)  # what loads behind "ready"
        host = f"127.0.0.1:{server.port}"
        sockets = [await _open(server.port, host) for _ in range(50)]  # what the first ones allocate for all
        before, begun = _memory(server.running), time.perf_counter()
        sockets += await open_idle(server.port, count)
        accepted = count / (time.perf_counter() - begun)
        await asyncio.sleep(SETTLE_SECONDS)
        kib = (_memory(server.running) - before) / count / 1024
        times = server.running.cpu_times()
        await asyncio.sleep(WATCH_SECONDS)
        later = server.running.cpu_times()
        share = (later.user + later.system - times.user - times.system) / WATCH_SECONDS
        begun = time.perf_counter()
        ending = asyncio.create_task(asyncio.to_thread(server.end))
        codes = await asyncio.gather(*(each.closed for each in sockets))
        closed = time.perf_counter() - begun
        return Found(len(sockets), kib, accepted, share, closed, codes.count(1001), await ending)
    finally:
        if server.alive:
            server.kill()


async def open_idle(port: int, count: int) -> list[_Socket]:
    """So many idle websockets."""
    sockets: list[_Socket] = []
    while len(sockets) < count:
        wave = min(WAVE, count - len(sockets))
        sockets += await asyncio.gather(*(_open(port, f"127.0.0.1:{port}") for _ in range(wave)))
    return sockets


async def _open(port: int, host: str) -> _Socket:
    _, opened = await asyncio.get_running_loop().create_connection(lambda: _Socket(host), "127.0.0.1", port)
    async with asyncio.timeout(60):
        await opened.greeted
    return opened


def raise_limit(count: int) -> None:
    """Allow this process and the server so many sockets. Raises: SystemExit where that is not allowed."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 500
    if soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise SystemExit(f"ulimit -n is {hard}, and {wanted} files are needed (process {os.getpid()}).")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
