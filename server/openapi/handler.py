"""``GET /openapi.json`` and ``GET /v1/realtime/schema.json``."""

import asyncio
import gzip
import json
from functools import cache

from aiohttp import web

from server.openapi.document import document
from server.openapi.operations import PATHS
from server.openapi.realtime import realtime_schema
from server.web.compression import takes_gzip

_MADE = dict(zip(PATHS, (document, realtime_schema), strict=True))


async def described(request: web.Request) -> web.Response:
    """One of the two documents, compressed for clients that can read it so. No key is needed: all of it is public."""
    accepts = takes_gzip(request)
    # On a thread: the first request makes the document, which takes longer than a token may wait.
    text = await asyncio.to_thread(_text, request.path, compressed=accepts)
    headers = {"Cache-Control": "private, max-age=300"} | ({"Content-Encoding": "gzip"} if accepts else {})
    return web.Response(body=text, content_type="application/json", headers=headers)


@cache
def _text(path: str, *, compressed: bool) -> bytes:
    text = json.dumps(_MADE[path](), separators=(",", ":")).encode()
    return gzip.compress(text, mtime=0) if compressed else text
