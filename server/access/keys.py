"""API keys: what is known of one. The key itself is known to its client alone."""

import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

from server.config import hash_key

KEY_PREFIX = "lq-"
ID_DIGITS = 12
NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")  # no "/", which divides a key's name from the id of its client secret
SCOPES = ("realtime", "http", "secrets", "admin")
DEFAULT_SCOPES = ("realtime", "http", "secrets")
UNITS = {"h": 3600, "d": 86_400, "w": 7 * 86_400}
LONGEST = 100 * 365 * 86_400  # seconds that a key may be valid


@dataclass(frozen=True, slots=True)
class Key:
    """A key that the server knows."""

    name: str  # keys of one name share their data
    hash: str
    scopes: frozenset[str] = frozenset(SCOPES)
    created_at: int = 0  # Unix time
    expires_at: int | None = None

    @property
    def id(self) -> str:
        """The first digits of its hash."""
        return self.hash.removeprefix("sha256:")[:ID_DIGITS]

    def valid(self, now: float) -> bool:
        """Whether it has not expired."""
        return self.expires_at is None or now < self.expires_at


def new_key() -> str:
    """A new API key with 256 random bits."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def make_key(name: str, scopes: Iterable[str], expires_at: int | None, now: float) -> tuple[str, Key]:
    """A new key, and what the server knows of it. Raises: ValueError for an unfit name."""
    if not NAME.fullmatch(name) or re.fullmatch(rf"[0-9a-f]{{{ID_DIGITS}}}", name):
        raise ValueError(
            f"{name!r:.80} is no name for a key: 1 to 64 letters, digits, dots, dashes and underscores, and not an id."
        )
    key = new_key()
    return key, Key(name, hash_key(key), frozenset(scopes), int(now), expires_at)


def scopes_of(given: Iterable[str]) -> tuple[str, ...]:
    """The scopes, each of which may be several with commas between; the default ones where none is given.

    Raises: ValueError that lists what there is.
    """
    names = [name.strip() for each in given for name in each.split(",") if name.strip()]
    for name in names:
        if name not in SCOPES:
            raise ValueError(f"{name!r:.40} is no scope; there are {', '.join(SCOPES)}.")
    return tuple(scope for scope in SCOPES if scope in names) or DEFAULT_SCOPES


def expiry_of(given: str, now: float) -> int:
    """The Unix time of "90d", "12h", "4w" or a date, whose day begins at midnight UTC. Raises: ValueError."""
    wrong = f"{given!r:.40} is no time to come: 90d, 12h, 4w, or a date such as 2030-01-31."
    if match := re.fullmatch(r"([0-9]{1,6})([hdw])", given):
        seconds = int(match[1]) * UNITS[match[2]]
    else:
        try:
            seconds = int(datetime.strptime(given, "%Y-%m-%d").replace(tzinfo=UTC).timestamp() - now)
        except ValueError:
            raise ValueError(wrong) from None
    if not 0 < seconds <= LONGEST:
        raise ValueError(wrong)
    return int(now) + seconds


def date_of(seconds: int | None) -> str:
    """A Unix time for people; "never" for none."""
    return "never" if seconds is None else time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))
