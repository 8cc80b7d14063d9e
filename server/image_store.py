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

SECRET_BYTES = 32


@dataclass(frozen=True, slots=True)
class Entry:
    """A stored picture."""

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
    tenant that holds most. ``server.sharing.images`` has one whose pictures several servers share."""

    def __init__(self, limit: int, seconds: float, *, clock: Callable[[], float] = time.time) -> None:
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._secrets = [secrets.token_bytes(SECRET_BYTES)]  # the first signs, all are accepted
        self._entries: dict[str, Entry] = {}
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
        self._entries[picture.id] = Entry(picture.png, expires_at, conversation)
        mine = self._tenants.setdefault(tenant, _Tenant())
        mine.ids.append(picture.id)
        mine.held += len(picture.png)
        query = f"expires={expires_at}&signature={self._signature(self._secrets[0], picture.id, expires_at)}"
        return replace(picture, png=b"", url=f"{origin}{IMAGES}{picture.id}.png?{query}", expires_at=expires_at)

    def forget(self, conversations: Collection[str]) -> None:
        """Drop the pictures of conversations that were deleted."""
        for name, each in list(self._tenants.items()):
            for id in [id for id in each.ids if self._entries[id].conversation in conversations]:
                each.ids.remove(id)
                each.held -= len(self._pop(id).png)
            if not each.ids:
                del self._tenants[name]

    def _drop(self, tenant: str) -> None:
        """Evict the tenant's oldest picture."""
        theirs = self._tenants[tenant]
        theirs.held -= len(self._pop(theirs.ids.popleft()).png)
        if not theirs.ids:
            del self._tenants[tenant]

    def _pop(self, id: str) -> Entry:
        return self._entries.pop(id)

    async def put(self, picture: Picture, origin: str, tenant: str = "", conversation: str = "") -> Picture:
        """As ``add``; the link is good for every server that shares this store's pictures."""
        return self.add(picture, origin, tenant, conversation)

    async def get(self, id: str, expires: str, signature: str) -> tuple[bytes, int]:
        """As ``find``, of the pictures of all servers. Raises also: ApiError 503 where they can't be asked."""
        return self.find(id, expires, signature)

    def find(self, id: str, expires: str, signature: str) -> tuple[bytes, int]:
        """A picture's file, and the seconds until its link expires.

        Raises: ApiError 403 when the signature is wrong, 410 when the picture has expired or was evicted.
        """
        left = self.valid(id, expires, signature)
        entry = self._entries.get(id)
        if entry is None:
            raise gone()
        return entry.png, left

    def valid(self, id: str, expires: str, signature: str) -> int:
        """The seconds until a link expires.

        Raises: ApiError 403 when its signature is wrong, 410 when it has expired.
        """
        stated = int(expires) if expires.isascii() and expires.isdigit() and len(expires) < 16 else 0
        given = signature.encode(errors="replace")
        # All are compared, so that the time does not tell which one it was.
        signed = [hmac.compare_digest(self._signature(each, id, stated).encode(), given) for each in self._secrets]
        if not any(signed):
            raise ApiError(403, "invalid_signature", "This server did not make this link, or the link was changed.")
        left = stated - self._clock()
        if left <= 0:
            raise gone()
        return int(left)

    @staticmethod
    def _signature(secret: bytes, id: str, expires_at: int) -> str:
        return hmac.digest(secret, f"{id} {expires_at}".encode(), "sha256").hex()[:40]


def gone() -> ApiError:
    """The error of a picture that has expired, or was evicted or deleted."""
    return ApiError(410, "image_expired", "This picture is no longer stored; request a new one.")
