"""Pictures that were drawn, kept for a while, and the links under which they can be had.

A link is signed: whoever has it may open it, without a key, until it expires. Nobody can make one up or make one last.
"""

import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from pipelines.events import Picture
from server.errors import ApiError
from server.links import IMAGES


@dataclass(frozen=True, slots=True)
class _Kept:
    png: bytes
    expires_at: int


@dataclass(slots=True)
class _Tenant:
    """What is kept for one of those who share the server."""

    ids: deque[str] = field(default_factory=deque)  # in the order in which they expire
    held: int = 0  # bytes


class ImageStore:
    """The pictures of one server, in memory: at most ``limit`` bytes. Where they are full, whoever holds most gives way
    first, with the oldest."""

    def __init__(self, limit: int, seconds: float, *, clock: Callable[[], float] = time.time) -> None:
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._kept: dict[str, _Kept] = {}
        self._of: dict[str, _Tenant] = {}  # no entry is empty

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def held(self) -> int:
        """Bytes."""
        return sum(each.held for each in self._of.values())

    def keep(self, picture: Picture, origin: str, tenant: str = "") -> Picture:
        """Keep a picture's file; returns the picture with its link instead. ``origin`` is the server's address."""
        now = self._clock()
        expires_at = int(now + self._seconds) + 1
        for name, each in list(self._of.items()):
            while each.ids and self._kept[each.ids[0]].expires_at <= now:
                self._drop(name)
        while self._of and self.held + len(picture.png) > self._limit:
            self._drop(max(self._of, key=lambda name: self._of[name].held))
        self._kept[picture.id] = _Kept(picture.png, expires_at)
        mine = self._of.setdefault(tenant, _Tenant())
        mine.ids.append(picture.id)
        mine.held += len(picture.png)
        query = f"expires={expires_at}&signature={self._signature(picture.id, expires_at)}"
        return replace(picture, png=b"", url=f"{origin}{IMAGES}{picture.id}.png?{query}", expires_at=expires_at)

    def _drop(self, tenant: str) -> None:
        """Let the tenant's oldest picture go."""
        theirs = self._of[tenant]
        theirs.held -= len(self._kept.pop(theirs.ids.popleft()).png)
        if not theirs.ids:
            del self._of[tenant]

    def find(self, id: str, expires: str, signature: str) -> tuple[bytes, int]:
        """A picture's file, and for how many seconds more it can be had.

        Raises: ApiError 403 when nobody here made this link, 410 when the picture is gone.
        """
        stated = int(expires) if expires.isascii() and expires.isdigit() and len(expires) < 16 else 0
        if not hmac.compare_digest(self._signature(id, stated).encode(), signature.encode(errors="replace")):
            raise ApiError(403, "invalid_signature", "This link was not made by this server, or it was changed.")
        kept = self._kept.get(id)
        left = stated - self._clock()
        if kept is None or left <= 0:
            raise ApiError(410, "image_expired", "This picture is not kept any more; ask for it again.")
        return kept.png, int(left)

    def _signature(self, id: str, expires_at: int) -> str:
        return hmac.digest(self._secret, f"{id} {expires_at}".encode(), "sha256").hex()[:40]
