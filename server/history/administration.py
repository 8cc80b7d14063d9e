"""What ``loquent history`` prints and selects."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

from server.history import reading
from server.history.changes import unescape
from server.history.interface import Json, StoredConversation
from server.history.store import DatabaseHistory


@dataclass(frozen=True, slots=True)
class Selected:
    """Which conversations: each None means any."""

    owner: str | None
    conversation: str | None
    before: int | None  # seconds since 1970, of the last use

    @classmethod
    def of(cls, owner: str | None, conversation: str | None, before: str | None) -> "Selected":
        """As the command line says it. Raises: ValueError for what is no date."""
        return cls(owner, conversation, None if before is None else _seconds(before))

    @property
    def narrow(self) -> bool:
        """Whether it leaves anything out."""
        return (self.owner, self.conversation, self.before) != (None, None, None)

    @property
    def values(self) -> reading.Selection:
        """For the queries of ``reading``."""
        return reading.selection(self.owner, self.conversation, self.before)


def _seconds(date: str) -> int:
    try:
        given = datetime.fromisoformat(date)
        return int((given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        raise ValueError(f"--before: {date!r:.80} is no date such as 2026-01-31.") from None


async def overview(history: DatabaseHistory, selected: Selected) -> AsyncIterator[str]:
    """A line for each conversation: when it was last used, its id, kind, number of items, and owner."""
    async for owner, id, _, changed, kind, items in history.rows(reading.OVERVIEW, selected.values):
        used = datetime.fromtimestamp(changed / 1_000_000, UTC).strftime("%Y-%m-%d %H:%M")
        counted = f"{items} item{'' if items == 1 else 's'}"
        yield f"{used}  {unescape(id)}  {kind}  {counted}  {unescape(owner)}".rstrip()


async def exported(history: DatabaseHistory, selected: Selected) -> AsyncIterator[Json]:
    """Conversations, then stored responses, oldest first, as JSON objects with their owner."""
    async for each in history.export(selected.owner, conversation=selected.conversation, before=selected.before):
        yield _conversation(each)
    async for owner, _, _, body, items in history.rows(reading.WHOLE_RESPONSES, selected.values):
        yield json.loads(body) | {"owner": unescape(owner), "input": json.loads(items)}


async def count(history: DatabaseHistory, selected: Selected) -> tuple[int, int]:
    """How many conversations and stored responses there are."""
    conversations = [1 async for _ in history.rows(reading.SELECTED, selected.values)]
    responses = [1 async for _ in history.rows(reading.SELECTED_RESPONSES, selected.values)]
    return len(conversations), len(responses)


def said(conversations: int, responses: int) -> str:
    """In words."""
    one, other = "" if conversations == 1 else "s", "" if responses == 1 else "s"
    return f"{conversations} conversation{one} and {responses} stored response{other}"


def _conversation(stored: StoredConversation) -> Json:
    return {
        "object": "conversation",
        "id": stored.id,
        "owner": stored.owner,
        "created_at": stored.created_at,
        "kind": stored.kind,
        "metadata": stored.metadata,
        "items": [item.body for item in stored.items],
        "responses": [response.body for response in stored.open],  # that have not ended
    }
