"""Histories over real databases."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from server.history.build import build
from server.history.settings import HistorySettings
from server.history.store import DatabaseHistory


@asynccontextmanager
async def history(store: str, **settings: Any) -> AsyncIterator[DatabaseHistory]:
    """A history that is started, and closed behind the block."""
    made = build(HistorySettings(store=store, **{"days": 0} | settings))
    assert made is not None
    await made.start()
    try:
        yield made
    finally:
        await made.close()
