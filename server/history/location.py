"""Where conversations are stored: the value of ``[history] store``."""

import re
from pathlib import Path
from urllib.parse import urlsplit

import platformdirs

POSTGRES = ("postgresql", "postgres")
SQLITE = "sqlite:///"
_PASSWORD = re.compile(r"(?<=[?&])(password|passfile|sslpassword)=[^&]*", re.IGNORECASE)


def check(store: str) -> str:
    """``store``, where it names a database or none. Raises: ValueError, which never repeats a password."""
    if store in ("none", "sqlite") or (store.startswith(SQLITE) and store != SQLITE and "\0" not in store):
        return store
    try:
        parts = urlsplit(store)
        known = parts.scheme in POSTGRES and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known or "\0" in store:
        raise ValueError('must be "none", "sqlite", "sqlite:///PATH" or "postgresql://USER:PASSWORD@HOST/DATABASE"')
    return store


def masked(store: str) -> str:
    """``store`` without its password, for people to read."""
    return without_password(store) if store.startswith(tuple(f"{scheme}:" for scheme in POSTGRES)) else store


def without_password(url: str) -> str:
    """The address of a server without its password, for people to read."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    name, colon, _ = user.partition(":")
    netloc = f"{name}{':***' if colon else ''}{at}{host}"
    query = _PASSWORD.sub(r"\1=***", parts.query)
    return f"{parts.scheme}://{netloc}{parts.path}{'?' if query else ''}{query}" if parts.scheme else url


def file_of(store: str) -> Path | None:
    """The file of an SQLite database; None for another one."""
    if store == "sqlite":
        return Path(platformdirs.user_data_dir("loquent", appauthor=False)) / "history.db"
    return Path(store.removeprefix(SQLITE)).expanduser() if store.startswith(SQLITE) else None
