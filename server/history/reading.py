"""What is stored, read back."""

import json
from collections.abc import Sequence
from typing import Any, cast

from server.history.changes import escape, unescape
from server.history.database import Row, Transaction
from server.history.interface import (
    NOT_FOUND,
    ConversationHead,
    HistoryError,
    Json,
    Kind,
    StoredConversation,
    StoredItem,
    StoredResponse,
)

_HEAD = "SELECT owner, id, created, kind, metadata, session FROM loquent_conversations"
_PARTS = "SELECT id, body, serial, event_id FROM {table} WHERE owner = $1 AND conversation = $2 ORDER BY position, id"
_PLACE = "SELECT created, id FROM loquent_conversations WHERE owner = $1 AND id = $2"
_NEWEST = f"{_HEAD} WHERE owner = $1 AND (created, id) < ($2, $3) ORDER BY created DESC, id DESC LIMIT $4"
_OLDEST = f"{_HEAD} WHERE owner = $1 AND (created, id) > ($2, $3) ORDER BY created, id LIMIT $4"
_ANY = """(CAST($1 AS TEXT) IS NULL OR owner = $1) AND (CAST($2 AS TEXT) IS NULL OR {conversation} = $2)
    AND (CAST($3 AS BIGINT) IS NULL OR changed < $3)"""
SELECTED = f"SELECT owner, id, created FROM loquent_conversations WHERE {_ANY.format(conversation='id')}"
SELECTED_RESPONSES = (
    f"SELECT owner, id, created FROM loquent_responses WHERE {_ANY.format(conversation='conversation')}"
)
OVERVIEW = f"""SELECT owner, id, created, changed, kind, (SELECT COUNT(*) FROM loquent_items AS items
    WHERE items.owner = loquent_conversations.owner AND items.conversation = loquent_conversations.id)
    FROM loquent_conversations WHERE {_ANY.format(conversation="id")}"""
WHOLE_RESPONSES = f"""SELECT owner, id, created, body, items FROM loquent_responses
    WHERE {_ANY.format(conversation="conversation")}"""
EVERY = 2**62  # later than any time

Selection = tuple[str | None, str | None, int | None]  # owner, conversation, changed before (microseconds)


def selection(owner: str | None, conversation: str | None, before: int | None) -> Selection:
    """Values for ``SELECTED``: of one owner or of all, one conversation or all, last changed before a second."""
    return (
        None if owner is None else escape(owner),
        None if conversation is None else escape(conversation),
        None if before is None else before * 1_000_000,
    )


async def conversation(transaction: Transaction, owner: str, id: str) -> StoredConversation | None:
    """A conversation and everything that belongs to it."""
    place = (escape(owner), escape(id))
    rows = await transaction.fetch(f"{_HEAD} WHERE owner = $1 AND id = $2", *place)
    if not rows:
        return None
    head = _head(rows[0])
    items = await transaction.fetch(_PARTS.format(table="loquent_items"), *place)
    responses = await transaction.fetch(_PARTS.format(table="loquent_open_responses"), *place)
    return StoredConversation(
        head.id,
        head.owner,
        head.created_at,
        head.kind,
        head.metadata,
        json.loads(rows[0][5]),
        tuple(StoredItem(*_part(row)) for row in items),
        tuple(StoredResponse(*_part(row)) for row in responses),
    )


async def heads(
    transaction: Transaction, owner: str, *, after: str, limit: int, newest_first: bool
) -> tuple[tuple[ConversationHead, ...], bool]:
    """A page of an owner's conversations. Raises: HistoryError where there is no ``after``."""
    place: Sequence[Any] = (EVERY, "") if newest_first else (-EVERY, "")
    if after:
        rows = await transaction.fetch(_PLACE, escape(owner), escape(after))
        if not rows:
            raise HistoryError(f"There is no conversation {after!r:.140} here.", NOT_FOUND)
        place = rows[0]
    found = await transaction.fetch(_NEWEST if newest_first else _OLDEST, escape(owner), *place, limit + 1)
    return tuple(map(_head, found[:limit])), len(found) > limit


async def selected(transaction: Transaction, what: str, which: Selection, after: Row, limit: int) -> Sequence[Row]:
    """What ``which`` selects, oldest first, behind the row ``after``; a row begins with owner, id and creation."""
    sql = f"{what} AND (created, owner, id) > ($4, $5, $6) ORDER BY created, owner, id LIMIT $7"
    return await transaction.fetch(sql, *which, after[2], after[0], after[1], limit)


def _head(row: Row) -> ConversationHead:
    owner, id, created, kind, metadata = row[:5]
    return ConversationHead(
        unescape(id), unescape(owner), created // 1_000_000, cast(Kind, kind), cast(Json, json.loads(metadata))
    )


def _part(row: Row) -> tuple[str, Json, int, str]:
    id, body, serial, event_id = row
    return unescape(id), json.loads(body), serial, unescape(event_id)
