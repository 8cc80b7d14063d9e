"""``GET /widget.js``: the chat widget, for pages of every origin."""

import gzip
import re
from functools import cache
from pathlib import Path

from aiohttp import web

from server.backend import BACKEND
from server.config import Settings
from server.errors import ApiError
from server.web import page
from server.web.compression import takes_gzip
from server.web.file import FILE, RECORDER, WidgetFile

LATEST, VERSIONED, MICROPHONE = "/widget.js", "/widget.{version}.js", "/recorder.js"
ADDRESS = re.compile(r"/widget\.(?:[^/]+\.)?js|/recorder\.js")
HEADERS = {
    "Access-Control-Allow-Origin": "*",  # a tag with ``integrity`` reads the file by CORS
    "Cross-Origin-Resource-Policy": "cross-origin",  # also a page that isolates itself (COEP) loads it
    "X-Content-Type-Options": "nosniff",
    "Vary": "Accept-Encoding",
}
CHECKED_AGAIN = "no-cache"  # the browser asks whether its copy is the newest
FOR_EVER = "public, max-age=31536000, immutable"
OFF = "The widget is off on this server: [web] widget = true in config.toml switches it on."
OTHER = (
    "This server has another version of the widget; `loquent widget` prints the tag for it. "
    "/widget.js is always the one that it has."
)


def served(settings: Settings) -> bool:
    """Whether this server has the widget; the first page is made of it."""
    return settings.web.widget or page.served(settings)


async def latest(request: web.Request) -> web.Response:
    """The widget, whatever its version. Raises: ApiError 404 where it is off."""
    return _answer(request, CHECKED_AGAIN)


async def versioned(request: web.Request) -> web.Response:
    """The widget of one version. Raises: ApiError 404 where this server has another, or it is off."""
    return _answer(request, FOR_EVER, request.match_info["version"])


async def microphone(request: web.Request) -> web.Response:
    """What the widget has on the browser's audio thread. Raises: ApiError 404 where it is off."""
    return _answer(request, CHECKED_AGAIN, path=RECORDER)


def prepare() -> None:
    """Read and compress the files, so that no request waits for it. Raises: OSError."""
    for path in (FILE, RECORDER):
        _packed(path)


def _answer(request: web.Request, caching: str, version: str | None = None, path: Path = FILE) -> web.Response:
    if not served(request.app[BACKEND].settings):
        raise ApiError(404, "widget_not_found", OFF)
    file = _file(path)
    if version not in (None, file.version):
        raise ApiError(404, "widget_not_found", OTHER)
    packs = takes_gzip(request)
    tag = file.version + ("-gzip" if packs else "")  # a strong ETag is of the bytes that are sent
    headers = HEADERS | {"Cache-Control": caching, "ETag": f'"{tag}"'}
    if any(known.value in ("*", tag) for known in request.if_none_match or ()):
        return web.Response(status=304, headers=headers)
    if packs:
        headers["Content-Encoding"] = "gzip"
    body = _packed(path) if packs else file.content
    return web.Response(body=body, content_type="text/javascript", charset="utf-8", headers=headers)


@cache
def _file(path: Path) -> WidgetFile:
    return WidgetFile.read(path)


@cache
def _packed(path: Path) -> bytes:
    return gzip.compress(_file(path).content, compresslevel=9, mtime=0)
