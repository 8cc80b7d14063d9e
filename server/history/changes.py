"""The changes of a conversation as SQL."""

import json
from collections.abc import Sequence
from typing import Any

from server.history.database import Transaction
from server.history.interface import (
    NOT_FOUND,
    TAKEN,
    Change,
    DropEmpty,
    DropItem,
    DropResponse,
    HistoryError,
    Json,
    PutConversation,
    PutItem,
    PutResponse,
    StoredItem,
    StoredResponse,
)

Statement = tuple[str, tuple[Any, ...]]

# $1 and $2 are the conversation's owner and id in every statement, $3 the time.
_PUT_CONVERSATION = """INSERT INTO loquent_conversations (owner, id, created, changed, kind, metadata, session, holder)
    VALUES ($1, $2, $4, $3, $5, COALESCE(CAST($6 AS TEXT), '{}'), COALESCE(CAST($7 AS TEXT), '{}'), $8)
    ON CONFLICT (owner, id) DO UPDATE SET changed = excluded.changed,
        metadata = COALESCE(CAST($6 AS TEXT), loquent_conversations.metadata),
        session = COALESCE(CAST($7 AS TEXT), loquent_conversations.session)"""
# One statement, so that a claim that is committed meanwhile is seen: it waits for the row, and looks at it again.
_TOUCH = """UPDATE loquent_conversations SET changed = $3
    WHERE owner = $1 AND id = $2 AND (CAST($4 AS TEXT) = '' OR holder IN ('', $4))"""
_THERE = "SELECT 1 FROM loquent_conversations WHERE owner = $1 AND id = $2"
_CLAIM = "UPDATE loquent_conversations SET holder = $3 WHERE owner = $1 AND id = $2"
_DELETED = "SELECT 1 FROM loquent_deletions WHERE owner = $1 AND id = $2"
_SHIFT = """UPDATE loquent_items SET position = position + 1 WHERE owner = $1 AND conversation = $2
    AND position > (SELECT position FROM loquent_items WHERE owner = $1 AND conversation = $2 AND id = $3)
    AND NOT EXISTS (SELECT 1 FROM loquent_items WHERE owner = $1 AND conversation = $2 AND id = $4)"""
_FIRST = "(SELECT COALESCE(MIN(position), 1) - 1 FROM {table} WHERE owner = $1 AND conversation = $2)"
_LAST = "(SELECT COALESCE(MAX(position), 0) + 1 FROM {table} WHERE owner = $1 AND conversation = $2)"
_BEHIND = f"""COALESCE(
    (SELECT position + 1 FROM loquent_items WHERE owner = $1 AND conversation = $2 AND id = $7), {_LAST})"""
_PUT = """INSERT INTO {table} (owner, conversation, id, position, body, serial, event_id)
    VALUES ($1, $2, $3, {position}, $4, $5, $6)
    ON CONFLICT (owner, conversation, id) DO UPDATE
    SET body = excluded.body, serial = excluded.serial, event_id = excluded.event_id"""
_DROP = "DELETE FROM {table} WHERE owner = $1 AND conversation = $2 AND id = $3"

ITEMS, RESPONSES = "loquent_items", "loquent_open_responses"
_DROP_EMPTY = """DELETE FROM loquent_conversations WHERE owner = $1 AND id = $2
    AND NOT EXISTS (SELECT 1 FROM loquent_items WHERE owner = $1 AND conversation = $2)"""


def encode(value: Any) -> str:
    """JSON in ASCII: every text fits, NUL and halves of surrogate pairs included."""
    return json.dumps(value, separators=(",", ":"))


def escape(id: str) -> str:
    """An id that a client may have chosen, as text of any database; most are unchanged."""
    return json.dumps(id)[1:-1]


def unescape(stored: str) -> str:
    """The id that ``escape`` was given."""
    return str(json.loads(f'"{stored}"'))


class Recorded:
    """The changes of one ``record``, encoded: what is changed afterwards in memory does not reach them."""

    def __init__(self, owner: str, conversation: str, changes: Sequence[Change], now: int, holder: str = "") -> None:
        """``holder``: the server that has the conversation's session in progress, where it has one."""
        self._place = (escape(owner), escape(conversation))
        self._now = now
        self._creates = any(isinstance(change, PutConversation) for change in changes)
        self._holder = holder
        self._statements = [each for change in changes for each in _statements(change, now, holder)]

    @property
    def size(self) -> int:
        """Bytes, about."""
        return sum(len(value) for _, values in self._statements for value in values if isinstance(value, str))

    async def apply(self, transaction: Transaction) -> HistoryError | None:
        """Apply them, or none where the conversation is not there."""
        if not await transaction.execute(_TOUCH, *self._place, self._now, self._holder):
            if self._holder and await transaction.fetch(_THERE, *self._place):
                return HistoryError("Another server has this session now.", TAKEN)
            if not self._creates or await transaction.fetch(_DELETED, *self._place):
                return HistoryError("This conversation is not stored, or was deleted.", NOT_FOUND)
        for sql, values in self._statements:
            await transaction.execute(sql, *self._place, *values)
        return None


async def claim(transaction: Transaction, owner: str, id: str, holder: str) -> bool:
    """Let this server hold the conversation's session; whether the conversation is there."""
    return bool(await transaction.execute(_CLAIM, escape(owner), escape(id), holder))


def _statements(change: Change, now: int, holder: str) -> list[Statement]:
    match change:
        case DropEmpty():
            return [(_DROP_EMPTY, ())]
        case PutConversation(session, metadata, kind, created_at):
            created = now if created_at is None else created_at * 1_000_000
            return [(_PUT_CONVERSATION, (now, created, kind, _optional(metadata), _optional(session), holder))]
        case PutItem(item, after):
            return _put_item(item, after)
        case DropItem(id):
            return [(_DROP.format(table=ITEMS), (escape(id),))]
        case PutResponse(response):
            position = _LAST.format(table=RESPONSES)
            return [(_PUT.format(table=RESPONSES, position=position), _values(response))]
        case DropResponse(id):
            return [(_DROP.format(table=RESPONSES), (escape(id),))]


def _put_item(item: StoredItem, after: str | None) -> list[Statement]:
    if not after:
        position = (_LAST if after is None else _FIRST).format(table=ITEMS)
        return [(_PUT.format(table=ITEMS, position=position), _values(item))]
    behind = escape(after)
    put = _PUT.format(table=ITEMS, position=_BEHIND.format(table=ITEMS))
    return [(_SHIFT, (behind, escape(item.id))), (put, (*_values(item), behind))]


def _values(stored: StoredItem | StoredResponse) -> tuple[str, str, int, str]:
    return escape(stored.id), encode(stored.body), stored.serial, escape(stored.event_id)


def _optional(value: Json | None) -> str | None:
    return None if value is None else encode(value)
