"""Large request bodies: how many bytes of them are held at a time, and how much structure one may have.

Parsing JSON holds Python's lock from beginning to end, in whatever thread, so that the event loop stands still. 8 MiB
of text take some milliseconds and 8 MiB of empty lists a third of a second; hence brackets, commas and texts are
counted first.
"""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from aiohttp import web

from server.api import requests
from server.backend import Backend
from server.errors import RETRY_AFTER, ApiError

LARGE = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings", "/v1/moderations")
UPLOADS = ("/v1/audio/transcriptions", "/v1/audio/translations")  # forms, which are read piece by piece
HELD = 32  # bodies of the largest size, which all large ones together may take
FORM_BYTES = 64 * 1024  # of a form besides its file
BRACKETS = 20_000  # of one large body
TEXTS = 20_000
COMMAS = 1_000_000  # numbers are cheap
ENCODINGS = ("", "identity", "gzip", "deflate", "br", "zstd")


@asynccontextmanager
async def admitted(request: web.Request, backend: Backend) -> AsyncIterator[None]:
    """Read a large body, and count it while the block runs; a small one is left to be read later.

    Raises: ApiError 413 where it is larger, or has more structure, than one may; 415; 503 while too many are held.
    """
    encoding = request.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ENCODINGS:
        raise ApiError(415, "unsupported_encoding", f"Content-Encoding: there are {', '.join(ENCODINGS[1:])}.")
    limits = backend.settings.limits
    if request.path in UPLOADS:
        with _counted(request, backend, limits.upload_bytes + FORM_BYTES):
            yield
        return
    limit = limits.body_bytes if request.path in LARGE else limits.message_bytes
    if (request.content_length or 0) > limit:
        raise _too_large(limit)
    known = request.content_length is not None and not encoding
    if not request.can_read_body or (known and (request.content_length or 0) <= limits.message_bytes):
        yield
        return
    with _counted(request, backend, limit):
        raw = await requests.body(request)  # aiohttp keeps it for who reads it next
        if len(raw) > limit:
            raise _too_large(limit)
        if len(raw) > limits.message_bytes:
            _check_structure(raw)
        yield


@contextmanager
def _counted(request: web.Request, backend: Backend, limit: int) -> Iterator[None]:
    """Count a large body while the block runs. Raises: ApiError 413, 503."""
    size = request.content_length or 0
    if size > limit:
        raise _too_large(limit)
    if not size or request.headers.get("Content-Encoding"):
        size = limit
    if backend.large_bodies + size > HELD * backend.settings.limits.body_bytes:
        raise ApiError(503, "server_overloaded", "Too many large requests are in progress.", retry_after=RETRY_AFTER)
    backend.large_bodies += size
    try:
        yield
    finally:
        backend.large_bodies -= size


def _too_large(limit: int) -> ApiError:
    return ApiError(413, "request_too_large", f"The body of a request to this path may have {limit} bytes.")


def _check_structure(raw: bytes) -> None:
    """Raises: ApiError 413 where parsing would take long."""
    plain = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    if plain.count(b'"') <= 2 * TEXTS:
        outside = b"".join(plain.split(b'"')[::2])
        if outside.count(b"[") + outside.count(b"{") <= BRACKETS and outside.count(b",") <= COMMAS:
            return
    raise ApiError(
        413, "request_too_complex", f"A body may have {TEXTS} texts, {BRACKETS} lists and objects, and {COMMAS} values."
    )
