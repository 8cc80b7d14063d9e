"""Whose request it is, as the handlers see it."""

from dataclasses import dataclass

from aiohttp import web

from server.access.leash import Leash


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of one request."""

    owner: str = ""  # whose data it is: the key's name, of a client secret ``KEYNAME/SECRETID``; "" without keys
    tenant: str = ""  # who shares capacity; as ``owner``, but the key's name is "" where there is only one
    key_id: str = ""  # the first 12 hex digits of the key's SHA-256; "" without keys
    scopes: frozenset[str] = frozenset()
    address: str = ""  # the client's, behind the proxies that are trusted
    leash: Leash | None = None  # of a client secret


ANYONE = Caller()

OWNER = web.RequestKey("owner", str)  # ``Caller.owner``
TENANT = web.RequestKey("tenant", str)  # ``Caller.tenant``
CALLER = web.RequestKey("caller", Caller)
# For whom another server of this cluster asks, which has proved that it is one.
FOR_TENANT = web.RequestKey("for_tenant", str)
