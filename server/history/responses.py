"""``ResponseStore`` in the history's database: responses and conversations survive the process."""

import json
from collections.abc import Sequence
from typing import cast

from server.history import deleting
from server.history.changes import encode, escape, unescape
from server.history.database import Transaction
from server.history.interface import (
    NOT_FOUND,
    ConversationHead,
    HistoryError,
    PutConversation,
    PutItem,
    StoredConversation,
    StoredItem,
)
from server.history.shapes import api_item
from server.history.store import DatabaseHistory
from server.response_store import Json, Page, Record

USED = 24 * 3600 * 1_000_000  # microseconds after which the use of a response is noted again

_DELETED = "SELECT 1 FROM loquent_deletions WHERE owner = $1 AND id = $2"
_PUT = """INSERT INTO loquent_responses (owner, id, created, changed, conversation, parent, body, items)
    VALUES ($1, $2, $3, $3, $4, $5, $6, $7)
    ON CONFLICT (owner, id) DO UPDATE SET changed = excluded.changed, conversation = excluded.conversation,
        parent = excluded.parent, body = excluded.body, items = excluded.items"""
_PUT_ITEM = "INSERT INTO loquent_response_items (owner, response, id) VALUES ($1, $2, $3)"
_DROP_ITEMS = "DELETE FROM loquent_response_items WHERE owner = $1 AND response = $2"
_GET = "SELECT body, items, parent, changed FROM loquent_responses WHERE owner = $1 AND id = $2"
_USE = "UPDATE loquent_responses SET changed = $3 WHERE owner = $1 AND id = $2"
_DESCRIBE = "UPDATE loquent_conversations SET metadata = $3, changed = $4 WHERE owner = $1 AND id = $2"
_ITEM = """SELECT items.body, head.kind FROM loquent_items AS items JOIN loquent_conversations AS head
    ON head.owner = items.owner AND head.id = items.conversation WHERE items.owner = $1 AND items.id = $2 LIMIT 1"""
_ITEM_OF_RESPONSE = """SELECT responses.body, responses.items FROM loquent_responses AS responses
    JOIN loquent_response_items AS named ON named.owner = responses.owner AND named.response = responses.id
    WHERE named.owner = $1 AND named.id = $2 LIMIT 1"""


class HistoryStore:
    """See ``ResponseStore``. Everything raises HistoryError while the database can't be used."""

    def __init__(self, history: DatabaseHistory) -> None:
        self._history = history

    async def get(self, tenant: str, id: str) -> Record | None:
        """See ``ResponseStore``."""
        if id.startswith("conv_"):
            found = await self._history.load(tenant, id)
            return None if found is None else _conversation(found)
        rows = await self._history.read(lambda transaction: transaction.fetch(_GET, escape(tenant), escape(id)))
        if not rows:
            return None
        body, items, parent, changed = rows[0]
        if self._history.now() - changed > USED:
            self._history.writer.submit(
                lambda transaction: transaction.execute(_USE, escape(tenant), escape(id), self._history.now())
            )
        return Record(id, json.loads(body), tuple(json.loads(items)), unescape(parent))

    async def put(self, tenant: str, record: Record) -> None:
        """See ``ResponseStore``. What belongs to a conversation that was deleted is not stored."""
        if record.id.startswith("conv_"):
            head = PutConversation(None, record.body["metadata"], "api", record.body["created_at"])
            await self._history.record(tenant, record.id, head, *_items(record.items))
            return
        body, items, now = encode(record.body), encode(record.items), self._history.now()
        place, of = (escape(tenant), escape(record.id)), escape(record.conversation)
        named = sorted({escape(item["id"]) for item in record.everything()})

        async def apply(transaction: Transaction) -> None:
            if of and await transaction.fetch(_DELETED, place[0], of):
                return
            await transaction.execute(_PUT, *place, now, of, escape(record.parent), body, items)
            await transaction.execute(_DROP_ITEMS, *place)
            for name in named:
                await transaction.execute(_PUT_ITEM, *place, name)

        await self._history.writer.submit(apply, key=(tenant, record.id), size=len(body) + len(items))

    async def delete(self, tenant: str, id: str) -> bool:
        """See ``ResponseStore``."""
        if id.startswith("conv_"):
            return await self._history.delete(tenant, id)
        deleted = await self._history.writer.submit(
            lambda transaction: deleting.delete_response(transaction, tenant, id), key=(tenant, id), scrubs=0
        )
        return bool(deleted)

    async def append(self, tenant: str, id: str, items: Sequence[Json]) -> bool:
        """See ``ResponseStore``."""
        try:
            await self._history.record(tenant, id, *_items(items))
        except HistoryError as error:
            if error.code == NOT_FOUND:
                return False
            raise
        return True

    async def drop_item(self, tenant: str, id: str, item: str) -> bool:
        """See ``ResponseStore``."""
        return await self._history.delete_item(tenant, id, item)

    async def describe(self, tenant: str, id: str, metadata: Json) -> bool:
        """See ``ResponseStore``."""
        place, text = (escape(tenant), escape(id)), encode(metadata)
        described = await self._history.writer.submit(
            lambda transaction: transaction.execute(_DESCRIBE, *place, text, self._history.now()),
            key=(tenant, id),
            size=len(text),
        )
        return bool(described)

    async def conversations(self, tenant: str, *, after: str, limit: int, newest_first: bool) -> Page | None:
        """See ``ResponseStore``."""
        try:
            heads, more = await self._history.list(tenant, after=after, limit=limit, newest_first=newest_first)
        except HistoryError as error:
            if error.code == NOT_FOUND:
                return None
            raise
        return tuple(map(_body, heads)), more

    async def find_item(self, tenant: str, id: str) -> Json | None:
        """See ``ResponseStore``."""
        place = (escape(tenant), escape(id))

        async def find(transaction: Transaction) -> Json | None:
            for body, kind in await transaction.fetch(_ITEM, *place):
                item = cast(Json, json.loads(body))
                return api_item(id, item) if kind == "realtime" else item
            for body, items in await transaction.fetch(_ITEM_OF_RESPONSE, *place):
                record = Record("", json.loads(body), tuple(json.loads(items)))
                return next((item for item in record.everything() if item["id"] == id), None)
            return None

        return await self._history.read(find)


def _items(items: Sequence[Json]) -> list[PutItem]:
    return [PutItem(StoredItem(item["id"], item)) for item in items]


def _body(head: ConversationHead | StoredConversation) -> Json:
    return {"id": head.id, "object": "conversation", "created_at": head.created_at, "metadata": head.metadata}


def _conversation(found: StoredConversation) -> Record:
    realtime = found.kind == "realtime"
    items = tuple(api_item(item.id, item.body) if realtime else item.body for item in found.items)
    return Record(found.id, _body(found), items, kind=found.kind)
