"""Lets only this cluster's own bridges into a replica's server, and says whether it holds a session."""

import hmac
from collections.abc import Callable, Mapping, Sequence
from typing import Final
from urllib.parse import unquote

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from server.access.caller import FOR_TENANT
from server.access.peer import ENDED_AT

BRIDGE: Final = "X-Loquent-Bridge"
CLIENT: Final = "X-Loquent-Client"  # the address that the client's connection comes from
SCHEME: Final = "X-Loquent-Scheme"  # how the client speaks: http or https
TENANT: Final = "X-Loquent-Tenant"  # for whom a gateway asks an engine, percent-encoded: no text of one reaches another
OWN: Final = frozenset(name.lower() for name in (BRIDGE, CLIENT, SCHEME, TENANT))
HELD: Final = "/-/sessions/"  # and a session's id: 204 where this server holds it, else 404
FORGET: Final = "/-/forget"  # POST a JSON list of tenants, whose prompts are not to be cached any longer: 204
LONGEST: Final = 64  # characters of an address


def guard(
    secret: str,
    holds: Callable[[str], bool],
    forget: Callable[[Sequence[str]], None] = lambda tenants: None,
    answers: Mapping[str, Handler] | None = None,
) -> Middleware:
    """What stands before a replica's application.

    ``holds`` says whether a session is in progress here, ``forget`` empties the prefix cache of tenants, and
    ``answers`` answer what is asked below a path, by that path.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        if not hmac.compare_digest(request.headers.get(BRIDGE, "").encode(errors="replace"), secret.encode()):
            return web.json_response({"error": {"message": "Not here.", "code": "forbidden"}}, status=403)
        if request.path.startswith(HELD):
            return web.Response(status=204 if holds(request.path.removeprefix(HELD)) else 404)
        if request.path == FORGET and request.method == "POST":
            forget([str(tenant) for tenant in await request.json()])
            return web.Response(status=204)
        for path, answer in (answers or {}).items():
            if request.path.startswith(path):
                return await answer(request)
        scheme = "https" if request.headers.get(SCHEME) == "https" else "http"
        request[ENDED_AT] = (request.headers.get(CLIENT, "")[:LONGEST], scheme)
        if TENANT in request.headers:
            request[FOR_TENANT] = unquote(request.headers[TENANT])
        return await handler(request)

    return check
