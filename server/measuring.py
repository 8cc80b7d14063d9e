"""Measures every request: how it is answered, and how long that takes."""

import time

from aiohttp import web

from server.backend import BACKEND


def ended(request: web.Request, begun: float) -> None:
    """Note the time from ``begun``, a request's head, to the end of its response."""
    request.app[BACKEND].metrics.ended(request, time.monotonic() - begun)


async def count(request: web.Request, response: web.StreamResponse) -> None:
    """Count a response when it begins, so that a websocket counts when it opens."""
    request.app[BACKEND].metrics.responded(request, response)
