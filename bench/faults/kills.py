"""``kill -9`` amid conversations: what was acknowledged must be there, and every reply must end for its client.

Run ``python -m bench.faults kills``, with ``--postgres`` for PostgreSQL. The server is killed at a random moment and
started again; the stock ``openai`` clients come back by themselves and go on.
"""

import asyncio
import random
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from openai import WebSocketConnectionClosedError
from websockets.exceptions import WebSocketException

from bench.faults.client import Conversation, Turn, conversing
from bench.faults.process import Process

AT_ONCE = 3  # conversations
TURNS = 6  # of one conversation
SETTINGS: dict[str, Any] = {
    "pipeline.stages": ["chat"],  # starts sooner; what is stored is the same
    "listening.model": "",
    "history.patience": 30,
}


@dataclass
class Found:
    """What came of all kills."""

    kills: int = 0
    turns: int = 0
    incomplete: int = 0  # replies that a kill ended
    acknowledged: dict[str, list[str]] = field(default_factory=dict)  # items by conversation
    wrong: list[str] = field(default_factory=list)
    over: bool = False


async def kill(store: str, kills: int, *, seed: int = 1) -> Found:
    """Converse while the server is killed so many times in a row."""
    found, chance = Found(), random.Random(seed)
    server = Process({**SETTINGS, "history.store": store})
    server.start()
    try:
        await server.ready()
        async with asyncio.TaskGroup() as group:
            for number in range(AT_ONCE):
                group.create_task(_converse(server, number, found))
            while found.kills < kills:
                await asyncio.sleep(chance.uniform(0.0, 1.5))
                server.kill()
                found.kills += 1
                server.start()
                await server.ready()
            found.over = True
        for conversation, items in found.acknowledged.items():
            await _check_stored(server, conversation, items, found)
    finally:
        server.end()
    if store.startswith("sqlite:///"):
        found.wrong += await asyncio.to_thread(_integrity, store.removeprefix("sqlite:///"))
    return found


async def _converse(server: Process, number: int, found: Found) -> None:
    while not found.over:
        begun = False
        try:
            async with conversing(server.url, retries=200) as (mine, coming):
                await mine.begin(coming, {"output_modalities": ["text"], "max_output_tokens": 60})
                begun = True
                for turn in range(TURNS):
                    _check(await mine.ask(coming, f"Story {number}, part {turn}: go on."), found)
                    if found.over:
                        break
                _note(mine, found)
        except (WebSocketException, WebSocketConnectionClosedError, OSError) as error:
            if begun:
                found.wrong.append(f"a session was lost: {error!r}")
            await asyncio.sleep(0.1)  # it was killed before anything of it was acknowledged: it begins anew


def _note(mine: Conversation, found: Found) -> None:
    ids = [event["event_id"] for event in mine.events]
    if len(set(ids)) != len(ids):
        found.wrong.append(f"{mine.token[:21]}: an event came twice")
    kinds = [event["type"] for event in mine.events]
    for kind in ("response.created", "response.done"):
        if kinds.count(kind) != kinds.count("response.done"):
            found.wrong.append(f"{mine.token[:21]}: {kinds.count(kind)} × {kind}")
    found.acknowledged[f"conv_{mine.token[5:21]}"] = [
        event["item"] for event in mine.events if event["type"] == "conversation.item.done"
    ]


def _check(turn: Turn, found: Found) -> None:
    found.turns += 1
    if turn.dones != 1:
        found.wrong.append(f"{turn.id}: {turn.dones} ends")
    if turn.restarted:
        found.incomplete += 1
    elif not turn.done_text.endswith(turn.text):  # the deltas before a kill are not sent again
        found.wrong.append(f"{turn.id}: its deltas are not its end")


async def _check_stored(server: Process, conversation: str, items: list[str], found: Found) -> None:
    """Every item that a client saw acknowledged is stored, in order and once."""
    url = f"{server.url}/v1/conversations/{conversation}/items"
    async with aiohttp.ClientSession() as http, http.get(url, params={"order": "asc", "limit": "100"}) as response:
        stored = [item["id"] for item in (await response.json())["data"]] if response.status == 200 else []
    if [id for id in stored if id in items] != items:
        found.wrong.append(f"{conversation}: {len(items)} items were acknowledged, {len(stored)} are stored")


def _integrity(path: str) -> list[str]:
    with sqlite3.connect(Path(path)) as database:
        (result,) = database.execute("PRAGMA integrity_check").fetchone()
    return [] if result == "ok" else [f"the database: {result}"]
