"""The open realtime connections and sessions: how many there may be, and when one must end."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from server.access.caller import Caller
from server.access.peer import visitor
from server.auth import AccessControl
from server.errors import RETRY_AFTER, ApiError
from server.realtime.session import Expired

INTERVAL = 1.0  # seconds between two looks at what must end, while there are sessions

End = Callable[[Expired], None]


class Watch:
    """One watched session; ``cancel`` it when the session ends."""

    __slots__ = ("_end", "_sessions", "caller", "expires_at")

    def __init__(self, sessions: "Sessions", caller: Caller, expires_at: int | None, end: End) -> None:
        self._sessions = sessions
        self._end = end
        self.caller = caller
        self.expires_at = expires_at

    def cancel(self) -> None:
        """End it no more."""
        self._sessions.forget(self)

    def end(self, expired: Expired) -> None:
        """End it, once."""
        self.cancel()
        self._end(expired)


class Sessions:
    """Counts connections, and ends sessions whose key was revoked or whose time is over."""

    def __init__(
        self,
        access: AccessControl,
        *,
        address_connections: Callable[[], int | None],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._access = access
        self._most = address_connections  # of client secrets, from one address; None: no limit
        self._wall = wall
        self._addresses: Counter[str] = Counter()  # no entry is 0
        self._watched: dict[Watch, None] = {}  # bounded by the connections, and the sessions that linger
        self._timer: asyncio.TimerHandle | None = None
        self._generation = -1  # of the keys, when all sessions were last looked at
        self._next = math.inf  # no session ends by its own time before this

    @contextmanager
    def connected(self, caller: Caller) -> Iterator[None]:
        """Count a websocket of a client secret while the block runs. Raises: ApiError 429 where there are too many."""
        if caller.leash is None:
            yield
            return
        secret, name = self._access.secrets.of(caller.leash.secret), visitor(caller.address)
        most = caller.leash.connections
        if secret is not None and most is not None and secret.connections >= most:
            raise _too_many(f"This client secret may have {most} connections at a time.")
        share = self._most()
        if share is not None and self._addresses[name] >= share:
            raise _too_many(f"One address may have {share} connections at a time.")
        self._addresses[name] += 1
        if secret is not None:
            secret.connections += 1
        try:
            yield
        finally:
            self._addresses[name] -= 1
            if not self._addresses[name]:
                del self._addresses[name]
            if secret is not None:
                secret.connections -= 1

    def watch(self, caller: Caller, expires_at: int | None, end: End) -> Watch:
        """Call ``end`` once, within two seconds after the caller's key was revoked or ``expires_at``, a Unix time."""
        watch = Watch(self, caller, expires_at, end)
        self._watched[watch] = None
        key_ends = self._access.keyring.expiry(caller.key_id)
        self._next = min(self._next, expires_at or math.inf, key_ends)
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._look)
        return watch

    def forget(self, watch: Watch) -> None:
        """Watch it no more."""
        self._watched.pop(watch, None)
        if not self._watched and self._timer is not None:
            self._timer.cancel()
            self._timer, self._next = None, math.inf

    def _look(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._look)
        self.check()

    def check(self) -> None:
        """End what must end now."""
        keyring, now = self._access.keyring, self._wall()
        keyring.refresh()
        if keyring.generation == self._generation and now < self._next:
            return  # nothing can have come to its end; there may be 10,000 sessions
        self._generation = keyring.generation
        ids = {watch.caller.key_id for watch in self._watched}
        alive = {id: keyring.alive(id) for id in ids}
        for watch in list(self._watched):
            if not alive[watch.caller.key_id]:
                watch.end(Expired("invalid_api_key", "The key of this session is no longer valid."))
            elif watch.expires_at is not None and now >= watch.expires_at:
                watch.end(Expired())
        ends = [watch.expires_at for watch in self._watched if watch.expires_at is not None]
        self._next = min([*ends, *(keyring.expiry(id) for id in ids if alive[id])], default=math.inf)


def _too_many(text: str) -> ApiError:
    return ApiError(429, "too_many_connections", text, retry_after=RETRY_AFTER)
