"""A database, as the history needs it: transactions, and which of its errors may pass."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

Row = Sequence[Any]


class SetupError(Exception):
    """The database can't be used as it is; the message says what to do. ``usage``: the setting is wrong."""

    def __init__(self, message: str, *, usage: bool = False) -> None:
        super().__init__(message)
        self.usage = usage


class Transaction(Protocol):
    """Statements that take effect together. Parameters are ``$1``, ``$2``, …"""

    async def execute(self, sql: str, *values: Any) -> int:
        """Run a statement; how many rows it changed."""

    async def fetch(self, sql: str, *values: Any) -> Sequence[Row]:
        """The rows of a query."""


class Database(Protocol):
    """Connections to one database: one writer, and readers that it does not hold up."""

    serial: str  # the type of a column that counts upwards
    where: str  # for people, without a password

    async def open(self) -> None:
        """Connect. Raises: SetupError, or an error that may pass."""

    async def close(self) -> None:
        """Disconnect; a database that is not open stays so."""

    def writing(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction of the writer, committed at the end of the block and undone by an exception."""

    def reading(self) -> AbstractAsyncContextManager[Transaction]:
        """A transaction that sees one state of the database."""

    async def lock_schema(self, transaction: Transaction) -> None:
        """Let no other server change the tables until the transaction ends."""

    async def scrub(self) -> None:
        """Overwrite what deleted rows have left in the files, where the database is a file of ours."""

    def hopeless(self, error: Exception) -> bool:
        """Whether what raised this would fail again, and only what raised it."""

    def unusable(self, error: Exception) -> SetupError | None:
        """What to say of an error of ``open`` that waiting does not mend."""
