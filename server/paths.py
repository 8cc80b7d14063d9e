"""What a 404 says: the right path for one that is nearly right, and what OpenAI has and this server has not."""

import re

from aiohttp import web
from yarl import URL

ELSEWHERE = (  # beginnings of OpenAI's paths, below /v1/
    "assistants",
    "audio/voices",
    "batches",
    "chatkit",
    "containers",
    "evals",
    "files",
    "fine_tuning",
    "images/edits",
    "images/variations",
    "organization",
    "realtime/calls",
    "realtime/sessions",
    "realtime/transcription_sessions",
    "realtime/translations",
    "skills",
    "threads",
    "uploads",
    "vector_stores",
    "videos",
)


async def missing(request: web.Request) -> str:
    """What to say of a path where nothing is."""
    right = _tidy(request.path)
    if right != request.path and await _exists(request, right):
        return f"There is nothing at this path; did you mean {right}?"
    below = right.removeprefix("/v1/")
    if any(below == path or below.startswith(f"{path}/") for path in ELSEWHERE):
        return f"OpenAI has {right:.120}, and this server does not: docs/protocol.md has its paths."
    return f"There is nothing at this path ({request.method} {right:.120}); docs/protocol.md has what there is."


def _tidy(path: str) -> str:
    """The path with single slashes, none at its end, and with /v1 once."""
    plain = re.sub("/+", "/", path).rstrip("/")
    return "/v1/" + re.sub("^/(?:v1/)*", "", plain + "/").rstrip("/") if plain else "/"


async def _exists(request: web.Request, path: str) -> bool:
    found = await request.app.router.resolve(request.clone(rel_url=URL.build(path=path)))
    return not isinstance(found.http_exception, web.HTTPNotFound)
