"""Peers that break the protocol, send without end, never read, or come in crowds."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import Any

import pytest
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.ping import Ping
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart

from clients.wyoming import adapter, frames, inbox
from clients.wyoming.adapter import Exposure
from loquent import UsageError
from server.config import LimitSettings, Settings
from tests.clients.wyoming.support import adapting, exchange, kinds, sound
from tests.support import (
    PATIENCE,
    ScriptedModel,
    ScriptedVoice,
    eventually,
    running,
    scripted_pipeline,
    scripted_speech,
)

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """An adapter without a server: what breaks the protocol never gets that far."""
    async with adapting(NOWHERE) as port:
        yield port


async def send(port: int, data: bytes, *, end: bool = False) -> list[Event]:
    """Send bytes; what comes back until the adapter closes the connection."""
    client = AsyncTcpClient("127.0.0.1", port)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client._reader = reader
    try:
        async with asyncio.timeout(PATIENCE):
            writer.write(data)
            if end:
                writer.write_eof()
            return [event async for event in _events(client)]
    finally:
        writer.close()


async def _events(client: AsyncTcpClient) -> AsyncIterator[Event]:
    try:
        while (event := await client.read_event()) is not None:
            yield event
    except ConnectionResetError:
        return


def line(**header: Any) -> bytes:
    return json.dumps(header).encode() + b"\n"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "a line of JSON"),
        (b"\x00\xff\xfe\n", "a line of JSON"),
        (b"\n", "a line of JSON"),
        (b"[" * 60_000 + b"\n", "a line of JSON"),
        (b"[1]\n", "a JSON object"),
        (line(data={}), "has a type"),
        (line(type=5), "has a type"),
        (line(type="ping", data=[1]), "data is a JSON object"),
        (line(type="audio-chunk", payload_length=1 << 40), "payload_length is 0 to"),
        (line(type="audio-chunk", payload_length=-1), "payload_length is 0 to"),
        (line(type="audio-chunk", payload_length=True), "payload_length is 0 to"),
        (line(type="audio-chunk", payload_length="9"), "payload_length is 0 to"),
        (line(type="transcript", data_length=1 << 40), "data_length is 0 to"),
        (line(type="transcript", data_length=2) + b"[]", "a JSON object"),
        (line(type="transcript", data={"text": 5}), "text is a text"),
        (line(type="transcript", data={"text": "a", "context": "b"}), "context is a JSON object"),
        (line(type="synthesize", data={"text": {}}), "text is a text"),
        (line(type="synthesize", data={"text": "a", "voice": [1]}), "voice is a JSON object"),
        (line(type="ping", data={"text": "a" * 2_000}), "text may have 1024 bytes"),
        (line(type="audio-start", data={}), "rate is a whole number"),
        (line(type="audio-start", data={"rate": 1 << 40, "width": 2, "channels": 1}), "A sample rate is"),
        (line(type="audio-start", data={"rate": 16_000, "width": 0, "channels": 1}), "A sample has"),
        (line(type="audio-start", data={"rate": 16_000, "width": 2, "channels": 10**9}), "Sound has"),
        (line(type="detect", data={"names": "alexa"}) + line(type="audio-start"), "names is a list"),
        (line(type="detect", data={"names": ["hey_you"]}) + line(type="audio-start"), "There is no wake word"),
    ],
    ids=lambda value: value if isinstance(value, str) else value[:24],
)
async def test_what_is_no_event_is_answered_by_an_error_and_the_end(port: int, data: bytes, why: str) -> None:
    (error,) = await send(port, data)
    assert (error.type, error.data["code"]) == ("error", "bad-event")
    assert why in error.data["text"]


async def test_a_line_without_an_end_is_not_read_on(port: int) -> None:
    found = await send(port, b"{" + b" " * (4 * frames.LINE_BYTES))
    assert kinds(found) in (["error"], [])  # the rest of the line may reset the connection before the error is read


async def test_half_an_event_is_the_end_where_the_peer_ends(port: int) -> None:
    (error,) = await send(port, line(type="audio-chunk", payload_length=1000) + bytes(10), end=True)
    assert "amid an event" in error.data["text"]


async def test_half_an_event_is_not_waited_for_without_end(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "ARRIVAL_SECONDS", 0.1)
    (error,) = await send(port, line(type="audio-chunk", payload_length=1000) + bytes(10))
    assert "did not arrive" in error.data["text"]


async def test_a_peer_that_says_nothing_is_left(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "IDLE_SECONDS", 0.1)
    (error,) = await send(port, b"")
    assert "no event for" in error.data["text"]


async def test_a_peer_may_end_its_side_and_still_gets_its_answers(port: int) -> None:
    found = await send(port, line(type="ping") + line(type="ping"), end=True)
    assert kinds(found) == ["pong", "pong"]


async def test_a_text_that_streams_without_end_is_cut(port: int) -> None:
    chunks = [SynthesizeChunk(" " * 10_000).event()] * 8
    found = await exchange(port, SynthesizeStart().event(), *chunks)
    assert "may have 65536 bytes" in found[-1].data["text"]


async def test_a_peer_that_never_reads_is_cut_and_others_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "SEND_SECONDS", 0.3)
    speech = scripted_speech(ScriptedVoice(word=30.0))  # a word of 1.4 MB
    pipeline = scripted_pipeline(ScriptedModel([]), speech=speech)
    patient = Settings(limits=LimitSettings(send_seconds=600))  # so that the adapter is what cuts
    async with running(pipeline, patient) as server, adapting(server.url) as port:
        with socket.socket() as deaf:
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            deaf.connect(("127.0.0.1", port))
            text = "one two three four five"
            deaf.sendall(line(type="synthesize", data={"text": text}))
            await eventually(lambda: speech.speaking == 1, "its speech has begun")
            assert kinds(await exchange(port, Ping("x").event(), last=("pong",))) == ["pong"]
            await eventually(lambda: not speech.speaking, "the speech of a peer that never reads has ended")
        found = await exchange(port, Synthesize("one").event(), last=("audio-stop", "error"))
        assert found[-1].type == "audio-stop"


async def test_a_peer_that_sends_faster_than_it_is_served_has_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox, "WAITING_BYTES", 10_000)
    reader = asyncio.StreamReader(limit=frames.LINE_BYTES)
    box = inbox.Inbox(reader)
    filling = asyncio.create_task(box.fill())
    for _ in range(100):
        reader.feed_data(line(type="audio-chunk", payload_length=1_000) + bytes(1_000))
    await asyncio.sleep(0.1)
    assert 10_000 < box._bytes < 12_500
    for _ in range(100):
        await box.take()
    filling.cancel()
    await asyncio.gather(filling, return_exceptions=True)


async def test_a_hundred_connections_are_too_many_and_leave_room_again(port: int) -> None:
    with ExitStack() as open_sockets:
        for _ in range(100):
            open_sockets.enter_context(socket.create_connection(("127.0.0.1", port)))
        await asyncio.sleep(0.2)
        assert await send(port, line(type="ping")) == []
    await asyncio.sleep(0.2)
    assert kinds(await exchange(port, Ping("x").event(), last=("pong",))) == ["pong"]


async def test_sound_longer_than_a_turn_is_refused(server_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clients.wyoming.hearing.SECONDS", 1.0)
    async with adapting(server_url) as port:
        found = await exchange(port, *sound(bytes(64_000)))
    assert "may last" in found[-1].data["text"]


def test_only_machines_of_the_named_networks_may_connect() -> None:
    exposure = Exposure.of("0.0.0.0", 0, ["192.168.1.0/24", "fd00::/8"])  # noqa: S104 - nothing listens
    admitted = ["192.168.1.77", "127.0.0.1", "::1", "fd00::1", "::ffff:192.168.1.5"]
    assert all(exposure.admits(address) for address in admitted)
    assert not any(exposure.admits(address) for address in ("192.168.2.1", "8.8.8.8", "fe80::1%eth0", "::ffff:1.2.3.4"))


async def test_a_peer_outside_of_them_is_cut(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter.Exposure, "admits", lambda self, address: address != "127.0.0.1")
    assert await send(port, line(type="ping")) == []


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "home.example"])  # noqa: S104 - nothing listens
def test_other_machines_need_to_be_named(host: str) -> None:
    with pytest.raises(UsageError, match="Wyoming has no keys"):
        Exposure.of(host, 0, [])
    with pytest.raises(UsageError, match="a network looks like"):
        Exposure.of(host, 0, ["home"])
