"""PostgreSQL: a small pool of connections, which asyncpg opens again when they are lost."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import asyncpg

from server.history.database import Row, SetupError, Transaction
from server.history.location import masked

CONNECTIONS = 5
CONNECT_SECONDS = 5.0
STATEMENT_SECONDS = 15.0  # after which a connection counts as lost
CLOSE_SECONDS = 5.0
SCHEMA_LOCK = 0x4C4F5155  # an advisory lock's key
HOPELESS = (
    asyncpg.IntegrityConstraintViolationError,
    asyncpg.ProgramLimitExceededError,
    asyncpg.exceptions.DataError,  # of the server
    asyncpg.exceptions._base.DataError,  # of the client
)
PASSING = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,  # a TimeoutError is one
)
WRONG = (
    asyncpg.InvalidAuthorizationSpecificationError,  # a wrong password is one
    asyncpg.InvalidCatalogNameError,
    asyncpg.ClientConfigurationError,
)


class _Statements:
    """A transaction's statements over one connection."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def execute(self, sql: str, *values: Any) -> int:
        """See ``Transaction``."""
        status: str = await self._connection.execute(sql, *values)
        count = status.rpartition(" ")[2]
        return int(count) if count.isdigit() else 0

    async def fetch(self, sql: str, *values: Any) -> Sequence[Row]:
        """See ``Transaction``."""
        rows: Sequence[Row] = await self._connection.fetch(sql, *values)
        return rows


class PostgresDatabase:
    """The database at a URL."""

    serial = "BIGSERIAL PRIMARY KEY"

    def __init__(self, url: str) -> None:
        self.where = masked(url)
        self._url = url
        self._pool: Any = None

    async def open(self) -> None:
        """See ``Database``."""
        self._pool = await asyncpg.create_pool(
            self._url,
            min_size=1,
            max_size=CONNECTIONS,
            timeout=CONNECT_SECONDS,
            command_timeout=STATEMENT_SECONDS,
            server_settings={"application_name": "loquent"},
        )

    async def close(self) -> None:
        """See ``Database``."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            await asyncio.wait_for(pool.close(), CLOSE_SECONDS)
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            with suppress(OSError, asyncpg.InterfaceError):
                pool.terminate()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Transaction]:
        """See ``Database``."""
        async with self._transaction() as statements:
            yield statements

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Transaction]:
        """See ``Database``."""
        async with self._transaction(isolation="repeatable_read", readonly=True) as statements:
            yield statements

    @asynccontextmanager
    async def _transaction(self, **options: Any) -> AsyncIterator[_Statements]:
        if self._pool is None:
            raise asyncpg.InterfaceError("the database is closed")
        async with (
            self._pool.acquire(timeout=CONNECT_SECONDS + STATEMENT_SECONDS) as connection,
            connection.transaction(**options),
        ):
            yield _Statements(connection)

    async def lock_schema(self, transaction: Transaction) -> None:
        """See ``Database``."""
        await transaction.fetch("SELECT pg_advisory_xact_lock($1)", SCHEMA_LOCK)

    async def scrub(self) -> None:
        """See ``Database``: its files are the database server's, whose VACUUM and WAL recycling empty them."""

    def hopeless(self, error: Exception) -> bool:
        """See ``Database``."""
        return isinstance(error, HOPELESS) or not isinstance(error, PASSING)

    def unusable(self, error: Exception) -> SetupError | None:
        """See ``Database``."""
        if isinstance(error, WRONG):
            text = f"The history's database {self.where} refuses: {error}. See config.toml, [history] store."
            return SetupError(text, usage=True)
        return None
