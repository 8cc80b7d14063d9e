"""Client secrets that outlive the process: in memory as before, and behind that in the history's database."""

import asyncio
import json
import logging
import re
import secrets
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial

from server.access.leash import Leash
from server.access.secrets import MOST, MOST_BYTES, PREFIX, MemorySecrets, Secret
from server.config import hash_key
from server.errors import RETRY_AFTER, ApiError
from server.history import secrets as table
from server.history.behind import Behind
from server.history.database import Transaction
from server.history.interface import HistoryError
from server.history.retention import DAY, Retention
from server.history.secrets import StoredSecret
from server.history.store import DatabaseHistory

log = logging.getLogger(__name__)

SHAPE = re.compile(PREFIX + r"[A-Za-z0-9_-]{43}")
LOOKUPS = 4  # at a time
WAITING = 1000  # more wait, beyond which a connection is refused
EVERY = 60.0  # seconds between two deletions of those that have expired
GRACE = 60.0  # seconds for which they stay: clocks of several servers differ


class StoredSecrets(MemorySecrets):
    """Client secrets in memory and in the database of a history.

    A secret is stored before its value is known to anyone. A lookup never waits for the database, except for a value
    that memory does not have: another server may have made that secret.

    A turn counts in memory when it begins and is part of the next commit. A kill loses the turns of that commit, which
    were begun in the milliseconds before; while the database is away, those that were begun since. Servers of one
    database learn of each other's turns with their own commits, so together they may exceed a limit by as many as they
    begin within one.
    """

    def __init__(
        self,
        history: DatabaseHistory,
        *,
        most: int = MOST,
        most_bytes: int = MOST_BYTES,
        wall: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(most=most, most_bytes=most_bytes, wall=wall)
        self._history = history
        self._server = secrets.token_hex(8)
        self._turns = Behind(history.writer, self._write_turns)
        self._age = Retention(GRACE / DAY, wall=wall)
        self._forgetting: asyncio.Task[None] | None = None
        self._lookups = asyncio.Semaphore(LOOKUPS)
        self._seeking = 0

    async def start(self) -> None:
        """Load those that have not expired, as many as memory may hold. Raises: HistoryError."""
        now, after = int(self._wall()), ""
        while found := await self._history.read(partial(table.page, now=now, after=after)):
            after = found[-1].hash
            if not all(map(self._restore, found)):
                break
        if self._by_hash:
            log.info("%d client secrets are valid", len(self._by_hash))
        self._forgetting = asyncio.create_task(self._forget(), name="secrets-forget")

    async def close(self) -> None:
        """Write the turns that are not written yet."""
        if self._forgetting is not None:
            self._forgetting.cancel()
            await asyncio.wait([self._forgetting])
        await self._turns.close()

    async def issue(self, leash: Leash, owner: str, key_id: str) -> str:
        """As ``SecretStore.issue``."""
        value = self.add(leash, owner, key_id)
        secret = self._by_hash[hash_key(value)]
        try:
            await self._history.writer.submit(partial(table.put, secret=_stored(secret)), size=secret.size)
        except BaseException:  # a CancelledError too: its value reaches no one
            if secret.hash in self._by_hash:
                self._drop(secret)
            raise
        return value

    def lacks(self, value: str) -> bool:
        """As ``SecretStore.lacks``."""
        return SHAPE.fullmatch(value) is not None and hash_key(value) not in self._by_hash

    async def seek(self, value: str) -> None:
        """As ``SecretStore.seek``."""
        if self._seeking >= LOOKUPS + WAITING:
            text = "Too many unknown client secrets are being looked up; try again in a moment."
            raise ApiError(503, "server_overloaded", text, retry_after=RETRY_AFTER)
        self._seeking += 1
        try:
            async with self._lookups:
                if not self._history.healthy:  # a connection would wait long for a database that is known to be away
                    raise HistoryError("Client secrets can't be looked up now; try again in a moment.")
                query = partial(table.find, hash=hash_key(value), now=int(self._wall()))
                found = await self._history.read(query)
        finally:
            self._seeking -= 1
        if found is not None and not self._restore(found):
            text = "The server holds as many client secrets as it can; try again in a moment."
            raise ApiError(503, "server_overloaded", text, retry_after=RETRY_AFTER)

    def take_turn(self, leash: Leash) -> None:
        """As ``SecretStore.take_turn``."""
        super().take_turn(leash)
        if leash.turns is not None:
            self._turns.changed(leash.secret)

    def _restore(self, stored: StoredSecret) -> bool:
        """Hold a secret of the database; whether there was room for it."""
        if stored.hash in self._by_hash:
            return True
        try:
            secret = _secret(stored)
        except (ValueError, TypeError, KeyError) as error:
            log.error("a stored client secret can't be read: %s", type(error).__name__)
            return True
        if not self._has_room(secret.size):
            self._expire()
            if not self._has_room(secret.size):
                return False
        self._hold(secret)
        return True

    async def _write_turns(self, transaction: Transaction, ids: Iterable[str]) -> None:
        for id in ids:
            if (secret := self.of(id)) is not None:
                own = secret.turns - secret.elsewhere
                others = await table.count(transaction, secret.hash, self._server, own)
                others = max(others, secret.elsewhere)  # one that has expired and was deleted gets no turn anew
                secret.turns += others - secret.elsewhere
                secret.elsewhere = others

    async def _forget(self) -> None:
        while True:
            limit = self._age.limit()
            if limit is not None:
                with suppress(HistoryError):
                    await self._history.writer.submit(partial(table.forget, before=limit))
            await asyncio.sleep(EVERY)


def _stored(secret: Secret) -> StoredSecret:
    leash = asdict(replace(secret.leash, session=json.loads(secret.settings)))
    leash["locked"] = sorted(secret.leash.locked)
    id, expires_at = leash.pop("secret"), leash.pop("expires_at")
    return StoredSecret(secret.hash, id, secret.owner, secret.key_id, expires_at, json.dumps(leash))


def _secret(stored: StoredSecret) -> Secret:
    """The secret as memory holds it. Raises: ValueError, TypeError, KeyError where it can't be read."""
    fields = json.loads(stored.leash)
    settings = json.dumps(fields.pop("session"), separators=(",", ":")).encode()
    locked = frozenset(fields.pop("locked"))
    # A restriction that is not known here is an error: a secret without it could do more than it may.
    leash = Leash(stored.id, stored.expires_at, locked=locked, **fields)
    return Secret(stored.hash, leash, settings, stored.owner, stored.key_id, turns=stored.turns, elsewhere=stored.turns)
