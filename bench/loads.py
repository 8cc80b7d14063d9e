"""What the servers are put under, and the figures that come of it. Times are in milliseconds."""

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager

import aiohttp
import psutil

from bench.clients import Client, Messages, RealtimeClient, Refused, Reply

TOKENS = 64  # of a reply
LEVELS = (1, 4, 8, 16, 32)  # clients at a time
LOOP_SECONDS = 6.0  # of each level
RATES = (8, 24)  # requests a second
ARRIVING_SECONDS = 5.0
PATIENCE_SECONDS = 4.0  # that users wait on after the last of them has come
FIRST_SECONDS, EACH_SECONDS = 1.0, 0.1  # a good answer begins, and goes on, within
SESSIONS, TURNS = 8, 4
NEIGHBOURS, NEIGHBOUR_TOKENS = 8, 256
STEADY_REQUESTS, STEADY_TOKENS, STEADY_CLIENTS = 2000, 8, 16
TOUCHING_REQUESTS = 1000  # before memory counts: every KV cache slot is written, and every cache of a shape is filled
LISTENERS, FLOOD, FLOOD_TOKENS = 15, 4, 1900
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

Figures = dict[str, float]
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


async def poisson(new: New, rate: float, seed: int) -> Figures:
    """Users who come by chance, ``rate`` a second, whether or not the server keeps up."""
    chance = random.Random(seed)  # noqa: S311 - the same arrivals for every server
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
    while (at := at + chance.expovariate(rate)) < begun + ARRIVING_SECONDS:
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
        "good": len(good) / ARRIVING_SECONDS,
        "arrived": len(visits) / ARRIVING_SECONDS,
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


async def long_prompt(new: New, seed: int) -> Figures:
    """A prompt of some 1,500 tokens that comes while others are being answered: what they notice of it."""
    story = " ".join(
        f"On day {day} of voyage {seed} the keeper wrote into his book what he had seen." for day in range(61)
    )
    long = [{"role": "user", "content": f"{story} What did he see?"}]
    async with clients(new, NEIGHBOURS + 1) as users:
        await asyncio.gather(*(user.ask(question(seed), 2) for user in users))  # connected and warm
        beside = [
            asyncio.create_task(user.ask(question(seed + 1 + number), NEIGHBOUR_TOKENS))
            for number, user in enumerate(users[1:])
        ]
        await asyncio.sleep(0.5)
        reply = await users[0].ask(long, 2)
        replies = await asyncio.gather(*beside)
    came, read = reply.asked, reply.texts[0]
    before, during = [], []
    for each in replies:
        for earlier, later in zip(each.texts, each.texts[1:], strict=False):
            if came < later and earlier < read:
                during.append(later - earlier)
            else:
                before.append(later - earlier)
    return {
        "prompt": reply.prompt,
        "first": reply.first * 1000,
        "without99": percentile(before, 0.99),
        "with99": percentile(during, 0.99) if during else float("nan"),
        "ratio": percentile(during, 0.99) / percentile(before, 0.99) if during else float("nan"),
    }


async def deaf(new: New, seed: int) -> Figures:
    """What others notice of a client that asks for much and reads nothing, beside one that reads the same."""
    figures: Figures = {}
    for reads in (True, False):
        async with clients(new, LISTENERS + 1) as users:
            asking = asyncio.create_task(_flood(users[0], reads=reads))
            await asyncio.sleep(1.0)
            replies = await asyncio.gather(
                *(user.ask(question(seed + number), NEIGHBOUR_TOKENS) for number, user in enumerate(users[1:]))
            )
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        gaps = [gap for reply in replies for gap in reply.gaps]
        figures["reading99" if reads else "deaf99"] = percentile(gaps, 0.99)
    return figures


async def _flood(user: Client, *, reads: bool) -> None:
    assert isinstance(user, RealtimeClient)
    for number in range(FLOOD):
        await user.request(question(number), FLOOD_TOKENS)
    while reads:
        await user.receive()
    await asyncio.Event().wait()


async def steady(new: New, pid: int, seed: int) -> Figures:
    """Many short requests on ever new connections: what memory grows by once everything has been touched."""
    left: Iterator[int] = iter(())
    async with clients(new, STEADY_CLIENTS) as users:

        async def ask(user: Client) -> None:
            for turn, number in enumerate(left):
                await user.ask(question(number), STEADY_TOKENS)
                if turn % 10 == 0:
                    await user.close()  # what a session leaves behind counts too

        marks = [private(pid)]
        for first, count in ((seed, TOUCHING_REQUESTS), (seed + TOUCHING_REQUESTS, STEADY_REQUESTS)):
            left = iter(range(first, first + count))
            await asyncio.gather(*(ask(user) for user in users))
            await asyncio.sleep(1.0)  # what goes on beside replies has ended
            marks.append(private(pid))
    return {
        "touched": (marks[1] - marks[0]) / 2**20,
        "grown": (marks[2] - marks[1]) / 1024 / STEADY_REQUESTS,
        "now": memory(pid) / 2**20,
    }


def memory(pid: int) -> int:
    """Bytes that a server and its children keep in memory."""
    return sum(process.memory_info().rss for process in _family(pid))


def private(pid: int) -> int:
    """Likewise, without what they share with other processes, such as the pages of mapped files."""
    return sum(process.memory_full_info().uss for process in _family(pid))


def _family(pid: int) -> list[psutil.Process]:
    server = psutil.Process(pid)
    return [server, *server.children(recursive=True)]


@asynccontextmanager
async def listening(
    url: str, health: str, seconds: float, died: Callable[[], object]
) -> AsyncIterator[aiohttp.ClientSession]:
    """A client session, once the server answers.

    Raises: TimeoutError when it does not in time, ChildProcessError when ``died`` says that it never will.
    """
    connector = aiohttp.TCPConnector(limit=0, force_close=True)  # some peers close what they said to keep open
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as http:
        async with asyncio.timeout(seconds):
            while True:
                try:
                    async with http.get(url + health) as response:
                        if response.status == 200:
                            break
                except aiohttp.ClientError:
                    pass
                if died() is not None:
                    raise ChildProcessError("the server ended while it started")
                await asyncio.sleep(0.2)
        yield http
