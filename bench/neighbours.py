"""What clients notice of a neighbour: one with a long prompt, one that does not read. Times are in milliseconds."""

import asyncio

from bench.clients import Client, Messages, RealtimeClient, Reply
from bench.loads import New, clients, percentile, question
from bench.results import Figures, ratio

NEIGHBOURS, NEIGHBOUR_TOKENS = 8, 256
LONG_DAYS = 61  # a sentence each, some 1,600 tokens together
LISTENERS, FLOOD, FLOOD_TOKENS = 15, 4, 1900


async def long_prompt(new: New, seed: int) -> Figures:
    """A prompt of some 1,600 tokens, alone and then amid other streams: when it is answered, what they notice of it."""
    async with clients(new, NEIGHBOURS + 1) as users:
        await asyncio.gather(*(user.ask(question(seed), 2) for user in users))  # connected and warm
        alone = await users[0].ask(_long(seed), 2)
        beside = [
            asyncio.create_task(user.ask(question(seed + 1 + number), NEIGHBOUR_TOKENS))
            for number, user in enumerate(users[1:])
        ]
        await asyncio.sleep(0.5)
        reply = await users[0].ask(_long(seed + 1), 2)
        others = await asyncio.gather(*beside)
    before, during = _gaps(others, reply)
    without, amid = percentile(before, 0.99), percentile(during, 0.99)
    return {
        "prompt": reply.prompt,
        "alone": alone.first * 1000,
        "first": reply.first * 1000,
        "without99": without,
        "with99": amid,
        "ratio": ratio(amid, without),
    }


def _long(number: int) -> Messages:
    days = (
        f"On day {day} of voyage {number} the keeper wrote into his book what he had seen." for day in range(LONG_DAYS)
    )
    return [{"role": "user", "content": f"Voyage {number}. {' '.join(days)} What did he see?"}]


def _gaps(others: list[Reply], long: Reply) -> tuple[list[float], list[float]]:
    """Seconds between the texts of others, without the long prompt and while it is prefilled."""
    before: list[float] = []
    during: list[float] = []
    for each in others:
        for earlier, later in zip(each.texts, each.texts[1:], strict=False):
            (during if long.asked < later and earlier < long.texts[0] else before).append(later - earlier)
    return before, during


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
