"""Threads beside the event loop: how they report to it, and blocking work as a bounded asynchronous stream."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")


def told_by_thread() -> tuple[asyncio.Future[None], Callable[[BaseException | None], None]]:
    """A future of this loop, and what a thread calls to settle it, with an error or without; the first call counts."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[None] = loop.create_future()

    def settle(error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def tell(error: BaseException | None) -> None:
        with suppress(RuntimeError):  # the loop is gone, and whoever waited with it
            loop.call_soon_threadsafe(settle, error)

    return future, tell


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


class _Handover(Generic[Item]):
    """What the thread and the event loop share: ``ahead`` places, and a flag that says stop."""

    def __init__(self, ahead: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.items: asyncio.Queue[Item | _End] = asyncio.Queue()  # bounded by ``places``
        self.places = threading.Semaphore(ahead)
        self.stop = threading.Event()

    def put(self, item: Item | _End) -> None:
        # The event loop is gone when a thread that could not be stopped outlives it.
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(self.items.put_nowait, item)

    def run(self, start: Callable[[threading.Event], Iterator[Item]]) -> None:
        error: BaseException | None = None
        try:
            for item in start(self.stop):
                self.places.acquire()
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
            handover.places.release()
            yield item
        ended = True
        if item.error is not None:
            raise item.error
    finally:
        handover.stop.set()
        handover.places.release()
        while not ended:
            ended = isinstance(await handover.items.get(), _End)
