"""What the servers are put under, and the figures that come of it. Times are in milliseconds."""

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from bench.clients import Client, Messages, Refused, Reply
from bench.results import Figures

TOKENS = 64  # of a reply
LEVELS = (1, 4, 16, 32)  # clients at a time
LOOP_SECONDS = 5.0  # of each level
RATES = (8, 24)  # requests a second
ARRIVING_SECONDS = 5.0
PATIENCE_SECONDS = 4.0  # that users wait on after the last of them has come
FIRST_SECONDS, EACH_SECONDS = 1.0, 0.1  # a good answer begins, and goes on, within
SESSIONS, TURNS = 8, 4
SUBJECTS = ("the sea", "a lighthouse", "an old clock", "two brothers", "the first snow", "a lost dog", "a night train")
INSTRUCTIONS = (
    "You are the assistant of a small harbour town. "
    + "".join(
        f"House rule {number}: answer questions about {subject} kindly, briefly and truthfully, and say so when you do "
        "not know. "
        for number, subject in enumerate(SUBJECTS, 1)
    )
    + "Never promise what the harbour office has not announced."
)  # about 200 tokens

New = Callable[[], Client]


def question(number: int) -> Messages:
    """A question of its own for each request, so that nobody answers it from memory."""
    subject = SUBJECTS[number % len(SUBJECTS)]
    return [{"role": "user", "content": f"{number} times you wrote a long story about {subject}. Write another one."}]


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which this share of them lies, in milliseconds."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)] * 1000


@asynccontextmanager
async def clients(new: New, count: int) -> AsyncIterator[list[Client]]:
    """So many users, who leave at the end."""
    users = [new() for _ in range(count)]
    try:
        yield users
    finally:
        await asyncio.gather(*(user.close() for user in users), return_exceptions=True)


async def closed_loop(new: New, count: int, seed: int, seconds: float = LOOP_SECONDS) -> Figures:
    """Users who ask again as soon as they have their answer, until the time is over."""
    replies: list[Reply] = []
    cut: list[Reply] = []  # by the end, amid their text
    async with clients(new, count) as users:
        await asyncio.gather(*(user.ask(question(seed - 1), 1) for user in users))  # connected
        begun, cpu = time.perf_counter(), time.process_time()

        async def ask(number: int) -> None:
            for turn in range(1_000_000):
                reply = Reply()
                cut.append(reply)
                await users[number].ask(question(seed + turn * count + number), TOKENS, reply)
                cut.remove(reply)
                replies.append(reply)

        asking = [asyncio.create_task(ask(number)) for number in range(count)]
        done, _ = await asyncio.wait(asking, timeout=seconds)
        ended = time.perf_counter()
        cpu = time.process_time() - cpu
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)
        for each in done:
            each.result()
    heard = sum(len(reply.texts) for reply in replies)
    each_text = sum(reply.tokens for reply in replies) / heard if heard else 1.0
    tokens = sum(reply.tokens for reply in replies) + each_text * sum(len(reply.texts) for reply in cut)
    firsts = [reply.first if reply.texts else ended - reply.asked for reply in (*replies, *cut)]
    gaps = [gap for reply in (*replies, *cut) for gap in reply.gaps]
    return {
        "tokens": tokens / (ended - begun),
        "first50": percentile(firsts, 0.5),
        "first95": percentile(firsts, 0.95),
        "gap50": percentile(gaps, 0.5),
        "gap99": percentile(gaps, 0.99),
        "cpu": cpu / (ended - begun) * 100,
    }


async def burst(new: New, count: int, seed: int, rounds: int, tokens: int = TOKENS) -> Figures:
    """Users who all ask at once, and so many times, until each has its last answer."""
    async with clients(new, count) as users:
        begun = time.perf_counter()

        async def ask(number: int) -> list[Reply]:
            return [await users[number].ask(question(seed + turn * count + number), tokens) for turn in range(rounds)]

        replies = [reply for each in await asyncio.gather(*map(ask, range(count))) for reply in each]
        seconds = time.perf_counter() - begun
    return {
        "tokens": sum(reply.tokens for reply in replies) / seconds,
        "first95": percentile([reply.first for reply in replies], 0.95),
        "gap99": percentile([gap for reply in replies for gap in reply.gaps], 0.99),
    }


async def poisson(new: New, rate: float, seed: int, seconds: float = ARRIVING_SECONDS) -> Figures:
    """Users who come by chance, ``rate`` a second, whether or not the server keeps up."""
    chance = random.Random(seed)
    good: list[Reply] = []
    firsts: list[float] = []
    refused = 0

    async def visit(number: int) -> None:
        nonlocal refused
        async with clients(new, 1) as (user,):
            try:
                reply = await user.ask(question(number), TOKENS)
            except Refused:
                refused += 1
                return
        firsts.append(reply.first)
        if reply.first <= FIRST_SECONDS and reply.each <= EACH_SECONDS:
            good.append(reply)

    visits: list[asyncio.Task[None]] = []
    begun = at = time.perf_counter()
    while (at := at + chance.expovariate(rate)) < begun + seconds:
        await asyncio.sleep(at - time.perf_counter())
        visits.append(asyncio.create_task(visit(seed + len(visits))))
    _, late = await asyncio.wait(visits, timeout=PATIENCE_SECONDS)
    for each in late:
        each.cancel()
    await asyncio.gather(*visits, return_exceptions=True)
    for each in visits:
        if not each.cancelled() and (error := each.exception()) is not None:
            raise error
    return {
        "good": len(good) / seconds,
        "arrived": len(visits) / seconds,
        "refused": refused,
        "late": len(late),
        "first95": percentile(firsts or [float("inf")], 0.95),
    }


async def sessions(new: New, seed: int) -> Figures:
    """Conversations of a few turns behind the same instructions of some 200 tokens."""
    async with clients(new, SESSIONS) as users:

        async def talk(number: int) -> list[Reply]:
            said = [{"role": "system", "content": INSTRUCTIONS}]
            replies = []
            for turn in range(TURNS):
                said.extend(question(seed + number * TURNS + turn))
                replies.append(await users[number].ask(said, TOKENS))
                said.append({"role": "assistant", "content": f"I did, in part {turn}. Ask me for the next one."})
            return replies

        begun = time.perf_counter()
        talks = await asyncio.gather(*map(talk, range(SESSIONS)))
        seconds = time.perf_counter() - begun
    return {
        "tokens": sum(reply.tokens for replies in talks for reply in replies) / seconds,
        "first": percentile([replies[0].first for replies in talks], 0.5),
        "later50": percentile([reply.first for replies in talks for reply in replies[1:]], 0.5),
        "later95": percentile([reply.first for replies in talks for reply in replies[1:]], 0.95),
        "prompt": statistics.median(replies[-1].prompt for replies in talks),
    }
