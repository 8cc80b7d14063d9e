"""Floods: sockets that send as fast as they can, and what the server does for others meanwhile."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from aiohttp.web_protocol import RequestHandler

from bench.faults.attack import Streams, opened
from bench.faults.attack import Target as Server
from bench.faults.raw import HANDSHAKE, masked
from server.app import ACCEPTED
from server.backend import Backend
from server.config import Settings
from server.limits.gate import Gate
from server.limits.pace import FRAME, OWN_FIRST, QUANTUM, REQUEST, UNIT_BYTES
from server.realtime.live import LiveSession
from tests.support import Client, Running, ScriptedModel, eventually, running

CONTINUATION, TEXT, PING = 0x0, 0x1, 0x9
TINY = b'{"type":"x"}'
NEARLY_NONE = Settings.model_validate({"limits": {"overhead": 1e-9}})  # a second turn in the lane never comes


def target(server: Running) -> Server:
    host, port = server.url.removeprefix("http://").split(":")
    return Server(host, int(port), 0.0)


class Coming:
    """What comes from a server, as it comes."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._seen = b""
        self._reading = asyncio.create_task(self._read(reader))

    async def _read(self, reader: asyncio.StreamReader) -> None:
        while data := await reader.read(65536):
            self._seen += data

    def count(self, text: bytes) -> int:
        """How often this has come."""
        return self._seen.count(text)

    def stop(self) -> None:
        """Read no more."""
        self._reading.cancel()


async def exchange(client: Client) -> None:
    """Events that are answered at once, so often that the server has gone through all that it wants to read."""
    for _ in range(20):
        await client.send("session.update", session={"type": "realtime", "instructions": "Be brief."})
        await client.expect("session.updated")


@contextmanager
def most_in_a_row(monkeypatch: pytest.MonkeyPatch, kind: type, name: str) -> Iterator[Callable[[], int]]:
    """How often a method was called, at most, between two rounds of the event loop."""
    original, loop = getattr(kind, name), asyncio.get_running_loop()
    most = now = 0
    over = False

    def counted(*given: Any, **named: Any) -> Any:
        nonlocal most, now
        now += 1
        most = max(most, now)
        return original(*given, **named)

    def round() -> None:
        nonlocal now
        now = 0
        if not over:
            loop.call_soon(round)

    monkeypatch.setattr(kind, name, counted)
    loop.call_soon(round)
    try:
        yield lambda: most
    finally:
        over = True


@asynccontextmanager
async def replying() -> AsyncIterator[tuple[Running, Client, Streams, Callable[[], None]]]:
    """A server in the middle of a reply, a client and a socket besides, and what lets the reply end."""
    gate = threading.Semaphore(0)
    async with (
        running(ScriptedModel(["Yes."], gate=gate), NEARLY_NONE) as server,
        server.client() as client,
        server.client() as other,
        opened(target(server), websocket=True) as streams,
    ):
        await client.greet()
        await other.greet()
        await client.say("Well?")
        await client.send("response.create")
        await eventually(lambda: server.backend.metrics.running == 1, "the reply is in progress")
        try:
            yield server, other, streams, gate.release
        finally:
            gate.release()


async def test_one_socket_with_many_frames_lets_others_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(ScriptedModel(["Hi"])) as server, opened(target(server), websocket=True) as (reader, writer):
        with most_in_a_row(monkeypatch, LiveSession, "feed") as most:
            writer.write(masked(TEXT, TINY) * 500)
            seen = b""
            while seen.count(b'"type":"error"') < 500:
                seen += await reader.read(65536)
        assert 1 <= most() <= QUANTUM / FRAME


async def test_one_socket_with_many_pings_lets_others_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(ScriptedModel(["Hi"])) as server, opened(target(server), websocket=True) as (reader, writer):
        with most_in_a_row(monkeypatch, Backend, "deliver") as most:
            writer.write(masked(PING, b"abcd") * 2000)
            seen = b""
            while seen.count(b"\x8a\x04abcd") < 2000:
                seen += await reader.read(65536)
        assert 1 <= most() <= 2 * QUANTUM / FRAME  # the greeting is delivered, too


async def test_many_that_connect_at_once_let_others_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        with most_in_a_row(monkeypatch, Gate, "enter") as most:
            at = target(server)
            streams = await asyncio.gather(*(asyncio.open_connection(at.host, at.port) for _ in range(200)))
            await eventually(lambda: len(server.backend.gate) >= 200, "all are accepted")
        for _, writer in streams:
            writer.transport.abort()
        assert 1 <= most() <= ACCEPTED


async def test_while_a_reply_is_in_progress_a_flood_of_frames_waits_and_another_client_does_not() -> None:
    async with replying() as (_, other, (reader, writer), end):
        coming = Coming(reader)
        writer.write(masked(TEXT, TINY) * 500)
        await exchange(other)
        assert coming.count(b'"type":"error"') <= OWN_FIRST + QUANTUM
        end()
        await eventually(lambda: coming.count(b'"type":"error"') == 500, "every frame is answered")
        coming.stop()


async def test_while_a_reply_is_in_progress_a_flood_of_fragments_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    received, original = 0, RequestHandler.data_received

    def counted(protocol: RequestHandler, data: bytes) -> None:
        nonlocal received
        received += len(data)
        original(protocol, data)

    monkeypatch.setattr(RequestHandler, "data_received", counted)
    async with replying() as (_, other, (_, writer), end):
        begun = received
        flood = masked(TEXT, b"{", final=False) + masked(CONTINUATION, b" ", final=False) * 400_000
        writer.write(flood)
        await exchange(other)
        assert received - begun < (OWN_FIRST + 2 * QUANTUM) * UNIT_BYTES
        end()
        await eventually(lambda: received - begun > len(flood), "all is read")


async def test_while_a_reply_is_in_progress_refused_requests_wait_for_their_turn() -> None:
    async with replying() as (server, other, _, end), opened(target(server), websocket=False) as (reader, writer):
        coming = Coming(reader)
        request = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {target(server).name}\r\nContent-Length: 1\r\n\r\n{{"
        for _ in range(100):
            writer.write(request.encode())
        await exchange(other)
        assert coming.count(b"HTTP/1.1 400") <= (OWN_FIRST + QUANTUM) / REQUEST
        end()
        await eventually(lambda: coming.count(b"HTTP/1.1 400") == 100, "every request is answered")
        coming.stop()


async def test_while_a_reply_is_in_progress_new_connections_wait_for_their_turn() -> None:
    async with replying() as (server, other, _, end):
        at = target(server)
        streams = [await asyncio.open_connection(at.host, at.port) for _ in range(20)]
        coming = [Coming(reader) for reader, _ in streams]
        for _, writer in streams:
            writer.write(HANDSHAKE.format(host=at.name).encode())
        await exchange(other)
        assert sum(each.count(b" 101 ") for each in coming) <= 1, "the first has its turn at once"
        end()
        await eventually(lambda: sum(each.count(b" 101 ") for each in coming) == 20, "all are connected")
        for each, (_, writer) in zip(coming, streams, strict=True):
            each.stop()
            writer.transport.abort()


async def test_a_websocket_message_of_exactly_the_limit_is_read() -> None:
    async with running(ScriptedModel(["Hi"])) as server, server.client() as client:
        await client.greet()
        size = server.backend.settings.limits.audio_message_bytes
        await client.socket.send('{"type":"x"' + " " * (size - 12) + "}")
        (error,) = await client.expect("error")
        assert error["error"]["code"] == "unknown_event"
