"""The first page and what it needs: files that anyone may read, where ``[web] page`` has them served."""

from pathlib import Path
from urllib.parse import urlsplit

from aiohttp import web

from server.backend import BACKEND
from server.config import Settings
from server.errors import ApiError

FOLDER = Path(__file__).parents[2] / "clients" / "web"
FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("built/page.js", "text/javascript"),
}
HEADERS = {
    # Nothing of another origin, and in nobody's frame.
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data: http: https:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self)",
    "Cache-Control": "no-cache",
}
OFF = (
    "The first page is off on this server: by default it is on only where nothing but this machine reaches the server. "
    "[web] page = true in config.toml, or LOQUENT__WEB__PAGE=true in the environment, switches it on."
)
EVERY = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104 - addresses of every interface: a browser opens none of them


def served(settings: Settings) -> bool:
    """Whether this server has the first page."""
    if settings.web.page != "auto":
        return settings.web.page
    # Behind a proxy, what listens on this machine alone is open to others.
    return settings.server.loopback and not settings.server.trusted_proxies


def address(settings: Settings, listening: str) -> str:
    """Where a browser opens the page of a server that listens at the URL ``listening``."""
    here = urlsplit(listening)
    if settings.server.public_url:
        return settings.server.public_url
    return f"{here.scheme}://{EVERY[here.hostname]}:{here.port}" if here.hostname in EVERY else listening


async def answer(request: web.Request) -> web.Response:
    """One of the files. Raises: ApiError 404 where they are not served."""
    if not served(request.app[BACKEND].settings):
        raise ApiError(404, "page_not_found", OFF)
    name, kind = FILES[request.path]
    return web.Response(body=_contents[name], content_type=kind, charset="utf-8", headers=HEADERS)


_contents = {name: (FOLDER / name).read_bytes() for name, _ in FILES.values()}
