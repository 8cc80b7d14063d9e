"""Where a request comes from, also behind proxies: their headers are believed of trusted ones alone."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from aiohttp import web

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

V6_PREFIX = 64  # bits; one visitor has as many addresses as the rest allows
HOPS = 32  # entries of X-Forwarded-For that are looked at
LONGEST = 64  # characters of an address with its port


@dataclass(frozen=True, slots=True)
class Peer:
    """The client's side of a request."""

    address: str  # of the client; "" where there is none, as over a Unix socket
    scheme: str
    host: str  # as the client wrote it, with its port; "" where it did not


PEER = web.RequestKey("peer", Peer)
# The address and scheme of the client's connection, where what has ended it says so and has proved who it is.
ENDED_AT = web.RequestKey("ended_at", tuple[str, str])


class Proxies:
    """The networks whose machines may say on whose behalf they ask."""

    def __init__(self, networks: Iterable[str]) -> None:
        self._networks: tuple[Network, ...] = tuple(ipaddress.ip_network(each) for each in networks)

    def trusted(self, address: str) -> bool:
        """Whether this is one of them."""
        parsed = parse(address)
        return parsed is not None and any(parsed in network for network in self._networks)

    def peer(self, request: web.Request) -> Peer:
        """Who asks. Behind trusted proxies it is the nearest address that none of them has."""
        address, own_scheme = request.get(ENDED_AT) or (request.remote or "", request.scheme)
        headers = request.headers
        host = headers.get("Host", "")  # not ``request.host``: without a Host it may ask the name service, and block
        if not self._networks or not self.trusted(address):
            return Peer(address, own_scheme, host)
        address = self._client(address, ",".join(headers.getall("X-Forwarded-For", [])))
        scheme = _last(headers.getall("X-Forwarded-Proto", [])).lower()
        forwarded = _last(headers.getall("X-Forwarded-Host", []))
        return Peer(address, scheme if scheme in ("http", "https") else own_scheme, forwarded or host)

    def _client(self, nearest: str, chain: str) -> str:
        """The rightmost address that is not a trusted proxy's: what stands left of it, the client may have invented."""
        for entry in reversed(chain.split(",")[-HOPS:]):
            parsed = parse(entry.strip())
            if parsed is None:
                return nearest  # an unreadable entry: the proxy that wrote it is the last that can be believed
            nearest = str(parsed)
            if not self.trusted(nearest):
                break
        return nearest


def _last(given: list[str]) -> str:
    """The value that the nearest proxy has added."""
    return given[-1].rpartition(",")[2].strip() if given else ""


def parse(address: str) -> Address | None:
    """An address, perhaps with a port or within brackets; an IPv4 address that is written as IPv6 is IPv4."""
    return _parse(address) if len(address) <= LONGEST else None


@lru_cache(maxsize=4096)
def _parse(text: str) -> Address | None:
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        parsed = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    mapped = parsed.ipv4_mapped if isinstance(parsed, ipaddress.IPv6Address) else None
    return mapped or parsed


@lru_cache(maxsize=4096)
def visitor(address: str) -> str:
    """What counts as one visitor: an IPv4 address, or the first 64 bits of an IPv6 address."""
    parsed = parse(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, V6_PREFIX), strict=False))
    return str(parsed) if parsed is not None else address
