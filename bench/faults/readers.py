"""Clients that ask for long replies and stop reading: what others feel, when they are cut, and what they leave behind.

Run ``python -m bench.faults readers``: ``--count`` of them (20) stop reading text, sound, SSE and speech. The phases
between have as many clients that ask for the same and read: what replies cost is no fault. Each that stalls must be cut
within [limits] ``send_seconds`` of the first send that waits; all slots must be free then.
"""

import asyncio
import json
import re
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

import aiohttp

from bench.faults.attack import CHAT, Attack, Target, drain, launch
from bench.faults.bystanders import Bystanders, Felt, bystanding, measured
from bench.faults.fates import STILL_THERE, Fates
from bench.faults.raw import HANDSHAKE, masked
from bench.faults.watch import Watch

PATIENCE = 30.0  # seconds of a phase: until the buffers are full, and [limits] send_seconds as shipped
RECEIVE_BUFFER = 4096
STORY = "Tell me a very long story about the sea, with many chapters."
LONG = "The sea is wide and the day is long, and no one hurries on the quay. " * 50
TOKENS = 1500
SPEECH = "POST /v1/audio/speech HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"


@asynccontextmanager
async def _connected(target: Target) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    await asyncio.get_running_loop().sock_connect(sock, (target.host, target.port))
    reader, writer = await asyncio.open_connection(sock=sock, limit=RECEIVE_BUFFER)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def _ask(
    target: Target, fates: Fates, *, head: str, body: bytes, begins: bytes, then: bytes = b"", reads: bool
) -> None:
    """Ask, wait until the answer begins, send ``then``, and stop reading, or read all of it."""
    begun = time.monotonic()
    async with _connected(target) as (reader, writer):
        writer.write(head.format(host=target.name).encode() + body)
        seen = b""
        while begins not in seen:
            data = await reader.read(RECEIVE_BUFFER)
            seen = (seen + data)[-8192:]
            refused = re.search(rb'HTTP/1\.1 [45]\d\d|"response\.done"|"type":"error"', seen)
            if refused or not data:
                fates.add(refused[0].decode() if refused else "refused", time.monotonic() - begun)
                return
        writer.write(then)
        left = target.until - time.monotonic()
        if reads:
            done, _ = await asyncio.wait([task := asyncio.create_task(drain(reader))], timeout=left)
            task.cancel()
            writer.write(masked(0x8, (1000).to_bytes(2)) if head == HANDSHAKE else b"")  # it does not come back
            fates.add("read it all" if done else "read on", time.monotonic() - begun)
            return
        assert isinstance(writer.transport, asyncio.ReadTransport)
        writer.transport.pause_reading()
        await asyncio.sleep(left)
        writer.transport.resume_reading()
        done, _ = await asyncio.wait([task := asyncio.create_task(drain(reader))], timeout=2.0)
        task.cancel()
        whole = bool(done) and task.result().endswith(b"0\r\n\r\n")  # all of it was sent before the client stalled
        fates.add("complete" if whole else "cut" if done else STILL_THERE, time.monotonic() - begun)


def _realtime(modality: str) -> bytes:
    item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": STORY}]}
    asked = {"input": [item], "output_modalities": [modality], "max_output_tokens": TOKENS}
    return masked(0x1, json.dumps({"type": "response.create", "response": asked}).encode())


def _notes() -> bytes:
    """A small model's reply may fit into the buffers on the way: what acknowledges these does not."""
    note = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": LONG * 14}]}
    return masked(0x1, json.dumps({"type": "conversation.item.create", "item": note}).encode()) * 8


def _post(**fields: object) -> bytes:
    text = json.dumps(fields).encode()
    return f"Connection: close\r\nContent-Length: {len(text)}\r\n\r\n".encode() + text


_MESSAGES = [{"role": "user", "content": STORY}]
_ASKING = {
    "text": partial(_ask, head=HANDSHAKE, body=_realtime("text"), begins=b"output_text.delta", then=_notes()),
    "sound": partial(_ask, head=HANDSHAKE, body=_realtime("audio"), begins=b"output_audio.delta"),
    "sse": partial(
        _ask,
        head=CHAT,
        body=_post(messages=_MESSAGES, stream=True, max_tokens=TOKENS, logprobs=True, top_logprobs=20),
        begins=b"data: ",
    ),
    "speech": partial(_ask, head=SPEECH, body=_post(input=LONG, response_format="pcm"), begins=b" 200 "),
}
READERS: dict[str, Attack] = {
    name: partial(ask, reads=reads)
    for kind, ask in _ASKING.items()
    for name, reads in ((kind, False), (f"{kind}-read", True))
}


@dataclass
class Stalled:
    """One kind of reader."""

    felt: Felt
    watch: Watch
    grown_reading: int  # bytes, by as many clients that read
    count: int
    pairs: int

    @property
    def good(self) -> bool:
        """Whether others felt little, all that stalled were cut, and nothing of them is left."""
        return self.felt.good and not self.watch.left

    def __str__(self) -> str:
        cut = self.watch.cut
        when = f"{len(cut)} cut after {min(cut):.1f} to {max(cut):.1f} s" if cut else "none cut"
        each = f"{self.watch.grown / self.count / 1024:.0f} KiB each"
        read = f"{self.grown_reading / self.count / 1024:.0f} where they read"
        left = "; ".join(self.watch.left) or f"all slots free within {self.watch.freed:.1f} s"
        return f"{self.felt}; {when}; memory grew {each} ({read}); {left}"


async def readers(
    url: str, count: int = 20, *, pairs: int = 3, seconds: float = PATIENCE, kinds: tuple[str, ...] = tuple(_ASKING)
) -> list[Stalled]:
    """Try each kind with so many clients."""
    async with bystanding(url) as bystanders, aiohttp.ClientSession() as http:
        return [await _stall(url, kind, count, pairs, seconds, bystanders, http) for kind in kinds]


async def _stall(
    url: str, kind: str, count: int, pairs: int, seconds: float, bystanders: Bystanders, http: aiohttp.ClientSession
) -> Stalled:
    felt, reading, fates, read = Felt(f"{kind} × {count}"), Watch(), Fates(), Fates()
    stalled = Watch()
    for _ in range(pairs):
        for name, of, watch, sample in (
            (f"{kind}-read", read, reading, felt.quiet),
            (kind, fates, stalled, felt.attacked),
        ):
            bystanders.note(felt.errors)
            one = Watch()
            watching = asyncio.create_task(one.watch(http, url))
            of.merge(await launch(name, url, count, seconds, begun=partial(bystanders.note, felt.errors, sample)))
            bystanders.note(felt.errors)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await watch.free(http, url)
            watch.cut += one.cut
            watch.grown = max(watch.grown, one.grown)
    felt.left = fates.found.get(STILL_THERE, (0, 0.0))[0]
    felt.fates += [str(fates), f"those between: {read}"]
    return Stalled(felt, stalled, reading.grown, count, pairs)


async def row(count: int = 20, pairs: int = 3, seconds: float = PATIENCE) -> tuple[str, bool]:
    """The row of the bench: what was found, and whether it is good."""
    return await measured(lambda url: readers(url, count, pairs=pairs, seconds=seconds))
