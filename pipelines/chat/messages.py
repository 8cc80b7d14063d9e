"""The engine's boundary: messages go in, events come back into a mailbox.

Whatever takes the engine's place, a process or a remote service, needs to understand these only.
"""

import asyncio
import logging
import threading
from collections import deque
from dataclasses import dataclass

from pipelines.events import Event, Sampling, StageError, TextDelta

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Generate:
    """Answer this prompt. Its events arrive in ``mailbox``."""

    id: str
    prompt: tuple[int, ...]
    sampling: Sampling  # with ``max_tokens`` set
    mailbox: "Mailbox"
    tenant: str = ""  # whose text this is; nobody else's prompts profit from it


@dataclass(frozen=True, slots=True)
class Cancel:
    """Stop the request with this id, if it is still there."""

    id: str


@dataclass(frozen=True, slots=True)
class Close:
    """End every request and then the thread."""


class Mailbox:
    """One request's way back. Text merges while its reader lags, so it holds a few events at the most."""

    def __init__(self) -> None:
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
        try:
            self._loop.call_soon_threadsafe(self._wake.set)
        except RuntimeError:  # the reader's event loop is gone, and the reader with it
            log.debug("an event for a closed event loop was dropped")

    async def get(self) -> Event:
        """The next event; raises the ``StageError`` that ended the request."""
        while True:
            with self._lock:
                if self._events:
                    event = self._events.popleft()
                    break
                self._wake.clear()
            await self._wake.wait()
        if isinstance(event, StageError):  # one may end many requests: each raises its own
            raise StageError(event.kind, event.code, event.message, param=event.param)
        return event
