"""The realtime sessions of one server: those with a socket, and those whose client may come back."""

import asyncio
import hmac
from collections.abc import Iterable
from typing import Generic, Protocol, TypeVar

from pipelines.capacity import site_of
from server.realtime import session
from server.realtime.log import EventLog


class Lingering(Protocol):
    """A session in progress."""

    log: EventLog

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def owner(self) -> str:
        """Whose it is."""

    @property
    def token(self) -> str:
        """What lets its client come back to it."""

    def feed(self, given: session.Input) -> None:
        """Apply one input."""

    def deleted(self) -> None:
        """Its stored conversation was deleted: end."""

    def taken_over(self) -> None:
        """Another server has it: end here."""

    async def close(self) -> None:
        """End what is in progress."""


Live = TypeVar("Live", bound=Lingering)


class LiveSessions(Generic[Live]):
    """Every session in progress. One that loses its socket lingers for ``linger`` seconds; at most ``most`` do, and
    then those that have lingered longest end."""

    def __init__(self, linger: float, most: int) -> None:
        self.turns = 0  # in progress
        self._linger = linger
        self._most = most
        self._live: dict[str, Live] = {}
        self._lingering: dict[str, asyncio.TimerHandle] = {}  # the longest first
        self._closing: set[asyncio.Task[None]] = set()  # bounded by the sessions
        self._empty = asyncio.Event()
        self._empty.set()

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, id: str) -> bool:
        return id in self._live

    @property
    def lingering(self) -> int:
        """Sessions without a socket."""
        return len(self._lingering)

    def begin(self, live: Live, first: session.Input) -> None:
        """A session begins, or goes on after a restart, with this input."""
        self._live[live.id] = live
        self._empty.clear()
        live.feed(first)

    def find(self, token: str, owner: str) -> Live | None:
        """The session that the token opens, if it is still here.

        Its client may have a new client secret since: the token and the same key behind it suffice.
        """
        live = self._live.get(session_id(token))
        if live is None or live.log.ended or site_of(live.owner) != site_of(owner):
            return None
        return live if hmac.compare_digest(live.token.encode(), token.encode()) else None

    def returned(self, live: Live) -> None:
        """The session has a socket again."""
        timer = self._lingering.pop(live.id, None)
        if timer is not None:
            timer.cancel()

    def deleted(self, owner: str, conversations: Iterable[str]) -> None:
        """End the sessions of conversations that were deleted."""
        for id in conversations:
            live = self._live.get(id.removeprefix("conv_"))
            if live is not None and live.owner == owner:
                live.deleted()

    def taken_over(self, owner: str, conversations: Iterable[str]) -> None:
        """End the sessions of these conversations: another server has them."""
        for id in conversations:
            live = self._live.get(id.removeprefix("conv_"))
            if live is not None and live.owner == owner:
                live.taken_over()

    def ended(self, live: Live) -> None:
        """The session has ended, and has no socket."""
        self._retire(live)

    def left(self, live: Live, *, final: bool) -> None:
        """The session's socket is gone; ``final`` where its client does not come back."""
        if final or self._linger == 0 or live.log.ended:
            self._retire(live)
            return
        timer = asyncio.get_running_loop().call_later(self._linger, self._retire, live)
        self._lingering[live.id] = timer
        while len(self._lingering) > self._most:
            self._retire(self._live[next(iter(self._lingering))])

    def drain(self) -> None:
        """Let each session finish what is in progress, start nothing new, and then close (1001)."""
        for live in list(self._live.values()):
            live.feed(session.Draining())

    async def settled(self) -> None:
        """Wait until every session has ended."""
        await self._empty.wait()

    async def close(self) -> None:
        """End every session at once."""
        for live in list(self._live.values()):
            self._retire(live)
        if self._closing:
            await asyncio.wait(self._closing)

    def _retire(self, live: Live) -> None:
        self.returned(live)
        if self._live.get(live.id) is not live:
            return
        closing = asyncio.create_task(self._close(live), name="realtime-close")
        self._closing.add(closing)
        closing.add_done_callback(self._closing.discard)

    async def _close(self, live: Live) -> None:
        del self._live[live.id]
        await live.close()
        if not self._live:
            self._empty.set()


def session_id(token: str) -> str:
    """The id of the session that a token is for."""
    return token.partition(".")[0].removeprefix("sess_")
