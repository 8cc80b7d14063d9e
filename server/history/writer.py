"""The one task that writes: what waits is committed together, in its order."""

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from server.history.database import Database, Transaction
from server.history.interface import REFUSED, HistoryError
from server.history.metrics import HistoryMetrics
from server.pauses import Pauses

log = logging.getLogger(__name__)

Apply = Callable[[Transaction], Awaitable[Any]]
Key = tuple[str, str]

BATCH = 512  # jobs of one commit
OVERHEAD = 256  # bytes that a job counts for besides its text
HARD = 2  # times the queue's bytes, beyond which a job is refused at once
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0  # seconds between two attempts
SCRUB_PAUSE = 5.0  # seconds until deleted bytes are overwritten, where that failed
SCRUB_QUICK = 0.25  # seconds; where it takes longer, the file is large:
SCRUB_SHARE = 20  # times as long as it took, the file is left alone after it


@dataclass(frozen=True, slots=True)
class Job:
    """A change that waits. What ``apply`` returns is its result; a HistoryError it returns is raised."""

    apply: Apply
    key: Key  # owner and conversation, for those who wait for its changes
    size: int  # bytes
    deadline: float
    scrubs: float | None  # seconds within which what it deletes has to go from the files, too
    done: "asyncio.Future[Any]"


class Writer:
    """Commits jobs in groups; while the database can't be used it tries again, and fails what has waited too long."""

    def __init__(
        self,
        database: Database,
        *,
        patience: float,
        queue_bytes: int,
        metrics: HistoryMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.healthy = True
        self._database = database
        self._patience = patience
        self._queue_bytes = queue_bytes
        self._metrics = metrics
        self._clock = clock
        self._queue: deque[Job] = deque()
        self._batch: list[Job] = []  # that is being committed
        self._held = 0  # bytes of both
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closing = False
        self._scrub_at: float | None = None  # None: no deleted bytes are in the files
        self._scrubbed_until = clock()  # until then a large file is left alone
        self._clean = asyncio.Event()
        self._clean.set()

    @property
    def held(self) -> int:
        """Bytes that wait to be written."""
        return self._held

    async def scrubbed(self) -> None:
        """Wait until no deleted bytes are in the database's files."""
        await self._clean.wait()

    def submit(
        self, apply: Apply, *, key: Key = ("", ""), size: int = 0, scrubs: float | None = None
    ) -> "asyncio.Future[Any]":
        """Queue a job; its future is done once it is committed. Raises through it: HistoryError."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_look)
        size += OVERHEAD
        full = self._held > 0 and self._held + size > HARD * self._queue_bytes
        if self._closing or full:
            done.set_exception(self._failure("The history is being closed." if self._closing else _FULL))
            return done
        self._queue.append(Job(apply, key, size, self._clock() + self._patience, scrubs, done))
        self._hold(size)
        self._work.set()
        return done

    async def room(self) -> None:
        """Wait while more than ``queue_bytes`` wait."""
        await self._room.wait()

    async def settled(self, key: Key) -> None:
        """Wait until the jobs that are queued for a conversation have ended, well or not."""
        last = next((job for job in (*reversed(self._queue), *reversed(self._batch)) if job.key == key), None)
        if last is not None:
            await asyncio.wait([last.done])

    async def run(self) -> None:
        """Write until ``close``."""
        while not (self._closing and not self._queue):
            await self._wait()
            if self._queue:
                self._batch = [self._queue.popleft() for _ in range(min(BATCH, len(self._queue)))]
                await self._commit(self._batch)
                self._batch = []
            elif not self.healthy:
                await self._probe()
            await self._scrub_if_due()
            if not self._queue and not self._closing:
                self._work.clear()

    def close(self) -> None:
        """Let ``run`` end once what waits is written, or has waited too long."""
        self._closing = True
        self._work.set()

    async def _wait(self) -> None:
        """Wait for work, or for the time of what has to be tried again."""
        seconds = None if self.healthy else LONGEST_PAUSE
        if self._scrub_at is not None:
            seconds = min(seconds or SCRUB_PAUSE, max(0.0, self._scrub_at - self._clock()))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._work.wait(), seconds)

    async def _commit(self, jobs: list[Job]) -> None:
        pauses = Pauses(FIRST_PAUSE, LONGEST_PAUSE)
        while jobs:
            try:
                results = await self._attempt(jobs)
            except Exception as error:
                if self._database.hopeless(error):
                    await self._one_by_one(jobs, error)
                    return
                self._unusable(error)
                jobs = self._without_expired(jobs)
            else:
                self._settle(jobs, results)
                return
            await asyncio.sleep(pauses.take())

    async def _attempt(self, jobs: Iterable[Job]) -> list[Any]:
        begun = self._clock()
        async with self._database.writing() as transaction:
            results = [await job.apply(transaction) for job in jobs]
        if not self.healthy:
            log.info("the history is written again")
        self.healthy = True
        self._metrics.commits.inc()
        self._metrics.seconds.observe(self._clock() - begun)
        await self._scrub_within([job.scrubs for job in jobs if job.scrubs is not None])
        return results

    async def _one_by_one(self, jobs: list[Job], error: Exception) -> None:
        """Find the job that can never succeed, so that it does not hold up the others."""
        if len(jobs) > 1:
            for job in jobs:
                await self._commit([job])
            return
        # Without what the error says, which may repeat what was to be stored.
        log.error("a change of the history can't be stored: %s", type(error).__name__)
        self._end(jobs[0], error=HistoryError("The history can't store this; the server's log says why.", REFUSED))

    async def _probe(self) -> None:
        """See whether the database can be written again while nothing waits."""
        try:
            async with self._database.writing() as transaction:
                await transaction.execute("UPDATE loquent_schema SET version = version")
        except Exception as error:
            self._unusable(error)
            return
        self.healthy = True
        log.info("the history can be written again")

    async def _scrub_within(self, delays: list[float]) -> None:
        if not delays:
            return
        at = max(self._scrubbed_until, self._clock() + min(delays))
        self._scrub_at = at if self._scrub_at is None else min(at, self._scrub_at)
        self._clean.clear()
        await self._scrub_if_due()

    async def _scrub_if_due(self) -> None:
        begun = self._clock()
        if self._scrub_at is None or (begun < self._scrub_at and not self._closing):
            return
        try:
            await self._database.scrub()
        except Exception as error:
            log.info("deleted bytes are still in the history's files: %s", brief(error))
            self._scrub_at = self._clock() + max(SCRUB_PAUSE, SCRUB_SHARE * (self._clock() - begun))
        else:
            self._scrub_at = None
            self._clean.set()
            took = self._clock() - begun
            self._scrubbed_until = self._clock() + (SCRUB_SHARE * took if took > SCRUB_QUICK else 0)

    def _without_expired(self, jobs: list[Job]) -> list[Job]:
        """The jobs that have not waited too long; the others fail, and those of the queue too."""
        now = self._clock()
        while self._queue and self._queue[0].deadline <= now:
            self._expire(self._queue.popleft())
        for job in jobs:
            if job.deadline <= now:
                self._expire(job)
        return [job for job in jobs if job.deadline > now]

    def _expire(self, job: Job) -> None:
        self._end(job, error=self._failure(f"The history could not be written for {self._patience:.0f} s."))

    def _unusable(self, error: Exception) -> None:
        if self.healthy:
            log.warning("%s can't be written: %s: %s", self._database.where, type(error).__name__, brief(error))
        self.healthy = False
        self._metrics.failures.inc()

    def _failure(self, why: str) -> HistoryError:
        return HistoryError(f"{why} The server's log says more; try again in a moment.")

    def _settle(self, jobs: Iterable[Job], results: Iterable[Any]) -> None:
        for job, result in zip(jobs, results, strict=True):
            failed = result if isinstance(result, HistoryError) else None
            self._end(job, result, error=failed)

    def _end(self, job: Job, result: Any = None, *, error: HistoryError | None = None) -> None:
        self._hold(-job.size)
        if job.done.done():  # its caller has gone
            return
        if error is None:
            job.done.set_result(result)
        else:
            job.done.set_exception(error)

    def _hold(self, change: int) -> None:
        self._held += change
        self._metrics.queued.set(self._held)
        if self._held > self._queue_bytes:
            self._room.clear()
        else:
            self._room.set()


_FULL = "The history's queue is full."


def brief(error: Exception) -> str:
    """The first line of what an error says; PostgreSQL's further ones may repeat what was to be stored."""
    return next(iter(str(error).splitlines()), "")


def _look(done: "asyncio.Future[Any]") -> None:
    """Look at the outcome, so that asyncio does not log one that was not awaited."""
    if not done.cancelled():
        done.exception()
