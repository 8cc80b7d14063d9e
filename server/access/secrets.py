"""Client secrets: short-lived credentials for browsers, made with a key and bound to it."""

import json
import secrets
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from pipelines.events import StageError
from server.access.leash import Leash
from server.config import hash_key
from server.errors import ApiError

PREFIX = "ek_"
RANDOM_BYTES = 32
ID_BYTES = 8
MOST = 50_000  # of all keys together
MOST_BYTES = 64 * 1024 * 1024  # of their sessions' settings
SHARE = 4  # one key has at most a fourth of both
OVERHEAD = 1024  # bytes that a secret counts for besides its settings


@dataclass(slots=True)
class Secret:
    """A client secret, known by its hash."""

    hash: str
    leash: Leash  # whose session is in ``settings`` instead, as text
    settings: bytes
    owner: str  # of the key that made it
    key_id: str
    turns: int = 0  # used
    elsewhere: int = 0  # of them, those that other servers have counted, or this one before it was started again
    connections: int = 0  # open

    @property
    def size(self) -> int:
        """Bytes that it counts for."""
        return len(self.settings) + OVERHEAD


class SecretStore(Protocol):
    """What the server needs of a store of client secrets; the one here holds them in memory, until a restart."""

    async def issue(self, leash: Leash, owner: str, key_id: str) -> str:
        """A new client secret on this leash, whose id is chosen here, and which is stored by then.

        Raises: ApiError 429 where there is no room, HistoryError where it can't be stored.
        """

    def lacks(self, value: str) -> bool:
        """Whether ``seek`` may find a client secret with this value that ``find`` does not."""

    async def seek(self, value: str) -> None:
        """Look for a client secret of another server, which ``find`` has then. Raises: ApiError 503, HistoryError."""

    def find(self, value: str) -> Secret | None:
        """The client secret with this value, unless it has expired."""

    def of(self, id: str) -> Secret | None:
        """The client secret with this id, also when it has expired, while a connection or a session uses it."""

    def take_turn(self, leash: Leash) -> None:
        """Count a response. Raises: StageError ``turn_limit_reached`` where the leash allows no more."""

    def turns_left(self, leash: Leash | None) -> int | None:
        """Responses that the leash still allows; None for any number."""


@dataclass(slots=True)
class _Held:
    count: Counter[str] = field(default_factory=Counter)  # by key
    bytes: Counter[str] = field(default_factory=Counter)

    def change(self, secret: Secret, by: int) -> None:
        self.count[secret.key_id] += by
        self.bytes[secret.key_id] += by * secret.size
        if not self.count[secret.key_id]:
            del self.count[secret.key_id], self.bytes[secret.key_id]


class MemorySecrets:
    """Client secrets in memory, within bounds; those that have expired make room for new ones."""

    def __init__(
        self, *, most: int = MOST, most_bytes: int = MOST_BYTES, wall: Callable[[], float] = time.time
    ) -> None:
        self._most, self._most_bytes, self._wall = most, most_bytes, wall
        self._by_hash: dict[str, Secret] = {}
        self._by_id: dict[str, Secret] = {}
        self._held = _Held()

    def __len__(self) -> int:
        return len(self._by_hash)

    def add(self, leash: Leash, owner: str, key_id: str) -> str:
        """A new client secret, in memory. Raises: ApiError 429 where there is no room."""
        settings = json.dumps(leash.session, separators=(",", ":")).encode()
        if not self._fits(key_id, len(settings) + OVERHEAD):
            self._expire()
            if not self._fits(key_id, len(settings) + OVERHEAD):
                text = "There are too many client secrets that have not expired; make fewer, or for a shorter time."
                raise ApiError(429, "too_many_client_secrets", text, retry_after=10)
        value = PREFIX + secrets.token_urlsafe(RANDOM_BYTES)
        leash = replace(leash, secret=secrets.token_hex(ID_BYTES), session={})
        self._hold(Secret(hash_key(value), leash, settings, owner, key_id))
        return value

    async def issue(self, leash: Leash, owner: str, key_id: str) -> str:
        """As ``SecretStore.issue``: memory is all the store that there is."""
        return self.add(leash, owner, key_id)

    def lacks(self, value: str) -> bool:
        """As ``SecretStore.lacks``: there is nowhere to look."""
        return False

    async def seek(self, value: str) -> None:
        """As ``SecretStore.seek``: there is nowhere to look."""

    def _hold(self, secret: Secret) -> None:
        self._by_hash[secret.hash] = self._by_id[secret.leash.secret] = secret
        self._held.change(secret, 1)

    def _has_room(self, size: int) -> bool:
        return len(self._by_hash) < self._most and self._held.bytes.total() + size <= self._most_bytes

    def _fits(self, key_id: str, size: int) -> bool:
        count, held = self._held.count, self._held.bytes
        share = SHARE if key_id else 1
        return (
            self._has_room(size)
            and count[key_id] < max(self._most // share, 1)
            and held[key_id] + size <= self._most_bytes // share
        )

    def _expire(self) -> None:
        now = self._wall()
        for secret in [each for each in self._by_hash.values() if each.leash.expires_at <= now]:
            if not secret.connections:  # else its turns are still counted
                self._drop(secret)

    def _drop(self, secret: Secret) -> None:
        del self._by_hash[secret.hash], self._by_id[secret.leash.secret]
        self._held.change(secret, -1)

    def find(self, value: str) -> Secret | None:
        """As ``SecretStore.find``."""
        secret = self._by_hash.get(hash_key(value))
        return secret if secret is not None and self._wall() < secret.leash.expires_at else None

    def of(self, id: str) -> Secret | None:
        """As ``SecretStore.of``."""
        return self._by_id.get(id)

    def take_turn(self, leash: Leash) -> None:
        """As ``SecretStore.take_turn``."""
        secret = self._by_id.get(leash.secret)
        if secret is None:
            return  # it has expired and was forgotten, with no connection open: what runs was admitted before
        if leash.turns is not None and secret.turns >= leash.turns:
            raise StageError("overloaded", "turn_limit_reached", "This client secret allows no more responses.")
        secret.turns += 1

    def turns_left(self, leash: Leash | None) -> int | None:
        """As ``SecretStore.turns_left``."""
        secret = self._by_id.get(leash.secret) if leash is not None else None
        return secret.leash.turns - secret.turns if secret is not None and secret.leash.turns is not None else None


def whole_leash(secret: Secret) -> Leash:
    """The secret's leash, with the settings that its sessions begin with."""
    return replace(secret.leash, session=json.loads(secret.settings))
