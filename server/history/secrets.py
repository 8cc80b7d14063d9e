"""Client secrets as they are stored: their hashes, what they may do, and the turns that each server has counted."""

from collections.abc import Sequence
from dataclasses import dataclass

from server.history.changes import escape, unescape
from server.history.database import Row, Transaction

PAGE = 1000  # secrets that are read at a time

_COLUMNS = "hash, id, owner, key_id, expires, leash"
_TURNS = (
    "(SELECT COALESCE(SUM(turns), 0) FROM loquent_secret_turns WHERE loquent_secret_turns.hash = loquent_secrets.hash)"
)
_PUT = f"INSERT INTO loquent_secrets ({_COLUMNS}) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (hash) DO NOTHING"
_PAGE = f"""SELECT {_COLUMNS}, {_TURNS} FROM loquent_secrets
    WHERE expires > $1 AND hash > $2 ORDER BY hash LIMIT $3"""
_FIND = f"SELECT {_COLUMNS}, {_TURNS} FROM loquent_secrets WHERE hash = $1 AND expires > $2"
_COUNT = """INSERT INTO loquent_secret_turns (hash, server, turns)
    SELECT hash, CAST($2 AS TEXT), CAST($3 AS BIGINT) FROM loquent_secrets WHERE hash = $1
    ON CONFLICT (hash, server) DO UPDATE SET turns = excluded.turns"""
_ELSEWHERE = "SELECT COALESCE(SUM(turns), 0) FROM loquent_secret_turns WHERE hash = $1 AND server <> $2"
_FORGET = "DELETE FROM loquent_secrets WHERE expires <= $1"
_FORGET_TURNS = "DELETE FROM loquent_secret_turns WHERE hash NOT IN (SELECT hash FROM loquent_secrets)"


@dataclass(frozen=True, slots=True)
class StoredSecret:
    """A client secret; its value is nowhere."""

    hash: str
    id: str
    owner: str
    key_id: str
    expires_at: int  # Unix time
    leash: str  # JSON in ASCII
    turns: int = 0  # used, on all servers


async def put(transaction: Transaction, secret: StoredSecret) -> None:
    """Store a new client secret."""
    names = (secret.hash, secret.id, escape(secret.owner), secret.key_id)
    await transaction.execute(_PUT, *names, secret.expires_at, secret.leash)


async def page(transaction: Transaction, now: int, after: str) -> Sequence[StoredSecret]:
    """At most ``PAGE`` of those that are valid at this Unix time, behind a hash, in the order of their hashes."""
    return [_secret(row) for row in await transaction.fetch(_PAGE, now, after, PAGE)]


async def find(transaction: Transaction, hash: str, now: int) -> StoredSecret | None:
    """The client secret with this hash, unless it has expired."""
    rows = await transaction.fetch(_FIND, hash, now)
    return _secret(rows[0]) if rows else None


async def count(transaction: Transaction, hash: str, server: str, turns: int) -> int:
    """Store the turns that one server has counted; returns what the others have, and earlier processes."""
    await transaction.execute(_COUNT, hash, server, turns)
    return int((await transaction.fetch(_ELSEWHERE, hash, server))[0][0])


async def forget(transaction: Transaction, before: int) -> None:
    """Delete those that had expired at this Unix time."""
    if await transaction.execute(_FORGET, before):
        await transaction.execute(_FORGET_TURNS)


def _secret(row: Row) -> StoredSecret:
    hash, id, owner, key_id, expires, leash, turns = row
    return StoredSecret(hash, id, unescape(owner), key_id, int(expires), leash, int(turns))
