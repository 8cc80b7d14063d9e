"""A server's addresses, from the one that a user gives."""

import re
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from loquent.errors import UsageError

DEFAULT_URL = "http://127.0.0.1:8700"


def websocket_address(url: str, model: str | None = None, query: str = "") -> str:
    """The address of the realtime websocket, with this query besides the model. Raises: UsageError."""
    whole = "&".join(part for part in (f"model={quote(model)}" if model else "", query) if part)
    address = _address(url, {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"})
    return f"{address}/v1/realtime" + (f"?{whole}" if whole else "")


def http_address(url: str) -> str:
    """The server's address for HTTP, without ``/v1``. Raises: UsageError."""
    return _address(url, {"ws": "http", "wss": "https", "http": "http", "https": "https"})


def _address(url: str, schemes: Mapping[str, str]) -> str:
    try:
        parts = urlsplit(url)
        scheme, right = schemes.get(parts.scheme), bool(parts.hostname) and parts.port != 0
        right = right and re.fullmatch(r"[!-~]*", parts.path) is not None
        (parts.hostname or "").encode("idna")
    except ValueError:  # a port beyond 65535, an open bracket, an invalid host name
        right = False
    if not right or scheme is None:
        raise UsageError(f"{url!r} is no URL of a server; one looks like {DEFAULT_URL}.", "invalid_url")
    return f"{scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"
