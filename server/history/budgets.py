"""Daily budgets as they are stored: the tokens that each server has counted, of each site."""

from collections import Counter

from server.history.changes import escape, unescape
from server.history.database import Transaction

_COUNT = """INSERT INTO loquent_budgets (day, site, server, tokens) VALUES ($1, $2, $3, $4)
    ON CONFLICT (day, site, server) DO UPDATE SET tokens = excluded.tokens"""
_ELSEWHERE = "SELECT COALESCE(SUM(tokens), 0) FROM loquent_budgets WHERE day = $1 AND site = $2 AND server <> $3"
_OF_DAY = "SELECT site, SUM(tokens) FROM loquent_budgets WHERE day = $1 GROUP BY site"
_FORGET = "DELETE FROM loquent_budgets WHERE day < $1"


async def count(transaction: Transaction, day: int, site: str, server: str, tokens: int) -> int:
    """Store the tokens that one server has counted; returns what the others have, and earlier processes."""
    await transaction.execute(_COUNT, day, escape(site), server, tokens)
    return int((await transaction.fetch(_ELSEWHERE, day, escape(site), server))[0][0])


async def of_day(transaction: Transaction, day: int) -> Counter[str]:
    """The tokens of a day, by site."""
    return Counter({unescape(site): int(tokens) for site, tokens in await transaction.fetch(_OF_DAY, day)})


async def forget(transaction: Transaction, before: int) -> None:
    """Delete the days before this one."""
    await transaction.execute(_FORGET, before)
