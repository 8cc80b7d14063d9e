"""Bounds the connections that are no websocket yet: each costs memory before any key is seen."""

import asyncio
from collections import Counter
from collections.abc import Callable

from server.access.peer import parse, visitor

SHARE = 8  # one address has at most an eighth of them
REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 2\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s"
)
BODY = (
    b'{"error": {"message": "The server has reached its limit of connections.", "type": "server_error", '
    b'"code": "too_many_connections", "param": null}}'
)


class Gate:
    """Counts connections in all and by address. This machine's own, and those of trusted proxies, have no share: behind
    a proxy every visitor has its address."""

    def __init__(self, most: int, trusted: Callable[[str], bool]) -> None:
        self._most = most  # 0: no limit
        self._trusted = trusted
        self._addresses: Counter[str] = Counter()  # no entry is 0
        self._inside: dict[asyncio.BaseTransport, str] = {}  # with the address that each counts for

    def __len__(self) -> int:
        return len(self._inside)

    def enter(self, transport: asyncio.BaseTransport) -> bool:
        """Count a new connection; False, and not counted, where there are too many."""
        name = self._address(transport)
        share = max(self._most // SHARE, 1)
        if self._most and (len(self._inside) >= self._most or (name and self._addresses[name] >= share)):
            return False
        self._inside[transport] = name
        if name:
            self._addresses[name] += 1
        return True

    def leave(self, transport: asyncio.BaseTransport) -> None:
        """Count a connection no more: it is closed, or a websocket that has limits of its own."""
        if name := self._inside.pop(transport, ""):
            self._addresses[name] -= 1
            if not self._addresses[name]:
                del self._addresses[name]

    def _address(self, transport: asyncio.BaseTransport) -> str:
        """The address that the connection counts for; "" for one that has no share."""
        peer = transport.get_extra_info("peername")
        address = peer[0] if isinstance(peer, tuple) else ""
        parsed = parse(address)
        return "" if parsed is None or parsed.is_loopback or self._trusted(address) else visitor(address)


def refusal() -> bytes:
    """The answer to a connection that is not admitted."""
    return REFUSAL % (len(BODY), BODY)
