"""``kill -9`` amid conversations: what was acknowledged must be there, and every reply must end for its client.

Run ``python -m bench.faults kills``, with ``--store postgres`` for PostgreSQL. The server is killed at a random moment
and started again; the stock ``openai`` clients come back by themselves and go on.
"""

import asyncio
import random
import sqlite3
from pathlib import Path
from typing import Any

from bench.faults.process import Process
from bench.faults.stories import Found, stories

SETTINGS: dict[str, Any] = {
    "pipeline.stages": ["chat"],  # starts sooner; what is stored is the same
    "listening.model": "",
    "history.patience": 30,
}


async def kill(store: str, kills: int, *, seed: int = 1) -> Found:
    """Converse while the server is killed so many times in a row."""
    chance = random.Random(seed)
    server = Process({**SETTINGS, "history.store": store})
    server.start()
    try:
        await server.ready()
        async with stories(server) as found:
            for _ in range(kills):
                await asyncio.sleep(chance.uniform(0.0, 1.5))
                server.kill()
                server.start()
                await server.ready()
    finally:
        server.end()
    if store.startswith("sqlite:///"):
        found.wrong += await asyncio.to_thread(_integrity, store.removeprefix("sqlite:///"))
    return found


def _integrity(path: str) -> list[str]:
    with sqlite3.connect(Path(path)) as database:
        (result,) = database.execute("PRAGMA integrity_check").fetchone()
    return [] if result == "ok" else [f"the database: {result}"]
