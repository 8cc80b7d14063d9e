"""The events of one session: those that wait for its socket, and the last of those that were sent.

A socket that breaks may have swallowed what was written to it, so sent events stay for a client that comes back.
"""

import asyncio
from dataclasses import dataclass

GREETING = 1  # the serial of ``session.created``
TRIMMED = 0.75  # of what may be held, that is left by a trim
OVERHEAD = 256  # bytes that each event counts besides its text


@dataclass(frozen=True, slots=True)
class Entry:
    """An event as it is sent."""

    serial: int  # they are numbered from 1 on, without a gap
    text: str

    @property
    def size(self) -> int:
        """Bytes that it counts."""
        return len(self.text) + OVERHEAD


class EventLog:
    """Holds at most ``waiting`` bytes of events to be sent, as far as ``room`` is awaited before each is added, and at
    most ``replay`` bytes of those that were."""

    __slots__ = (
        "_entries",
        "_sent",
        "_sent_bytes",
        "_stored",
        "_waiters",
        "_waiting_bytes",
        "ended",
        "replay",
        "serial",
        "waiting",
    )

    def __init__(self, waiting: int, replay: int) -> None:
        self.waiting = waiting
        self.replay = replay
        self.serial = 0  # of the last event
        self.ended = False  # nothing is added any more
        self._entries: list[Entry] = []  # a deque would take 600 bytes of an idle session
        self._sent = 0  # of the entries, from the left
        self._sent_bytes = 0
        self._waiting_bytes = 0
        self._stored: dict[int, asyncio.Future[None]] = {}  # by the serial of an event that waits for it
        self._waiters: list[asyncio.Future[None]] = []  # one for each task that makes events

    @property
    def full(self) -> bool:
        """Whether as much waits to be sent as may."""
        return self._waiting_bytes > self.waiting

    async def room(self) -> None:
        """Wait while it is full (backpressure)."""
        while self.full:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters.append(waiter)
            try:
                await waiter
            finally:
                if waiter in self._waiters:
                    self._waiters.remove(waiter)

    def append(self, text: str) -> None:
        """Add the event that has the next serial."""
        self.serial += 1
        entry = Entry(self.serial, text)
        self._entries.append(entry)
        self._waiting_bytes += entry.size

    def hold(self, serial: int, stored: "asyncio.Future[None]") -> None:
        """Do not send this event, nor those behind it, before what it announces is stored."""
        self._stored[serial] = stored

    async def storing(self, entry: Entry) -> None:
        """Wait until what the event announces is stored. Raises: what storing it raised."""
        stored = self._stored.get(entry.serial)
        if stored is not None:
            await asyncio.shield(stored)
            self._stored.pop(entry.serial, None)

    def next(self) -> Entry | None:
        """The first event that is not sent."""
        return self._entries[self._sent] if self._sent < len(self._entries) else None

    def sent(self) -> None:
        """That one was sent."""
        size = self._entries[self._sent].size
        self._sent += 1
        self._sent_bytes += size
        self._waiting_bytes -= size
        if self._sent_bytes > self.replay:
            self._trim()
        elif self._entries[0].serial == GREETING:  # it has the token: a client that comes back has seen it
            self._sent_bytes -= self._entries.pop(0).size
            self._sent -= 1
        if not self.full:
            for waiter in self._waiters:
                if not waiter.done():
                    waiter.set_result(None)
            self._waiters.clear()

    def _trim(self) -> None:
        """Drop the oldest of those that were sent: more than must be, so that it is seldom done."""
        gone = 0
        while gone < self._sent and self._sent_bytes > self.replay * TRIMMED:
            self._sent_bytes -= self._entries[gone].size
            gone += 1
        del self._entries[:gone]
        self._sent -= gone

    @property
    def reached(self) -> int:
        """The serial of the last event that was sent."""
        return self.serial - len(self._entries) + self._sent

    def rewind(self, after: int) -> int:
        """Send again what comes behind the event ``after``, as far as it is here; returns the serial of the last event
        before that, which is more than ``after`` where some are gone."""
        first = self.serial - len(self._entries) + 1
        begin = min(max(after + 1 - first, 0), len(self._entries))
        self._sent = begin
        self._sent_bytes = sum(entry.size for entry in self._entries[:begin])
        self._waiting_bytes = sum(entry.size for entry in self._entries) - self._sent_bytes
        return first + begin - 1

    @property
    def unstored(self) -> bool:
        """Whether something that an event announces could not be stored."""
        return any(stored.done() and stored.exception() is not None for stored in self._stored.values())

    def hold_again(self, stored: "asyncio.Future[None] | None") -> None:
        """What waits to be stored waits for this instead; None: it waits no more."""
        first = min(self._stored, default=0)
        self._stored = {first: stored} if first and stored is not None else {}
