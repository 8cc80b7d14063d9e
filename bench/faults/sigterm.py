"""SIGTERM under many streams of all kinds: each must end, and the process too.

Run ``python -m bench.faults sigterm --count 50``. Two fifths of the streams are realtime text, a fifth each realtime
speech, chat completions and responses; all ask for more than the drain's time allows, or for little, in turn.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from bench.faults.process import Process
from bench.faults.times import ask
from bench.loads import percentile

SHORT, LONG = 30, 2000  # tokens
DRAIN_SECONDS = 10.0  # [server] drain; shipped it is 30 s
PATIENCE = 180.0
TEXT = "Write a very long story about the sea, with many chapters, and do not stop."


@dataclass
class Found:
    """What came of it."""

    ends: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # from the signal to the end of each stream
    ended: float = 0.0  # seconds from the signal to the end of the process
    exit_code: int = -1


@dataclass
class _Stream:
    http: aiohttp.ClientSession
    tokens: int
    begun: asyncio.Event = field(default_factory=asyncio.Event)


async def sigterm(count: int, *, drain: float = DRAIN_SECONDS) -> Found:
    """Let so many stream, and end the server, whose replies in flight get ``drain`` seconds."""
    found = Found()
    server = Process({"server.drain": drain})
    server.start()
    try:
        await server.ready()
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=PATIENCE)
        async with aiohttp.ClientSession(base_url=server.url, connector=connector, timeout=timeout) as http:
            streams = [_Stream(http, (SHORT, LONG)[number // 5 % 2]) for number in range(count)]
            tasks = [asyncio.create_task(KINDS[number % 5](stream)) for number, stream in enumerate(streams)]
            await asyncio.wait([asyncio.create_task(stream.begun.wait()) for stream in streams], timeout=PATIENCE)
            begun = time.perf_counter()
            for task in tasks:
                task.add_done_callback(lambda _: found.seconds.append(time.perf_counter() - begun))
            found.exit_code = await asyncio.to_thread(server.end)
            found.ended = time.perf_counter() - begun
            for end in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(end, BaseException):
                    found.wrong.append(f"{end!r}")
                else:
                    found.ends[end] += 1
    finally:
        if server.alive:
            server.kill()
    return found


async def _realtime(stream: _Stream, modality: str) -> str:
    """A realtime reply; how it and its socket ended. Raises: AssertionError where the reply has no end."""
    async with stream.http.ws_connect("/v1/realtime", compress=0, max_msg_size=0) as socket:
        await ask(socket, TEXT, output_modalities=[modality], max_output_tokens=stream.tokens)
        status = ""
        async for message in socket:
            event = json.loads(message.data)
            if event["type"] == "response.created":  # which may wait in the queue
                stream.begun.set()
            elif event["type"] == "response.done":
                status = event["response"]["status"]
        if not status:
            raise AssertionError(f"a realtime {modality} reply has no end; the socket closed with {socket.close_code}")
        return f"realtime {modality} {status}, {socket.close_code}"


async def _text(stream: _Stream) -> str:
    return await _realtime(stream, "text")


async def _speech(stream: _Stream) -> str:
    return await _realtime(stream, "audio")


async def _sent(stream: _Stream, path: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The events of a streamed answer."""
    async with stream.http.post(path, json=body) as response:
        response.raise_for_status()
        stream.begun.set()
        async for line in response.content:
            if line.startswith(b"data: {"):
                yield json.loads(line[6:])


async def _completion(stream: _Stream) -> str:
    body = {"messages": [{"role": "user", "content": TEXT}], "max_tokens": stream.tokens, "stream": True}
    end = ""
    async for data in _sent(stream, "/v1/chat/completions", body):
        if "error" in data:
            end = f"error {data['error']['code']}"
        elif data["choices"] and data["choices"][0]["finish_reason"]:
            end = str(data["choices"][0]["finish_reason"])
    if not end:
        raise AssertionError("a chat completion has no end")
    return f"chat completion {end}"


async def _response(stream: _Stream) -> str:
    body = {"input": TEXT, "max_output_tokens": stream.tokens, "stream": True}
    end = ""
    async for event in _sent(stream, "/v1/responses", body):
        if event["type"] in ("response.completed", "response.incomplete", "response.failed", "error"):
            end = event["type"]
    if not end:
        raise AssertionError("a response has no end")
    return f"response {end.removeprefix('response.')}"


KINDS: tuple[Callable[[_Stream], Coroutine[None, None, str]], ...] = (_text, _completion, _speech, _response, _text)


def told(found: Found) -> str:
    """What was found, in words."""
    ends = ", ".join(f"{count} {end}" for end, count in sorted(found.ends.items()))
    return "\n".join(
        [
            f"SIGTERM under {found.ends.total() + len(found.wrong)} streams, with a drain of {DRAIN_SECONDS:.0f} s: "
            f"{ends}; {len(found.wrong)} without an end; streams ended p50 {percentile(found.seconds, 0.5) / 1000:.1f} "
            f"s and at most {max(found.seconds, default=0):.1f} s after it, the process after {found.ended:.1f} s with "
            f"exit code {found.exit_code}",
            *found.wrong[:20],
        ]
    )
