"""Sockets that break during replies: the stock ``openai`` client must get every reply whole, once.

Run ``python -m bench.faults cuts``. A proxy breaks each socket at random: by a reset, by silence, in the middle of a
frame, by a close with 1001 or 1011, or without one (1006). Every third turn is spoken.
"""

import asyncio
import random
from collections import Counter
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from bench.faults.client import Conversation, Turn, conversing
from bench.faults.proxy import Break, Proxy, proxy

WORDS = ("the sea", "a lighthouse", "an old clock", "two brothers", "the first snow", "a lost dog")
AT_ONCE = 4  # conversations


@dataclass
class Found:
    """What came of all turns."""

    turns: int = 0
    breaks: Counter[Break] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    returns: int = 0


async def cut(url: str, breaks: int, *, seed: int = 1, spoken: bool = True, tokens: int = 60) -> Found:
    """Converse through the proxy until so many sockets have broken."""
    found, chance = Found(), random.Random(seed)
    parts = urlsplit(url)
    async with proxy(parts.hostname or "", parts.port or 80, breaks, chance) as breaking, asyncio.TaskGroup() as group:
        for number in range(AT_ONCE):
            group.create_task(_converse(breaking, breaks, number, found, spoken=spoken, tokens=tokens))
    found.breaks = Counter(breaking.breaks)
    return found


async def _converse(breaking: Proxy, breaks: int, number: int, found: Found, *, spoken: bool, tokens: int) -> None:
    """Conversations of some turns each, until enough sockets have broken."""
    while len(breaking.breaks) < breaks:
        async with conversing(breaking.url) as (mine, coming):
            aloud = spoken and number == AT_ONCE - 1
            modality = "audio" if aloud else "text"
            await mine.begin(coming, {"output_modalities": [modality], "max_output_tokens": tokens})
            for turn in range(4):
                subject = WORDS[(number + turn) % len(WORDS)]
                check(await mine.ask(coming, f"Write a short story about {subject}."), found, aloud=aloud)
            check_events(mine, found)
            found.returns += mine.returns


def check(turn: Turn, found: Found, *, aloud: bool) -> None:
    """A reply's deltas add up to what its end says, which comes once."""
    found.turns += 1
    if turn.text != turn.done_text or not turn.text:
        found.wrong.append(f"{turn.id}: its deltas are {len(turn.text)} characters, its end {len(turn.done_text)}")
    if turn.dones != 1 or turn.status not in ("completed", "incomplete"):
        found.wrong.append(f"{turn.id}: {turn.dones} ends, {turn.status}")
    if aloud and not turn.sound:
        found.wrong.append(f"{turn.id}: no sound")


def check_events(mine: Conversation, found: Found) -> None:
    """The events of a session come in order, none twice and none missing."""
    ids = [event["event_id"] for event in mine.events]
    serials = [int(id.removeprefix("event_")[16:]) for id in ids]
    if serials != list(range(1, len(serials) + 1)):
        found.wrong.append(f"{ids[0]}: its events are not 1 to {len(serials)}")
