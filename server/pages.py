"""The first page and what it needs: files that anyone may read."""

from pathlib import Path

from aiohttp import web

FOLDER = Path(__file__).parents[1] / "clients" / "web"
FILES = {
    "/": ("index.html", "text/html"),
    "/talk.css": ("talk.css", "text/css"),
    "/talk.js": ("talk.js", "text/javascript"),
    "/sound.js": ("sound.js", "text/javascript"),
    "/worklets.js": ("worklets.js", "text/javascript"),
}
HEADERS = {
    # Nothing of another origin, and in nobody's frame.
    "Content-Security-Policy": "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data: http: https:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "microphone=(self)",
    "Cache-Control": "no-cache",
}


async def page(request: web.Request) -> web.Response:
    """One of the files."""
    name, kind = FILES[request.path]
    return web.Response(body=_contents[name], content_type=kind, charset="utf-8", headers=HEADERS)


_contents = {name: (FOLDER / name).read_bytes() for name, _ in FILES.values()}
