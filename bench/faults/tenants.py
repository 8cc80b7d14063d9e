"""What the time of an answer betrays: whether another tenant has asked the same.

Run ``python -m bench.faults tenants``. One key asks a long question; then the time to the first token is taken for the
same key with the same question, for another key with the same question, and for another key with a question that no
one has asked. The last two must look alike, while the first is faster for its prefix cache.
"""

import json
import random
import statistics
import time
from dataclasses import dataclass, field
from typing import Literal

import aiohttp

from bench.faults.process import Process
from server.access.keys import new_key
from server.config import hash_key

Kind = Literal["own", "other's", "new"]
WORDS = ("sea", "clock", "snow", "lamp", "river", "stone", "bread", "cloud", "road", "glass", "field", "ship")
LENGTH = 400  # words of a question
ALIKE = 0.1  # by which a guess from the time may differ from chance


@dataclass
class Found:
    """Seconds to the first token, and tokens that the prefix cache had."""

    seconds: dict[Kind, list[float]] = field(default_factory=lambda: {"own": [], "other's": [], "new": []})
    cached: dict[Kind, list[int]] = field(default_factory=lambda: {"own": [], "other's": [], "new": []})

    @property
    def guess(self) -> float:
        """How often the smaller of two times is the one of the other's question; 0.5 is chance."""
        pairs = [(a, b) for a in self.seconds["other's"] for b in self.seconds["new"]]
        return sum((a < b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)


async def tenants(trials: int, *, seed: int = 1) -> Found:
    """Take the times, in an order of chance."""
    found, chance = Found(), random.Random(seed)
    first, second = new_key(), new_key()
    server = Process({"server.keys": [hash_key(first), hash_key(second)], "limits.rates": "off"})
    server.start()
    try:
        await server.ready()
        async with aiohttp.ClientSession(base_url=server.url) as http:
            for number in range(-2, trials):  # the first two warm up
                own, other, new = (_question(chance) for _ in range(3))
                await _ask(http, first, own)
                await _ask(http, first, other)
                asked: list[tuple[Kind, str, str]] = [
                    ("own", first, own),
                    ("other's", second, other),
                    ("new", second, new),
                ]
                chance.shuffle(asked)
                for kind, key, text in asked:
                    seconds, cached = await _ask(http, key, text)
                    if number >= 0:
                        found.seconds[kind].append(seconds)
                        found.cached[kind].append(cached)
    finally:
        server.end()
    return found


def _question(chance: random.Random) -> str:
    return " ".join(chance.choices(WORDS, k=LENGTH))


async def _ask(http: aiohttp.ClientSession, key: str, text: str) -> tuple[float, int]:
    """Seconds to the first token, and how many tokens of the question the cache had."""
    body = {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": 2,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    first, cached = 0.0, 0
    begun = time.perf_counter()
    async with http.post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}) as response:
        response.raise_for_status()
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            if not first and chunk["choices"] and chunk["choices"][0]["delta"].get("content"):
                first = time.perf_counter() - begun
            if chunk.get("usage"):
                cached = chunk["usage"]["prompt_tokens_details"]["cached_tokens"]
    return first, cached


def told(found: Found) -> str:
    """What was found, in words."""
    parts = (
        f"{kind} question {1000 * statistics.median(seconds):.0f} ms ({statistics.median(found.cached[kind]):.0f} "
        "tokens cached)"
        for kind, seconds in found.seconds.items()
    )
    return (
        f"first token, median of {len(found.seconds['new'])}: {', '.join(parts)}; the time tells another's question "
        f"from a new one {100 * found.guess:.0f} times of 100 (chance: 50)"
    )
