"""What the simulation is fed with, measured on this machine: an engine's passes, and a gateway's share of a turn."""

import asyncio
import json
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

import numpy as np
import psutil

from bench import loads, results
from bench.load.plan import Load, visits
from bench.load.processes import run
from bench.load.user import Target
from bench.scale.costs import Costs
from bench.scale.model import Site, Work, simulate
from bench.servers import Server, Serving, loquent, serving

LEVELS = (1, 2, 4, 8, 16, 32)  # streams
SECONDS = 4.0  # of each
WORDS = (10, 40, 100, 200)  # of a prompt
PROMPTS = 9  # of each length
FEW, FEW_SECONDS = 8, 90.0  # users at a time, and in how many seconds they come
BESIDE, ROUNDS = 4, 3  # streams of each of several engines; measurements of them
REPLIES = (4, 64)  # tokens, by which a gateway's turn is told from its events
STREAMS = 32
FIRST_PORT, GATEWAY_PORT = 8801, 8800


def engine(number: int, threads: int = 0) -> Server:
    """A Loquent with its model and nothing else, on so many threads (0: as it ships)."""
    made = loquent(f"engine {number}", stages=["chat"], port=FIRST_PORT + number)
    return replace(made, environment=made.environment | {"LOQUENT__CHAT__THREADS": str(threads)})


def gateway(engines: Sequence[Server]) -> Server:
    """A Loquent before these."""
    made = loquent("gateway", stages=["chat"], port=GATEWAY_PORT)
    elsewhere = {
        "LOQUENT__CHAT__ENGINE": "openai",
        "LOQUENT__CHAT__UPSTREAM__URLS": json.dumps([f"{each.url}/v1" for each in engines]),
        "LOQUENT__CHAT__WAITING": "4096",
    }
    return replace(made, environment=made.environment | elsewhere)


async def measure(threads: int) -> Costs:
    """The costs of an engine on so many threads (0: as it ships), and of a gateway before it."""
    direct = engine(0, threads)
    async with AsyncExitStack() as running:
        served = await running.enter_async_context(serving(direct, results.LOG))
        await loads.closed_loop(lambda: served.client("SSE"), STREAMS, 900_000, 2.0)
        passes, cores = await _passes(served)
        prompt = await _prompts(served)
        before = await running.enter_async_context(serving(gateway([direct]), results.LOG))
        turn, event = await _gateway(before)
        costs = Costs(passes, prompt, (0.0,), turn, event, STREAMS, cores=cores)
        return replace(costs, accept=await _waited(before, costs))


async def shared_cores(served: Sequence[Serving], costs: Costs) -> float:
    """How many cores engines of one thread have together, with what asks them: by how many times more tokens they make
    than one alone. Processors that share caches, or are two threads of one core, are fewer than they seem."""
    found = []
    for number in range(ROUNDS):
        alone, _ = await _together(served[:1], 600_000 + 20_000 * number)
        tokens, asking = await _together(served, 610_000 + 20_000 * number)
        found.append(costs.cores * tokens / alone + asking)
    return statistics.median(found)


async def _together(served: Sequence[Serving], seed: int) -> tuple[float, float]:
    """Tokens a second of engines that all compute, and how many cores it takes to ask them."""
    loops = [
        loads.closed_loop(lambda each=each: each.client("SSE"), BESIDE, seed + 1000 * number, SECONDS)  # type: ignore[misc]
        for number, each in enumerate(served)
    ]
    figures = await asyncio.gather(*loops)
    return sum(each["tokens"] for each in figures), figures[0]["cpu"] / 100


async def _passes(served: Serving) -> tuple[tuple[tuple[int, float], ...], float]:
    """Seconds of a pass with so many streams: the gap between two texts. And how many cores it uses, those of the model
    and what the server does besides."""
    passes, cores = [], 1.0
    process = psutil.Process(served.pid)
    for level in LEVELS:
        begun, used = time.monotonic(), sum(process.cpu_times()[:2])
        figures = await loads.closed_loop(lambda: served.client("SSE"), level, 10_000 * level, SECONDS)
        cores = (sum(process.cpu_times()[:2]) - used) / (time.monotonic() - begun)
        passes.append((level, figures["gap50"] / 1000))
    return tuple(passes), cores


async def _prompts(served: Serving) -> float:
    """Seconds of a token of a prompt: a line through the times to first text of prompts of several lengths."""
    user = served.client("SSE")
    counts, firsts = [], []
    for words in WORDS:
        for number in range(PROMPTS):
            text = f"{words} {number} " + " ".join(loads.SUBJECTS[n % len(loads.SUBJECTS)] for n in range(words // 2))
            reply = await user.ask([{"role": "user", "content": text}], 2)
            counts.append(reply.prompt - reply.cached)
            firsts.append(reply.first)
    return max(float(np.polyfit(counts, firsts, 1)[0]), 0.0)


async def _gateway(before: Serving) -> tuple[float, float]:
    """A gateway's seconds of computing for a turn and for each of its texts, from two lengths of replies."""
    process = psutil.Process(before.pid)
    costs = []
    for tokens in REPLIES:
        begun = sum(process.cpu_times()[:2])
        replies = 0

        async def ask(number: int, tokens: int = tokens) -> None:
            nonlocal replies
            user = before.client("websocket")
            for turn in range(8):
                await user.ask(loads.question(700_000 + 1000 * tokens + 10 * number + turn), tokens)
                replies += 1
            await user.close()

        await asyncio.gather(*map(ask, range(8)))
        costs.append((sum(process.cpu_times()[:2]) - begun) / replies)
    event = max((costs[1] - costs[0]) / (REPLIES[1] - REPLIES[0]), 0.0)
    return max(costs[0] - REPLIES[0] * event, 0.0), event


async def _waited(before: Serving, costs: Costs) -> tuple[float, ...]:
    """Seconds to the first texts while there are few users, beyond what is computed for them: quick ones by what quick
    ones take, and slow ones by what those take."""
    load = Load(FEW, FEW_SECONDS, turns=4, think=5.0, nominal=0.5, speech=0.0, audio=0.0, seed=1)
    target = Target(before.server.url, "", "default", REPLIES[1], b"", 0.0)
    measured = await asyncio.to_thread(run, load, target, 1)
    read = round(measured.read / measured.outcomes["completed"])
    simulated = simulate(visits(load), Site(1, 1), costs, Work(REPLIES[1], read))
    pairs = zip(sorted(measured.times["first"]), sorted(simulated.first), strict=False)
    return tuple(max(took - computing, 0.0) for took, computing in pairs)
