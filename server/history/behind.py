"""Writes what changes in memory behind it: many changes of an entry are one statement of the next commit."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from server.history.database import Transaction
from server.history.writer import Writer

RETRY = 5.0  # seconds until entries are submitted again that could not be written

Write = Callable[[Transaction, Iterable[str]], Awaitable[None]]


class Behind:
    """Writes entries by their names, as they are when the commit is made.

    With ``delay`` 0 a change is queued at once: whatever is submitted to the writer after it is committed with it or
    after it. A process that is killed loses the changes of the last commit, or of the last ``delay`` seconds.

    ``write`` may run several times for one change, so it sets values and adds none.
    """

    def __init__(self, writer: Writer, write: Write, *, delay: float = 0.0) -> None:
        self._writer = writer
        self._write = write
        self._delay = delay
        self._open: set[str] | None = None  # names of the job that is to come, or has not begun; bounded by the entries
        self._timer: asyncio.TimerHandle | None = None
        self._jobs: set[asyncio.Future[None]] = set()  # one is being committed, one waits
        self._closing = False

    def changed(self, name: str) -> None:
        """Write this entry."""
        self._add({name}, self._delay)

    async def close(self) -> None:
        """Write what is not written yet, within the writer's patience; the writer still runs."""
        self._closing = True
        if self._timer is not None:
            self._submit()
        if self._jobs:
            await asyncio.wait(self._jobs)

    def _add(self, names: set[str], delay: float) -> None:
        if self._open is not None:
            self._open |= names
            return
        self._open = set(names)
        if delay and not self._closing:
            self._timer = asyncio.get_running_loop().call_later(delay, self._submit)
        else:
            self._submit()

    def _submit(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        names = self._open or set()
        job = self._writer.submit(partial(self._apply, names=names))
        self._jobs.add(job)
        job.add_done_callback(partial(self._ended, names))

    async def _apply(self, transaction: Transaction, *, names: set[str]) -> None:
        self._forget(names)
        await self._write(transaction, sorted(names))  # in one order, so that no two servers lock each other out

    def _ended(self, names: set[str], job: "asyncio.Future[None]") -> None:
        self._jobs.discard(job)
        self._forget(names)
        if not self._closing and job.exception() is not None:
            self._add(names, RETRY)

    def _forget(self, names: set[str]) -> None:
        """What changes from now on belongs to the next job."""
        if self._open is names:
            self._open = None
