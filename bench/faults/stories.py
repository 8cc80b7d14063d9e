"""Conversations that go on while something happens to the server, and what must be true of them afterwards."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from openai import WebSocketConnectionClosedError
from websockets.exceptions import WebSocketException

from bench.faults.client import Conversation, NeverBegunError, Turn, conversing
from bench.faults.process import Process

AT_ONCE = 3  # conversations
TURNS = 6  # of one conversation
TOKENS = 60  # of a reply


@dataclass
class Found:
    """What came of the conversations."""

    turns: int = 0
    incomplete: int = 0  # replies that the server's death ended
    failed: int = 0  # replies that the death of what made them ended
    sent_away: int = 0  # times that a client was sent away, because nothing could be stored
    ends: Counter[str] = field(default_factory=Counter)  # of replies, by their status and its reason
    seconds: list[float] = field(default_factory=list)  # that each turn took
    acknowledged: dict[str, list[str]] = field(default_factory=dict)  # items by conversation
    wrong: list[str] = field(default_factory=list)
    over: bool = False

    @property
    def longest(self) -> float:
        """Seconds that a turn took at most."""
        return max(self.seconds, default=0.0)

    @property
    def items(self) -> int:
        """How many were acknowledged."""
        return sum(map(len, self.acknowledged.values()))


@dataclass(frozen=True)
class Telling:
    """How the conversations go."""

    at_once: int = AT_ONCE
    turns: int = TURNS  # of one conversation
    tokens: int = TOKENS  # of a reply
    pause: float = 0.0  # seconds before each turn, at most
    patient: bool = False  # the clients expect to be sent away while nothing can be stored, and come back
    may_fail: bool = False  # what makes the replies may die, too: then one is failed, or begins no more


@asynccontextmanager
async def stories(server: Process, telling: Telling | None = None, *, patient: bool = False) -> AsyncIterator[Found]:
    """Converse while the block runs; then every acknowledged item must be stored, in order and once."""
    telling = telling or Telling(patient=patient)
    found = Found()
    async with asyncio.TaskGroup() as group:
        for number in range(telling.at_once):
            group.create_task(_converse(server, number, found, telling))
        try:
            yield found
        finally:
            found.over = True
    for conversation, items in found.acknowledged.items():
        await _check_stored(server, conversation, items, found)


async def _converse(server: Process, number: int, found: Found, telling: Telling) -> None:
    chance = random.Random(number)
    while not found.over:
        begun = False
        try:
            async with conversing(server.url, retries=200, patient=telling.patient) as (mine, coming):
                await mine.begin(coming, {"output_modalities": ["text"], "max_output_tokens": telling.tokens})
                begun = True
                for turn in range(telling.turns):
                    await asyncio.sleep(chance.uniform(0, telling.pause))
                    started = asyncio.get_running_loop().time()
                    _check(await mine.ask(coming, f"Story {number}, part {turn}: go on."), found, telling)
                    found.seconds.append(asyncio.get_running_loop().time() - started)
                    if found.over:
                        break
                found.sent_away += mine.sent_away
                _note(mine, found)
        except NeverBegunError:
            continue
        except (WebSocketException, WebSocketConnectionClosedError, OSError) as error:
            if begun:
                found.wrong.append(f"a session was lost: {error!r}")
            await asyncio.sleep(0.1)  # it ended before anything of it was acknowledged: it begins anew


def _note(mine: Conversation, found: Found) -> None:
    ids = [event["event_id"] for event in mine.events]
    if len(set(ids)) != len(ids):
        found.wrong.append(f"{mine.token[:21]}: an event came twice")
    kinds = [event["type"] for event in mine.events]
    if kinds.count("response.created") != kinds.count("response.done"):
        found.wrong.append(f"{mine.token[:21]}: {kinds.count('response.created')} × response.created")
    found.acknowledged[f"conv_{mine.token[5:21]}"] = [
        event["item"] for event in mine.events if event["type"] == "conversation.item.done"
    ]


def _check(turn: Turn, found: Found, telling: Telling) -> None:
    found.turns += 1
    found.ends[f"{turn.status} {turn.why}".strip()] += 1
    if turn.dones != 1:
        found.wrong.append(f"{turn.id}: {turn.dones} ends")
    if turn.restarted:
        found.incomplete += 1
    elif turn.status == "failed" and telling.may_fail:
        found.failed += 1
    elif not turn.done_text.endswith(turn.text):  # the deltas before a kill are not sent again
        found.wrong.append(f"{turn.id}: its deltas are not its end")


async def _check_stored(server: Process, conversation: str, items: list[str], found: Found) -> None:
    url = f"{server.url}/v1/conversations/{conversation}/items"
    async with aiohttp.ClientSession() as http, http.get(url, params={"order": "asc", "limit": "100"}) as response:
        stored = [item["id"] for item in (await response.json())["data"]] if response.status == 200 else []
    if [id for id in stored if id in items] != items:
        found.wrong.append(f"{conversation}: {len(items)} items were acknowledged, {len(stored)} are stored")
