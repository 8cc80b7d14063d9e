"""Pictures that were drawn, kept for a while, and the links under which they can be had.

A link is signed: whoever has it may open it, without a key, until it expires. Nobody can make one up or make one last.
"""

import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace

from pipelines.events import Picture
from server.errors import ApiError

PATH = "/v1/images/files/"
_LINK = re.compile(rf"\s*!\[[^\]]*\]\([^\s)]*{re.escape(PATH)}[^\s)]*\)")


@dataclass(frozen=True, slots=True)
class _Kept:
    png: bytes
    expires_at: int


class Pictures:
    """The pictures of one server, in memory: at most ``limit`` bytes, the oldest give way first."""

    def __init__(self, limit: int, seconds: float, *, clock: Callable[[], float] = time.time) -> None:
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._kept: OrderedDict[str, _Kept] = OrderedDict()  # in the order in which they expire
        self.held = 0  # bytes

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, picture: Picture, origin: str) -> Picture:
        """Keep a picture's file; returns the picture with its link instead. ``origin`` is the server's address."""
        now = self._clock()
        expires_at = int(now + self._seconds) + 1
        self._kept[picture.id] = _Kept(picture.png, expires_at)
        self.held += len(picture.png)
        while self._kept and (self.held > self._limit or next(iter(self._kept.values())).expires_at <= now):
            _, gone = self._kept.popitem(last=False)
            self.held -= len(gone.png)
        query = f"expires={expires_at}&signature={self._signature(picture.id, expires_at)}"
        return replace(picture, png=b"", url=f"{origin}{PATH}{picture.id}.png?{query}", expires_at=expires_at)

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


def without_links(text: str) -> str:
    """A reply's text as the model reads it again: links to pictures would only lead it to make some up."""
    return _LINK.sub("", text) if PATH in text else text
