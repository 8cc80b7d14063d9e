"""Threads beside the event loop: workers that own a model and a queue, and blocking work as a bounded stream."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

from pipelines.cores import Share
from pipelines.events import StageError, shutting_down

Item = TypeVar("Item")
Model = TypeVar("Model")
Work = TypeVar("Work")

JOIN_PATIENCE = 5.0  # seconds that closing waits for the work in progress


def settled_by_thread() -> tuple[asyncio.Future[None], Callable[[BaseException | None], None]]:
    """A future of this loop, and the function by which a thread settles it, with or without an error, once."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def settle_from_thread(error: BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop is closed, and its tasks with it
            loop.call_soon_threadsafe(settle, error)

    return future, settle_from_thread


class Worker(Generic[Model, Work]):
    """Threads that own a model and compute what is queued for it.

    Its user holds the queue and changes it under ``changed``. ``take`` picks from it, under the same lock, what is
    computed next, or None while there is nothing; ``work`` computes that and settles what waits for it; ``abandon``
    ends what is still queued, with an error, once the worker ends, and ``unload`` ends what the model runs beside it;
    it may be called twice, and while something is computed.
    """

    def __init__(
        self,
        name: str,
        load: Callable[[], Model],
        *,
        take: Callable[[], Work | None],
        work: Callable[[Model, Work], None],
        abandon: Callable[[StageError], None],
        unload: Callable[[Model], None] = lambda model: None,
        threads: int = 1,
        share: Share | None = None,
    ) -> None:
        self._name = name
        self._load = load
        self._take = take
        self._work = work
        self._abandon = abandon
        self._unload = unload
        self._count = threads
        self._share = share  # of the cores; the worker says when it computes
        self._threads: list[threading.Thread] = []
        self._loaded: asyncio.Future[None] | None = None
        self.changed = threading.Condition()
        self.closing = False
        self.computing = 0  # threads
        self.model: Model | None = None

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and work is taken."""
        return self.model is not None and not self.closing

    async def start(self) -> None:
        """Load the model on the first thread; several may wait for it. Raises: what loading raises."""
        if self._loaded is None:
            self._loaded, loaded = settled_by_thread()
            self._spawn(lambda: self._run(loaded))
        await asyncio.shield(self._loaded)  # a caller that is cancelled does not cancel it for the others

    async def close(self) -> None:
        """End what is queued, then the threads."""
        with self.changed:
            self._end()
        if self.model is not None:
            await asyncio.to_thread(self._unload, self.model)
        await asyncio.gather(*(asyncio.to_thread(thread.join, JOIN_PATIENCE) for thread in self._threads))

    def _spawn(self, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, name=f"{self._name}-{len(self._threads)}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _run(self, loaded: Callable[[BaseException | None], None]) -> None:
        try:
            model = self._load()
        except BaseException as error:  # raised again where it was asked for
            loaded(error)
            return
        self.model = model
        loaded(None)
        for _ in range(self._count - 1):
            self._spawn(lambda: self._serve(model))
        self._serve(model)
        self._unload(model)  # also where it was loaded too late for ``close``

    def _serve(self, model: Model) -> None:
        try:
            while (work := self._next()) is not None:
                try:
                    self._work(model, work)
                finally:
                    with self.changed:
                        self.computing -= 1
        finally:
            with self.changed:
                self._end()  # also when this thread died: what waits must not wait for ever

    def _next(self) -> Work | None:
        with self.changed:
            while not self.closing:
                work = self._take()
                if work is not None:
                    self.computing += 1
                if self._share is not None:
                    self._share.active = self.computing > 0
                if work is not None:
                    return work
                self.changed.wait()
            return None

    def _end(self) -> None:
        self.closing = True
        self._abandon(shutting_down())
        if self._share is not None:
            self._share.active = False
        self.changed.notify_all()


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


class _Handover(Generic[Item]):
    """What the thread and the event loop share: ``ahead`` permits, and a flag that says stop."""

    def __init__(self, ahead: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.items: asyncio.Queue[Item | _End] = asyncio.Queue()  # bounded by ``permits``
        self.permits = threading.Semaphore(ahead)
        self.stop = threading.Event()

    def put(self, item: Item | _End) -> None:
        # The event loop is gone when a thread that could not be stopped outlives it.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.items.put_nowait, item)

    def run(self, start: Callable[[threading.Event], Iterator[Item]]) -> None:
        error: BaseException | None = None
        try:
            for item in start(self.stop):
                self.permits.acquire()
                if self.stop.is_set():
                    break
                self.put(item)
        except BaseException as raised:  # to be raised again where the stream is read
            error = raised
        self.put(_End(error))


async def in_thread(
    start: Callable[[threading.Event], Iterator[Item]], *, ahead: int = 1, name: str = "worker"
) -> AsyncGenerator[Item]:
    """Run the blocking iterator ``start(stop)`` in a thread of its own and yield what it yields.

    At most ``ahead`` items wait for the reader; then the thread waits. Closing this generator sets ``stop``,
    which the iterator should look at between long steps, and returns when the thread has ended; cancelling the close
    leaves the thread to itself.

    Raises: whatever the iterator raises.
    """
    if ahead < 1:
        raise ValueError(f"in_thread(ahead=…) needs at least 1, not {ahead}")
    handover: _Handover[Item] = _Handover(ahead)
    thread = threading.Thread(target=handover.run, args=(start,), name=name, daemon=True)
    thread.start()
    ended = False
    try:
        while not isinstance(item := await handover.items.get(), _End):
            handover.permits.release()
            yield item
        ended = True
        if item.error is not None:
            raise item.error
    finally:
        handover.stop.set()
        handover.permits.release()
        while not ended:
            ended = isinstance(await handover.items.get(), _End)
