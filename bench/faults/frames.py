"""Websocket frames that are wrong in every way that chance finds: each is answered, and nothing of them stays.

Run ``python -m bench.faults frames --count 100000``. Most are client events with something changed in them, some are
damaged JSON, some break the websocket protocol itself. After every few of them comes a well-formed event, whose answer
shows that the session still listens; a socket that was closed is opened anew.
"""

import asyncio
import base64
import copy
import json
import random
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from bench.faults.process import Process
from bench.faults.raw import HANDSHAKE, masked
from bench.faults.watch import metrics

SOCKETS = 16  # at a time
FRAMES = 400  # of one socket
BATCH = 10  # frames between two proofs that the session listens
PATIENCE = 60.0  # seconds for the answer, and for all to end
TOKENS = 3  # of a reply: most of the time goes into frames, not tokens
GAUGES = (  # what must return to where it was
    "loquent_connections",
    "loquent_sessions_lingering",
    "loquent_requests_running",
    "loquent_requests_waiting",
    "loquent_tasks",
    "loquent_kv_tokens",
)
LINGER = 2.0  # seconds that a session waits for its client
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.0, 1e308, float("nan"), float("inf"),
    "", " ", "auto", "none", "root", "message", "function", "\x00", "\ud800", "💥", "é" * 500, "a" * 20_000,
    "[" * 5_000, "realtime", [], {}, [[]], [None], [{}], {"": None}, {"type": "message"}, {"type": "input_text"},
    ["text", "audio"], "response.create", {"a": {"a": {"a": {"a": {}}}}}, "AAAA", "=", "item_1", list(range(1000)),
)  # fmt: skip
CONTENT = [{"type": "input_text", "text": "What is good about the sea?"}]
MESSAGE = {"type": "message", "role": "user", "content": CONTENT, "id": "mine"}
FUNCTION = {"type": "function", "name": "time", "parameters": {"type": "object", "properties": {}}}
SOUND = base64.b64encode(bytes(480)).decode()
EVENTS: tuple[dict[str, Any], ...] = (
    {
        "type": "session.update",
        "session": {
            "type": "realtime",
            "instructions": "Be kind.",
            "output_modalities": ["text"],
            "max_output_tokens": TOKENS,
            "tools": [FUNCTION],
            "tool_choice": "auto",
            "truncation": {"type": "retention_ratio", "retention_ratio": 0.5},
            "audio": {
                "input": {"format": {"type": "audio/pcm", "rate": 24000}, "turn_detection": {"type": "server_vad"}},
                "output": {"voice": "default", "speed": 1.0},
            },
        },
    },
    {"type": "conversation.item.create", "item": MESSAGE, "previous_item_id": "root"},
    {"type": "conversation.item.create", "item": {"type": "function_call_output", "call_id": "c", "output": "1"}},
    {"type": "conversation.item.delete", "item_id": "mine"},
    {"type": "conversation.item.retrieve", "item_id": "mine"},
    {"type": "conversation.item.truncate", "item_id": "mine", "content_index": 0, "audio_end_ms": 5},
    {"type": "input_audio_buffer.append", "audio": SOUND},
    {"type": "input_audio_buffer.commit"},
    {"type": "input_audio_buffer.clear"},
    {"type": "output_audio_buffer.clear"},
    {
        "type": "response.create",
        "response": {"conversation": "none", "input": [MESSAGE], "metadata": {"a": "b"}, "max_output_tokens": TOKENS},
    },
    {"type": "response.cancel", "response_id": "r"},
)


@dataclass
class Found:
    """What came of all frames."""

    sent: int = 0
    answers: Counter[str] = field(default_factory=Counter)  # types of events, codes of errors
    closes: Counter[int] = field(default_factory=Counter)  # by their code
    wrong: list[str] = field(default_factory=list)
    left: dict[str, float] = field(default_factory=dict)  # gauges that did not return to where they were


class Fuzzer:
    """Random frames; one seed always gives the same."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)

    def frame(self) -> bytes:
        """One frame, or some that belong together."""
        kind = self._chance.choices(("event", "bytes", "frame", "huge"), (70, 20, 9, 1))[0]
        match kind:
            case "event":
                return masked(0x81, json.dumps(self._changed()).encode())
            case "bytes":
                damaged = self._damaged(json.dumps(self._chance.choice(EVENTS)).encode())
                return masked(self._chance.choice((0x81, 0x81, 0x82)), damaged)
            case "huge":
                size = self._chance.choice((65_536, 65_537, 1_048_576, 1_048_577)) - self._chance.randrange(200)
                return masked(0x81, json.dumps({"type": "input_audio_buffer.append", "audio": "A" * size}).encode())
            case _:
                return self._broken()

    def _changed(self) -> dict[str, Any]:
        event = copy.deepcopy(self._chance.choice(EVENTS))
        for _ in range(self._chance.choice((1, 1, 1, 2, 4))):
            holder, key = self._chance.choice(list(_places(event)))
            change = self._chance.random()
            if change < 0.2:
                del holder[key]
                if not event:
                    break
            elif change < 0.3 and isinstance(holder, dict):
                holder[self._chance.choice(("", "event_id", "extra", "type", "id", "a" * 300))] = self._odd()
            elif change < 0.4:
                holder[key] = [copy.deepcopy(holder[key])] * self._chance.choice((1, 2, 50))
            else:
                holder[key] = self._odd()
        return event

    def _odd(self) -> Any:
        return copy.deepcopy(self._chance.choice(ODD))

    def _damaged(self, data: bytes) -> bytes:
        damaged = bytearray(data)
        for _ in range(self._chance.choice((1, 2, 5, 20))):
            at = self._chance.randrange(len(damaged) + 1)
            match self._chance.randrange(4):
                case 0:
                    damaged[at:at] = self._chance.randbytes(self._chance.choice((1, 3, 30)))
                case 1:
                    del damaged[at : at + self._chance.choice((1, 3, 30))]
                case 2:
                    damaged[at : at + 1] = self._chance.choice((b"\x00", b'"', b"{", b"[", b"\\u", b"\xed\xa0\x80"))
                case _:
                    damaged[at:at] = damaged[max(at - 20, 0) : at]
        return bytes(damaged)

    def _broken(self) -> bytes:
        """Frames that the websocket protocol does not allow, or hardly."""
        data, chance = json.dumps(self._chance.choice(EVENTS)).encode(), self._chance
        half = len(data) // 2
        return chance.choice(
            (
                masked(0x01, data[:half], final=False) + masked(0x80, data[half:]),  # in two pieces, as it should be
                masked(0x01, data[:half], final=False)
                + masked(0x89, b"ping")
                + masked(0x80, data[half:]),  # a ping between them
                masked(0x01, data[:half], final=False) + masked(0x81, data),  # a message within another
                masked(0x80, data),  # a piece of nothing
                masked(0x89, chance.randbytes(125)) * chance.choice((1, 50)),
                masked(0x89, chance.randbytes(126)),  # control frames have at most 125 bytes
                masked(0x09, b"a ping in pieces", final=False),
                masked(0x8A, b"a pong that was not asked for"),
                masked(chance.choice((0x83, 0x8B, 0x8F)), data),  # reserved opcodes
                masked(chance.choice((0xC1, 0xA1, 0xF1)), data),  # reserved bits
                bytes([0x81, 5]) + b"plain",  # not masked
                masked(0x88, b"\x00"),  # half a close code
                masked(0x88, struct.pack("!H", chance.choice((0, 999, 1005, 1006, 1015, 2999, 5000))) + b"x"),
                masked(0x88, struct.pack("!H", 1000) + b"\xff\xfe"),
                bytes([0x81, 0xFF]) + struct.pack("!Q", 2**63 - 1) + bytes(4),  # more than there is memory
                bytes([0x81, 0xFE, 0, 1]) + bytes(4) + b"x",  # a length that fits into fewer bytes
                masked(0x81, b"\xc3\x28\xff"),  # no UTF-8
                masked(0x01, b"", final=False) * 3 + masked(0x80, b""),
                chance.randbytes(chance.choice((2, 20, 200))),
            )
        )


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    pairs = list(node.items() if isinstance(node, dict) else enumerate(node))
    for key, value in pairs:
        yield node, key
        if isinstance(value, dict | list):
            yield from _places(value)


class Socket:
    """A raw websocket, whose incoming frames are read one by one."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> "Socket":
        """Connect. Raises: AssertionError where the server refuses."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HANDSHAKE.format(host=f"127.0.0.1:{port}").encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 101"), answer[:100]
        return cls(reader, writer)

    async def send(self, data: bytes) -> None:
        """Send bytes. Raises: ConnectionError."""
        self._writer.write(data)
        await self._writer.drain()

    async def receive(self) -> tuple[int, bytes]:
        """The next frame's opcode and payload. Raises: ConnectionError, IncompleteReadError."""
        first, second = await self._reader.readexactly(2)
        length = second & 0x7F
        if length >= 126:
            length = int.from_bytes(await self._reader.readexactly(2 if length == 126 else 8))
        return first & 0x0F, await self._reader.readexactly(length)

    def close(self) -> None:
        """End the connection, without more ado."""
        self._writer.transport.abort()


async def frames(server: Process, count: int, *, seed: int = 1) -> Found:
    """Send so many frames, and see what is left of them."""
    found = Found()
    before = await _gauges(server)
    async with asyncio.TaskGroup() as group:
        for number in range(SOCKETS):
            group.create_task(_attack(server, Fuzzer(seed * 1000 + number), count // SOCKETS, found, number))
    for _ in range(int(PATIENCE)):
        after = await _gauges(server)
        found.left = {name: value for name, value in after.items() if value > before[name]}
        if not found.left:
            break
        await asyncio.sleep(1)
    return found


async def _attack(server: Process, fuzzer: Fuzzer, count: int, found: Found, number: int) -> None:
    sent = 0
    while sent < count:
        socket = await Socket.open(server.port)
        try:
            for probe in range(0, FRAMES, BATCH):
                if sent >= count:
                    break
                batch = [fuzzer.frame() for _ in range(BATCH)]
                sent += BATCH
                found.sent += BATCH
                if not await _batch(socket, batch, f"probe_{number}_{sent}_{probe}", found):
                    break
        finally:
            socket.close()


async def _batch(socket: Socket, batch: list[bytes], probe: str, found: Found) -> bool:
    """Send some frames, and wait until the session has dealt with them; False once the socket is closed."""
    event = {"type": "conversation.item.retrieve", "item_id": "not there", "event_id": probe}

    async def send() -> None:
        try:
            for frame in batch:
                await socket.send(frame)
            await socket.send(masked(0x81, json.dumps(event).encode()))
        except ConnectionError:
            pass  # the reader finds out why

    sending = asyncio.create_task(send())
    try:
        async with asyncio.timeout(PATIENCE):
            while True:
                opcode, payload = await socket.receive()
                if opcode == 8:
                    code = int.from_bytes(payload[:2]) if payload else 1005
                    found.closes[code] += 1
                    if code in (1005, 1011) or not payload:
                        found.wrong.append(f"closed with {code}: {payload[2:]!r}")
                    return False
                if opcode == 1 and _note(json.loads(payload), probe, found):
                    return True
    except (ConnectionError, asyncio.IncompleteReadError):
        found.closes[1006] += 1
        return False
    except TimeoutError:
        found.wrong.append(f"no answer in {PATIENCE:.0f} s to what follows {[frame[:80] for frame in batch]}")
        return False
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


def _note(event: dict[str, Any], probe: str, found: Found) -> bool:
    """Count an event; True where it answers the probe."""
    kind = event["type"]
    error = event.get("error") if kind == "error" else None
    if kind == "response.done" and event["response"]["status"] == "failed":
        error = event["response"]["status_details"]["error"]
    if error is None:
        found.answers[kind] += 1
        return False
    found.answers[f"{kind} {error.get('code')}"] += 1
    if error.get("type") == "server_error":
        found.wrong.append(f"the server's fault: {error}")
    return bool(error.get("event_id") == probe)


async def _gauges(server: Process) -> dict[str, float]:
    async with aiohttp.ClientSession() as http:
        return await metrics(http, server.url, GAUGES)


def told(found: Found, log: str) -> str:
    """What was found, in words."""
    codes = sum(count for name, count in found.answers.items() if name.startswith(("error", "response.done ")))
    closes = ", ".join(f"{count} × {code}" for code, count in sorted(found.closes.items()))
    return "\n".join(
        [
            f"{found.sent} frames: {found.answers.total() - codes} events and {codes} errors came back, sockets were "
            f"closed {closes}; {len(found.wrong)} wrong, {log.count('Traceback')} tracebacks in the log, left behind: "
            f"{found.left or 'nothing'}",
            *found.wrong[:20],
        ]
    )
