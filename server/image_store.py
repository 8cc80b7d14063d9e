"""Stores drawn pictures for a limited time, and makes and checks their links.

A link is signed and expires. It needs no key, and it can be neither forged nor extended.
"""

import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from pipelines.events import Picture
from server.errors import ApiError
from server.links import IMAGES


@dataclass(frozen=True, slots=True)
class _Entry:
    png: bytes
    expires_at: int
    conversation: str = ""


@dataclass(slots=True)
class _Tenant:
    """The pictures of one key."""

    ids: deque[str] = field(default_factory=deque)  # in the order in which they expire
    held: int = 0  # bytes


class ImageStore:
    """The pictures of one server, in memory, at most ``limit`` bytes. A full store evicts the oldest picture of the
    tenant that holds most."""

    def __init__(self, limit: int, seconds: float, *, clock: Callable[[], float] = time.time) -> None:
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._entries: dict[str, _Entry] = {}
        self._tenants: dict[str, _Tenant] = {}  # no entry is empty

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def held(self) -> int:
        """Bytes stored."""
        return sum(each.held for each in self._tenants.values())

    def add(self, picture: Picture, origin: str, tenant: str = "", conversation: str = "") -> Picture:
        """Store a picture's file; returns the picture with a link in its place. Links begin with ``origin``.

        ``conversation`` is the id of the one that it belongs to.
        """
        now = self._clock()
        expires_at = int(now + self._seconds) + 1
        for name, each in list(self._tenants.items()):
            while each.ids and self._entries[each.ids[0]].expires_at <= now:
                self._drop(name)
        while self._tenants and self.held + len(picture.png) > self._limit:
            self._drop(max(self._tenants, key=lambda name: self._tenants[name].held))
        self._entries[picture.id] = _Entry(picture.png, expires_at, conversation)
        mine = self._tenants.setdefault(tenant, _Tenant())
        mine.ids.append(picture.id)
        mine.held += len(picture.png)
        query = f"expires={expires_at}&signature={self._signature(picture.id, expires_at)}"
        return replace(picture, png=b"", url=f"{origin}{IMAGES}{picture.id}.png?{query}", expires_at=expires_at)

    def forget(self, conversations: Collection[str]) -> None:
        """Drop the pictures of conversations that were deleted."""
        for name, each in list(self._tenants.items()):
            for id in [id for id in each.ids if self._entries[id].conversation in conversations]:
                each.ids.remove(id)
                each.held -= len(self._entries.pop(id).png)
            if not each.ids:
                del self._tenants[name]

    def _drop(self, tenant: str) -> None:
        """Evict the tenant's oldest picture."""
        theirs = self._tenants[tenant]
        theirs.held -= len(self._entries.pop(theirs.ids.popleft()).png)
        if not theirs.ids:
            del self._tenants[tenant]

    def find(self, id: str, expires: str, signature: str) -> tuple[bytes, int]:
        """A picture's file, and the seconds until its link expires.

        Raises: ApiError 403 when the signature is wrong, 410 when the picture has expired or was evicted.
        """
        stated = int(expires) if expires.isascii() and expires.isdigit() and len(expires) < 16 else 0
        if not hmac.compare_digest(self._signature(id, stated).encode(), signature.encode(errors="replace")):
            raise ApiError(403, "invalid_signature", "This server did not make this link, or the link was changed.")
        entry = self._entries.get(id)
        left = stated - self._clock()
        if entry is None or left <= 0:
            raise ApiError(410, "image_expired", "This picture is no longer stored; request a new one.")
        return entry.png, int(left)

    def _signature(self, id: str, expires_at: int) -> str:
        return hmac.digest(self._secret, f"{id} {expires_at}".encode(), "sha256").hex()[:40]
