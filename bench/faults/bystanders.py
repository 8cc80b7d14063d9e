"""The other clients: they converse at their pace, and measure what they feel of what goes on beside them."""

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import aiohttp

COUNT = 4
SETTLE_SECONDS = 20.0  # for what the server loads behind "ready"
TOKENS = 40  # of a reply
PAUSE = 0.1, 0.4  # seconds between a reply and the next question, by chance
PATIENCE = 60.0  # seconds for an answer
Attack = Callable[[Callable[[], None]], Awaitable[None]]
GOAL = 1.2  # the ratio of the 99th percentiles, attacked to quiet


class Result(Protocol):
    """What was found of one attack."""

    @property
    def good(self) -> bool:
        """Whether it is within its goal."""


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of them lies, in milliseconds."""
    from bench.loads import percentile  # which brings the models' packages: the attackers need none

    return percentile(values, share)


@dataclass
class Sample:
    """What they felt in the phases of one kind, in seconds."""

    first: list[float] = field(default_factory=list)  # until the first token
    gaps: list[float] = field(default_factory=list)  # between two deltas


@dataclass
class Felt:
    """One attack, and the quiet between."""

    name: str
    quiet: Sample = field(default_factory=Sample)
    attacked: Sample = field(default_factory=Sample)
    errors: list[str] = field(default_factory=list)  # of the bystanders
    left: int = 0  # attackers that had to be cut, and were not
    fates: list[str] = field(default_factory=list)  # of the attackers, and what else there is to say

    def ratio(self, of: str) -> float:
        """How much longer the 99th percentile of "first" or "gaps" was while attacked."""
        quiet, attacked = (percentile(getattr(sample, of), 0.99) for sample in (self.quiet, self.attacked))
        return attacked / quiet

    @property
    def good(self) -> bool:
        """Whether the others felt little, and all who had to go are gone."""
        return not self.errors and not self.left and all(self.ratio(of) <= GOAL for of in ("first", "gaps"))

    def __str__(self) -> str:
        parts = []
        for of, name in (("first", "first token"), ("gaps", "gaps")):
            quiet, attacked = getattr(self.quiet, of), getattr(self.attacked, of)
            p50, p99 = (f"{percentile(quiet, q):.0f} → {percentile(attacked, q):.0f}" for q in (0.5, 0.99))
            parts.append(f"{name} p50 {p50}, p99 {p99} ms (× {self.ratio(of):.2f}, n = {len(attacked)})")
        parts.append(f"{len(self.errors)} errors" + "".join(f" [{each}]" for each in self.errors[:3]))
        return "; ".join([f"{self.name}: {parts[0]}", *parts[1:], *self.fates])


class Bystanders:
    """A handful of clients that ask, pause, and ask again."""

    def __init__(self, url: str, *, seed: int = 1) -> None:
        self._url = url
        self._chance = random.Random(seed)
        self._sample = Sample()
        self._errors: list[str] = []

    def note(self, errors: list[str], sample: Sample | None = None) -> None:
        """What they feel from now on goes into this sample, or into none."""
        self._errors, self._sample = errors, sample or Sample()

    async def alternate(self, name: str, attack: Attack, *, pairs: int, seconds: float) -> Felt:
        """Be quiet, be attacked, be quiet, and so on; ``attack`` calls what it is given when it begins."""
        felt = Felt(name)
        for _ in range(pairs):
            self.note(felt.errors, felt.quiet)
            await asyncio.sleep(seconds)
            self.note(felt.errors)  # while the attackers start
            await attack(partial(self.note, felt.errors, felt.attacked))
            self.note(felt.errors)  # what the attack has left behind is over soon
            await asyncio.sleep(min(seconds / 5, 1.0))
        return felt

    async def converse(self, http: aiohttp.ClientSession, number: int) -> None:
        """One client, until it is cancelled; it comes back where its socket breaks."""
        for turn in range(1_000_000):
            try:
                async with http.ws_connect(f"{self._url}/v1/realtime", compress=0, max_msg_size=0) as socket:
                    while True:
                        await self._ask(socket, f"What is good about the number {number}{turn}?")
                        await asyncio.sleep(self._chance.uniform(*PAUSE))
            except (aiohttp.ClientError, TimeoutError, ConnectionError, AssertionError) as error:
                self._errors.append(f"{type(error).__name__}: {error}")
                await asyncio.sleep(0.5)

    async def _ask(self, socket: aiohttp.ClientWebSocketResponse, text: str) -> None:
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        asked = {"conversation": "none", "input": [item], "output_modalities": ["text"], "max_output_tokens": TOKENS}
        sample, begun, last = self._sample, time.perf_counter(), 0.0
        await socket.send_json({"type": "response.create", "response": asked})
        async with asyncio.timeout(PATIENCE):
            while True:
                message = await socket.receive()
                now = time.perf_counter()
                if message.type is not aiohttp.WSMsgType.TEXT:
                    raise ConnectionError(f"the socket ended: {message.type.name} {socket.close_code}")
                event = json.loads(message.data)
                match event["type"]:
                    case "response.output_text.delta":
                        if last:
                            self._sample.gaps.append(now - last)
                        else:
                            sample.first.append(now - begun)
                        last = now
                    case "response.done":
                        assert event["response"]["status"] in ("completed", "incomplete"), event["response"]
                        return
                    case "error":
                        raise AssertionError(event["error"]["code"])


async def measured(run: Callable[[str], Awaitable[Sequence[Result]]]) -> tuple[str, bool]:
    """Run one row against a server of the shipped configuration; what was found, and whether all of it is good."""
    from bench.faults.process import serving

    async with serving() as server:
        await asyncio.sleep(SETTLE_SECONDS)
        found = await run(server.url)
    return "\n".join(map(str, found)), all(each.good for each in found)


@asynccontextmanager
async def bystanding(url: str, count: int = COUNT) -> AsyncIterator[Bystanders]:
    """So many clients that converse while the block runs."""
    bystanders = Bystanders(url)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
        tasks = [asyncio.create_task(bystanders.converse(http, number)) for number in range(count)]
        try:
            yield bystanders
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
