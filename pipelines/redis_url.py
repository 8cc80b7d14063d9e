"""The address of a Redis or Valkey server, as settings name it."""

import re
from urllib.parse import parse_qsl, urlsplit

EXAMPLES = '"redis://:PASSWORD@HOST:6379/0", "rediss://…" for TLS or "unix:///PATH"'
OPTION = re.compile(r"db|username|password|ssl_\w+")


def check(url: str) -> str:
    """``url``, where it is empty or names a server. Raises: ValueError, which never repeats a password."""
    if url and not _names_a_server(url):
        raise ValueError(f"must be empty, or the address of a Redis server: {EXAMPLES}")
    return url


def _names_a_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        options = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        if parts.fragment or not all(OPTION.fullmatch(name) for name, _ in options):
            return False
        if not all(value.isdigit() for name, value in options if name == "db"):
            return False
        if parts.scheme == "unix":
            return len(parts.path) > 1
        known = parts.scheme in ("redis", "rediss") and (parts.port is None or parts.port > 0)
        return known and bool(parts.hostname) and re.fullmatch(r"(/\d*)?", parts.path) is not None
    except ValueError:
        return False
