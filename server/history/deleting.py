"""Deletion, and what other processes have deleted."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from server.history.changes import escape, unescape
from server.history.database import Database, Transaction
from server.history.reading import EVERY, SELECTED, SELECTED_RESPONSES, Selection, selected
from server.history.writer import Writer

PORTION = 100  # conversations or responses of one transaction
OVERLAP = 200  # deletions that are read again: those of several servers may be committed out of their order
REMEMBERED = 24 * 3600 * 1_000_000  # microseconds that a deletion is remembered, so that nothing late creates it again

_DELETE = "DELETE FROM loquent_conversations WHERE owner = $1 AND id = $2"
_DELETE_RESPONSE = "DELETE FROM loquent_responses WHERE owner = $1 AND id = $2"
_DELETE_RESPONSES_OF = "DELETE FROM loquent_responses WHERE owner = $1 AND conversation = $2"
_DELETE_ITEM = "DELETE FROM loquent_items WHERE owner = $1 AND conversation = $2 AND id = $3"
_REMEMBER = "INSERT INTO loquent_deletions (owner, id, at) VALUES ($1, $2, $3)"
_FORGET = "DELETE FROM loquent_deletions WHERE at < $1"
_DELETIONS = "SELECT serial, owner, id FROM loquent_deletions WHERE serial > $1 ORDER BY serial"
_LAST = "SELECT COALESCE(MAX(serial), 0) FROM loquent_deletions"


@dataclass(frozen=True, slots=True)
class Deleted:
    """What was deleted."""

    conversations: tuple[tuple[str, str], ...] = ()  # each one's owner and id
    responses: int = 0


async def delete_conversation(transaction: Transaction, owner: str, id: str, now: int) -> bool:
    """Delete a conversation and the stored responses that belong to it; whether there was one."""
    place = (escape(owner), escape(id))
    await transaction.execute(_DELETE_RESPONSES_OF, *place)
    if not await transaction.execute(_DELETE, *place):
        return False
    await transaction.execute(_REMEMBER, *place, now)
    return True


async def delete_item(transaction: Transaction, owner: str, conversation: str, id: str) -> bool:
    """Delete an item; whether there was one."""
    return bool(await transaction.execute(_DELETE_ITEM, escape(owner), escape(conversation), escape(id)))


async def delete_response(transaction: Transaction, owner: str, id: str) -> bool:
    """Delete a stored response; whether there was one."""
    return bool(await transaction.execute(_DELETE_RESPONSE, escape(owner), escape(id)))


async def purge(writer: Writer, which: Selection, now: int) -> Deleted:
    """Delete what is selected, in small transactions, so that other changes go on meanwhile. Raises: HistoryError."""
    gone: list[tuple[str, str]] = []
    responses = 0

    async def portion(transaction: Transaction) -> tuple[list[tuple[str, str]], int]:
        start = ("", "", -EVERY)
        found = await selected(transaction, SELECTED, which, start, PORTION)
        for owner, id, *_ in found:
            await delete_conversation(transaction, unescape(owner), unescape(id), now)
        others = await selected(transaction, SELECTED_RESPONSES, which, start, PORTION)
        for owner, id, *_ in others:
            await transaction.execute(_DELETE_RESPONSE, owner, id)
        return [(unescape(owner), unescape(id)) for owner, id, *_ in found], len(others)

    while True:
        some, more = await writer.submit(portion)
        gone += some
        responses += more
        if not some and not more:
            break
    if gone or responses:
        await writer.submit(_nothing, scrubs=0)
    return Deleted(tuple(gone), responses)


async def _nothing(transaction: Transaction) -> None:
    """A change of nothing, behind which the files are scrubbed."""


async def forget(transaction: Transaction, now: int) -> None:
    """Forget deletions that every server has seen."""
    await transaction.execute(_FORGET, now - REMEMBERED)


@dataclass
class Deletions:
    """What was deleted since the last look, whichever process did it."""

    _last: int = 0
    _seen: set[int] = field(default_factory=set)  # bounded by ``OVERLAP`` and one look's

    async def start(self, database: Database) -> None:
        """What was deleted before concerns nothing in memory."""
        async with database.reading() as transaction:
            self._last = int((await transaction.fetch(_LAST))[0][0])
            rows = await transaction.fetch(_DELETIONS, self._last - OVERLAP)
        self._seen = {int(row[0]) for row in rows}

    async def look(self, database: Database) -> dict[str, tuple[str, ...]]:
        """The ids of conversations that were deleted since, by owner."""
        async with database.reading() as transaction:
            rows = await transaction.fetch(_DELETIONS, self._last - OVERLAP)
        new = [(unescape(row[1]), unescape(row[2])) for row in rows if row[0] not in self._seen]
        self._seen = {int(row[0]) for row in rows}
        self._last = max(self._seen | {self._last})
        return by_owner(new)


def by_owner(places: Iterable[tuple[str, str]]) -> dict[str, tuple[str, ...]]:
    """Ids by their owner."""
    found: dict[str, list[str]] = {}
    for owner, id in places:
        found.setdefault(owner, []).append(id)
    return {owner: tuple(ids) for owner, ids in found.items()}
