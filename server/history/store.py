"""``History`` over a database: one task writes, one looks at what others delete, one deletes what is old."""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Protocol, TypeVar

from server.history import changes as sql
from server.history import deleting, reading
from server.history.changes import Recorded, unescape
from server.history.database import Database, Row, SetupError, Transaction
from server.history.deleting import Deleted, Deletions
from server.history.interface import (
    TAKEN,
    Change,
    ConversationHead,
    DropEmpty,
    DropItem,
    HistoryError,
    OnDeleted,
    StoredConversation,
)
from server.history.metrics import HistoryMetrics
from server.history.retention import Retention
from server.history.schema import migrate
from server.history.writer import FIRST_PAUSE, LONGEST_PAUSE, Writer, brief
from server.pauses import Pauses

log = logging.getLogger(__name__)

LOOK = 2.0  # seconds between two looks at what other processes have deleted
DROPPED = 600.0  # seconds within which the bytes of an item that a session dropped are overwritten
_UNREADABLE = "The history can't be read. The server's log says more; try again in a moment."
PAGE = 50  # conversations that an export reads at a time

Result = TypeVar("Result")


class Companion(Protocol):
    """What else is stored in the history's database."""

    async def start(self) -> None:
        """Load what is there; the database is open. Raises: HistoryError."""

    async def close(self) -> None:
        """Write what is not written yet."""


Accompanying = TypeVar("Accompanying", bound=Companion)


class DatabaseHistory:
    """See ``History``."""

    def __init__(
        self,
        database: Database,
        *,
        days: float = 0.0,
        patience: float = 30.0,
        queue_bytes: int = 16 * 1024 * 1024,
        look: float = LOOK,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.on_deleted: OnDeleted = _ignore
        self.on_taken: OnDeleted = _ignore
        self._holder = secrets.token_hex(8)  # this process, as others see whose a session is
        self._companions: list[Companion] = []
        self.metrics = HistoryMetrics()
        self._database = database
        self._patience = patience
        self._look = look
        self._wall = wall
        self._retention = Retention(days, wall=wall)
        self.writer = Writer(database, patience=patience, queue_bytes=queue_bytes, metrics=self.metrics)
        self._deletions = Deletions()
        self._readable = True
        self._writing: asyncio.Task[None] | None = None
        self._watching: tuple[asyncio.Task[None], ...] = ()

    def accompany(self, companion: Accompanying) -> Accompanying:
        """Start and close this with the history."""
        self._companions.append(companion)
        return companion

    @property
    def where(self) -> str:
        """The database, for people."""
        return self._database.where

    @property
    def healthy(self) -> bool:
        """See ``History``."""
        return self._readable and self.writer.healthy

    async def start(self) -> None:
        """See ``History``. Raises also: SetupError, where waiting does not help."""
        try:
            await self._open()
            await self._deletions.start(self._database)
        except BaseException:
            await self._database.close()
            raise
        self._writing = asyncio.create_task(self.writer.run(), name="history-writer")
        self._watching = (
            asyncio.create_task(self._watch(), name="history-deletions"),
            asyncio.create_task(self._retention.run(self._expire), name="history-retention"),
        )
        try:
            for each in self._companions:
                await each.start()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """See ``History``."""
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        if self._writing is not None:  # else nothing would write what they submit
            await asyncio.gather(*(each.close() for each in self._companions))
        self.writer.close()
        if self._writing is not None:
            await self._writing
        await self._database.close()

    def record(self, owner: str, conversation: str, *changes: Change, held: bool = False) -> "asyncio.Future[None]":
        """See ``History``."""
        recorded = Recorded(owner, conversation, changes, self.now(), self._holder if held else "")
        scrubs = DROPPED if any(isinstance(change, DropItem | DropEmpty) for change in changes) else None
        done = self.writer.submit(recorded.apply, key=(owner, conversation), size=recorded.size, scrubs=scrubs)
        if held:
            done.add_done_callback(partial(self._look_whose, owner, conversation))
        return done

    def _look_whose(self, owner: str, conversation: str, done: "asyncio.Future[None]") -> None:
        if not done.cancelled() and isinstance(error := done.exception(), HistoryError) and error.code == TAKEN:
            self.on_taken(owner, (conversation,))

    async def claim(self, owner: str, id: str) -> bool:
        """See ``History``."""
        there: bool = await self.writer.submit(
            lambda transaction: sql.claim(transaction, owner, id, self._holder), key=(owner, id)
        )
        return there

    async def room(self) -> None:
        """See ``History``."""
        await self.writer.room()

    async def load(self, owner: str, id: str) -> StoredConversation | None:
        """See ``History``."""
        await self.writer.settled((owner, id))
        return await self.read(lambda transaction: reading.conversation(transaction, owner, id))

    async def list(
        self, owner: str, *, after: str = "", limit: int = 20, newest_first: bool = True
    ) -> tuple[tuple[ConversationHead, ...], bool]:
        """See ``History``."""
        return await self.read(
            lambda transaction: reading.heads(transaction, owner, after=after, limit=limit, newest_first=newest_first)
        )

    async def delete(self, owner: str, id: str) -> bool:
        """See ``History``."""
        deleted: bool = await self.writer.submit(
            lambda transaction: deleting.delete_conversation(transaction, owner, id, self.now()),
            key=(owner, id),
            scrubs=0,
        )
        if deleted:
            self.on_deleted(owner, (id,))
        return deleted

    async def delete_item(self, owner: str, conversation: str, id: str) -> bool:
        """See ``History``."""
        deleted: bool = await self.writer.submit(
            lambda transaction: deleting.delete_item(transaction, owner, conversation, id),
            key=(owner, conversation),
            scrubs=0,
        )
        return deleted

    async def purge(
        self, owner: str | None = None, *, conversation: str | None = None, before: int | None = None
    ) -> Deleted:
        """Delete conversations and stored responses: as ``export`` selects them. Raises: HistoryError."""
        which = reading.selection(owner, conversation, before)
        deleted = await deleting.purge(self.writer, which, self.now())
        for whose, ids in deleting.by_owner(deleted.conversations).items():
            self.on_deleted(whose, ids)
        return deleted

    async def export(
        self, owner: str | None = None, *, conversation: str | None = None, before: int | None = None
    ) -> AsyncIterator[StoredConversation]:
        """See ``History``."""
        async for row in self.rows(reading.SELECTED, reading.selection(owner, conversation, before)):
            loaded = await self.load(unescape(row[0]), unescape(row[1]))
            if loaded is not None:
                yield loaded

    async def rows(self, what: str, which: reading.Selection) -> AsyncIterator[Row]:
        """The rows that a query of ``reading`` selects, page by page: no reader holds up the writer for long."""
        after: Row = ("", "", -reading.EVERY)
        more = True
        while more:
            query = partial(reading.selected, what=what, which=which, after=after, limit=PAGE)
            found = await self.read(query)
            for row in found:
                yield row
            more = len(found) == PAGE
            after = found[-1] if found else after

    async def read(self, query: Callable[[Transaction], Awaitable[Result]]) -> Result:
        """Run a query over one state of the database. Raises: HistoryError."""
        for attempt in (1, 2):  # the first one may find a connection that has died
            try:
                async with self._database.reading() as transaction:
                    result = await query(transaction)
            except HistoryError:
                raise
            except Exception as error:
                if attempt == 2:
                    self._unreadable(error)
                    raise HistoryError(_UNREADABLE) from error
            else:
                self._readable = True
                return result
        raise AssertionError("unreachable")

    def now(self) -> int:
        """Microseconds since 1970."""
        return int(self._wall() * 1_000_000)

    async def _open(self) -> None:
        """Raises: SetupError, HistoryError where the database can't be reached within the patience."""
        until = time.monotonic() + self._patience
        pauses = Pauses(FIRST_PAUSE, LONGEST_PAUSE)
        while True:
            try:
                await self._database.open()
                await migrate(self._database)
            except SetupError:
                raise
            except Exception as error:
                await self._database.close()
                if unusable := self._database.unusable(error):
                    raise unusable from None
                if time.monotonic() + pauses.next > until:
                    text = f"The history's database {self.where} can't be used: {brief(error) or type(error).__name__}."
                    raise HistoryError(text) from None
                if pauses.next == FIRST_PAUSE:
                    log.warning("waiting for the history's database %s: %s", self.where, brief(error))
            else:
                return
            await asyncio.sleep(pauses.take())

    async def _watch(self) -> None:
        """Report what other processes delete; this also shows whether the database can be read."""
        while True:
            await asyncio.sleep(self._look)
            try:
                deleted = await self._deletions.look(self._database)
            except Exception as error:
                self._unreadable(error)
                continue
            self._readable = True
            for owner, ids in deleted.items():
                self.on_deleted(owner, ids)

    def _unreadable(self, error: Exception) -> None:
        if self._readable:
            log.warning("%s can't be read: %s: %s", self.where, type(error).__name__, brief(error))
        self._readable = False

    async def _expire(self, limit: int) -> None:
        deleted = await self.purge(before=limit)
        with suppress(HistoryError):
            await self.writer.submit(lambda transaction: deleting.forget(transaction, self.now()))
        if deleted.conversations or deleted.responses:
            log.info(
                "%d conversations and %d responses were deleted for their age",
                len(deleted.conversations),
                deleted.responses,
            )


def _ignore(owner: str, ids: tuple[str, ...]) -> None:
    """There is nothing in memory."""
