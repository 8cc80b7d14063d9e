"""SQLite in WAL mode: one connection that writes and one that reads, each with a thread of its own."""

import asyncio
import logging
import os
import re
import sqlite3
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiosqlite

from server.history.database import Row, SetupError, Transaction

APPLICATION = 0x4C4F5155  # "LOQU": marks a file as ours
BUSY = 5000  # milliseconds to wait for another process's lock
CHECKED_PAGES = 16 * 1024  # of 4 KiB, of a file that is read as a whole at the start
TRUNCATION = 300  # milliseconds that truncating the WAL may wait for readers, while nothing is written
HOPELESS = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.ProgrammingError)
logging.getLogger("aiosqlite").setLevel(logging.WARNING)  # at debug it logs every value that is stored
_PARAMETER = re.compile(r"\$(\d+)")


class _Statements:
    """A transaction's statements over one connection."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self._connection = connection

    async def execute(self, sql: str, *values: Any) -> int:
        """See ``Transaction``."""
        async with self._connection.execute(_PARAMETER.sub(r"?\1", sql), values) as cursor:
            return cursor.rowcount

    async def fetch(self, sql: str, *values: Any) -> Sequence[Row]:
        """See ``Transaction``."""
        return list(await self._connection.execute_fetchall(_PARAMETER.sub(r"?\1", sql), values))


class SqliteDatabase:
    """The database in one file."""

    serial = "INTEGER PRIMARY KEY AUTOINCREMENT"

    def __init__(self, file: Path) -> None:
        self.file = file
        self.where = str(file)
        self._writer: aiosqlite.Connection | None = None
        self._reader: aiosqlite.Connection | None = None
        self._write_lock = asyncio.Lock()
        self._read_lock = asyncio.Lock()

    async def open(self) -> None:
        """See ``Database``."""
        try:
            _private(self.file)
        except OSError as error:
            raise SetupError(f"The history {self.file} can't be used: {error.strerror}.") from None
        try:
            self._writer = await _connect(self.file)
            await _check(self._writer, self.file)
            self._reader = await _connect(self.file)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See ``Database``."""
        opened, self._writer, self._reader = (self._reader, self._writer), None, None
        for connection in opened:  # the writer last: it empties the WAL
            if connection is not None:
                with suppress(sqlite3.Error, ValueError):
                    await connection.close()

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[Transaction]:
        """See ``Database``."""
        async with self._write_lock, _transaction(self._writer, "BEGIN IMMEDIATE") as statements:
            yield statements

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[Transaction]:
        """See ``Database``."""
        async with self._read_lock, _transaction(self._reader, "BEGIN") as statements:
            yield statements

    async def lock_schema(self, transaction: Transaction) -> None:
        """See ``Database``: a transaction that writes is the only one."""

    async def scrub(self) -> None:
        """See ``Database``.

        ``secure_delete`` zeroes deleted cells, yet pages that SQLite rebuilds hold stale copies of cells that moved; so
        the file is written anew, which takes as long as it is large. Raises: sqlite3.OperationalError while another
        process reads or writes.
        """
        async with self._write_lock:
            if self._writer is None:
                raise sqlite3.OperationalError("the database is closed")
            await self._writer.execute_fetchall("VACUUM")
            await self._writer.execute_fetchall(f"PRAGMA busy_timeout={min(BUSY, TRUNCATION)}")
            try:
                ((busy, *_),) = await self._writer.execute_fetchall("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                await self._writer.execute_fetchall(f"PRAGMA busy_timeout={BUSY}")
        if busy:
            raise sqlite3.OperationalError("the WAL is in use")

    def hopeless(self, error: Exception) -> bool:
        """See ``Database``."""
        return isinstance(error, HOPELESS) or not isinstance(error, sqlite3.Error | OSError)

    def unusable(self, error: Exception) -> SetupError | None:
        """See ``Database``."""
        if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
            return _damaged(self.file, str(error))
        return None


@asynccontextmanager
async def _transaction(connection: aiosqlite.Connection | None, begin: str) -> AsyncIterator[_Statements]:
    if connection is None:
        raise sqlite3.OperationalError("the database is closed")
    try:
        await connection.execute(begin)
        yield _Statements(connection)
        await connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # it is undone already, or never began
            await connection.execute("ROLLBACK")
        raise


def _private(file: Path) -> None:
    """Make the file, for its owner alone; SQLite gives its companions the same mode."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with suppress(PermissionError):  # another user's file, which this one may write
            os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)


async def _connect(file: Path) -> aiosqlite.Connection:
    connection = await aiosqlite.connect(file, isolation_level=None)
    try:
        for pragma in (
            f"busy_timeout={BUSY}",
            "foreign_keys=ON",
            "secure_delete=ON",
            "journal_mode=WAL",
            "synchronous=FULL",
        ):
            await connection.execute_fetchall(f"PRAGMA {pragma}")  # a cursor left open would bar VACUUM
    except BaseException:
        await connection.close()
        raise
    return connection


async def _check(connection: aiosqlite.Connection, file: Path) -> None:
    """Mark a new file as ours. Raises: SetupError where it is another program's, or damaged."""
    ((application,),) = await connection.execute_fetchall("PRAGMA application_id")
    ((tables,),) = await connection.execute_fetchall("SELECT count(*) FROM sqlite_master")
    if application != APPLICATION and (application or tables):
        raise SetupError(
            f"{file} is another program's database; name another file in config.toml, [history] store.", usage=True
        )
    if application != APPLICATION:
        await connection.execute_fetchall(f"PRAGMA application_id={APPLICATION}")
    ((pages,),) = await connection.execute_fetchall("PRAGMA page_count")
    if pages <= CHECKED_PAGES:
        ((found,),) = await connection.execute_fetchall("PRAGMA quick_check(1)")
        if found != "ok":
            raise _damaged(file, str(found))


def _damaged(file: Path, why: str) -> SetupError:
    return SetupError(
        f"{file} is no database that can be read ({why}). Restore it from a backup, or move it away to begin anew."
    )
