"""The engine's boundary: messages go in, events come back into a mailbox.

Whatever takes the engine's place, a process or a remote service, needs to understand these only.
"""

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.chat.model.interface import Constraint
from pipelines.chat.pace import Pace, Paced
from pipelines.events import Event, Finished, Sampling, StageError, TextDelta

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Generate:
    """Answer this prompt. Its events arrive in ``mailbox``."""

    id: str
    prompt: tuple[int, ...]
    sampling: Sampling  # with ``max_tokens`` set
    mailbox: "Mailbox"
    tenant: str = ""  # whose text this is; nobody else's prompts profit from it
    constraint: Constraint | None = None  # of this request alone; the engine's thread moves it on


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop the request with this id, if it is still there."""

    id: str


@dataclass(frozen=True, slots=True)
class Forget:
    """Drop what the prefix cache holds of these tenants."""

    tenants: frozenset[str]


@dataclass(frozen=True, slots=True)
class Close:
    """End every request and then the thread."""


class Post:
    """Calls readers, each with a system call; in a ``with`` block all of them with one, at its end.

    The block is for one thread, the engine's.
    """

    def __init__(self) -> None:
        self._holder: int | None = None
        self.pace = Pace()  # of readers for whom texts are gathered
        self._held: dict[asyncio.AbstractEventLoop, list[Callable[[], None]]] = {}

    def __enter__(self) -> None:
        self._holder = threading.get_ident()

    def __exit__(self, *_: object) -> None:
        self._holder = None
        held, self._held = self._held, {}
        for loop, wakes in held.items():
            self._call(loop, wakes)

    def wake(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        """Call ``wake`` on its loop, from any thread."""
        if self._holder == threading.get_ident():
            self._held.setdefault(loop, []).append(wake)
        else:
            self._call(loop, [wake])

    @staticmethod
    def _call(loop: asyncio.AbstractEventLoop, wakes: list[Callable[[], None]]) -> None:
        def wake_all() -> None:
            for wake in wakes:
                wake()

        try:
            loop.call_soon_threadsafe(wake_all)
        except RuntimeError:  # the readers' event loop is gone, and the readers with it
            log.debug("events for a closed event loop were dropped")


class Mailbox:
    """One request's way back. Text merges while its reader lags, so it holds a few events at the most."""

    def __init__(self, post: Post, gather: float = 0.0) -> None:
        self._post = post
        self._paced = Paced(post.pace)
        self._gather = gather  # seconds, for texts behind the first one
        self._reads_text = False  # what was read last is text
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._events: deque[Event | StageError] = deque()  # bounded: Started, one TextDelta, the end
        self._wake = asyncio.Event()

    def put(self, event: Event | StageError) -> None:
        """Deliver an event, from any thread; never waits."""
        with self._lock:
            last = self._events[-1] if self._events else None
            if isinstance(event, TextDelta) and isinstance(last, TextDelta):
                self._events[-1] = last + event
                return
            self._events.append(event)
        self._post.wake(self._loop, self._end if isinstance(event, Finished | StageError) else self._wake.set)

    def _end(self) -> None:
        self._wake.set()
        self._paced.end()

    async def get(self) -> Event:
        """The next event; raises the ``StageError`` that ended the request."""
        if self._gather and self._reads_text:
            await self._paced.wait(self._gather)
        while True:
            with self._lock:
                if self._events:
                    event = self._events.popleft()
                    break
                self._wake.clear()
            await self._wake.wait()
        if isinstance(event, StageError):  # one may end many requests: each raises its own
            raise StageError(event.kind, event.code, event.message, param=event.param)
        self._reads_text = isinstance(event, TextDelta)
        return event
