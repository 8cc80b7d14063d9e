"""Measures every request: how it is answered, and how long that takes."""

import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from server.backend import BACKEND

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def timed(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The outermost middleware: the time from a request's head to the end of its response."""
    begun = time.monotonic()
    try:
        return await handler(request)
    finally:
        request.app[BACKEND].metrics.ended(request, time.monotonic() - begun)


async def count(request: web.Request, response: web.StreamResponse) -> None:
    """Count a response when it begins, so that a websocket counts when it opens."""
    request.app[BACKEND].metrics.responded(request, response)
