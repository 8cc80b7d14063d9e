"""``POST /v1/images/generations``: pictures from a prompt, in OpenAI's format, and the route of their files."""

import asyncio
import base64
import json
import time
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from pipelines.events import Picture
from pipelines.image.formats import LARGEST, SMALLEST, weight
from pipelines.image.stage import SEEDS, ImageStage
from server.api import requests
from server.auth import TENANT
from server.backend import BACKEND, Backend
from server.errors import ApiError

MOST = 10  # pictures of one request
SIZES = tuple(SMALLEST << power for power in range((LARGEST // SMALLEST).bit_length()))  # pixels of a side

IGNORED: dict[str, requests.Harmless] = {
    "user": "any",
    "quality": "any",
    "moderation": "any",
    "output_compression": "any",  # of lossy formats
    "output_format": ("png", None),
    "stream": (False, None),
    "partial_images": (0, None),
}


class ImageExtension(BaseModel):
    """Parameters that only this server has."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    style: Literal["flat", "soft", "3d", "any"] | None = None


class ImageRequest(BaseModel):
    """The supported parameters."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    prompt: Annotated[str, Field(min_length=1, max_length=4000)]
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=MOST)] | None = None
    size: str | None = None
    response_format: Literal["url", "b64_json"] | None = None
    background: Literal["transparent", "opaque", "auto"] | None = None
    style: Literal["vivid", "natural"] | None = None  # DALL-E's parameter; ignored here
    seed: Annotated[int, Field(ge=0, lt=SEEDS)] | None = None
    loquent: ImageExtension | None = None


async def create(request: web.Request) -> web.Response:
    """Draw what a prompt asks for. Raises: ApiError 400 that lists the nearest captions where nothing matches."""
    backend = request.app[BACKEND]
    asked = requests.read(await requests.body(request), ImageRequest, ignored=IGNORED)
    stage = await drawing(backend)
    backend.names_of("images").resolve(asked.model)
    size, count = _size(backend, asked.size), asked.n or 1
    if count > (most := stage.painter.capacity.permits // weight(size)):
        raise ApiError(400, "invalid_value", f"n: at most {most} of {size}x{size} fit into one request.", "n")
    wish = await stage.understand(asked.prompt)
    if wish.found.similarity < backend.settings.image.asked_similarity:
        known = ", ".join(wish.similar)
        raise ApiError(
            400, "nothing_like_it", f"prompt: nothing similar can be drawn. The nearest are: {known}.", "prompt"
        )
    pictures = await stage.draw(
        wish.found,
        count=count,
        size=size,
        seed=asked.seed,
        style=asked.loquent.style if asked.loquent else None,
        opaque=asked.background == "opaque",
        tenant=request[TENANT],
        bulk=True,
    )
    body = {
        "created": int(time.time()),
        "background": "opaque" if asked.background == "opaque" else "transparent",
        "output_format": "png",
        "size": f"{size}x{size}",
    }
    pieces = [json.dumps(body)[:-1].encode() + b', "data": [']
    for picture in pictures:  # several large ones are megabytes, so each is serialised separately
        if len(pieces) > 1:
            pieces.append(b", ")
        pieces.append(_entry(backend, request, picture, as_file=asked.response_format == "b64_json"))
        await asyncio.sleep(0)
    return web.Response(body=b"".join([*pieces, b"]}"]), content_type="application/json", charset="utf-8")


def _entry(backend: Backend, request: web.Request, picture: Picture, *, as_file: bool) -> bytes:
    """A picture as JSON, with its file or a link to it."""
    entry: dict[str, Any] = {"revised_prompt": picture.caption}
    own = {"seed": picture.seed, "style": picture.style, "model": picture.model}
    if as_file:
        text = json.dumps(entry | {"loquent": own})
        return text[:-1].encode() + b', "b64_json": "' + base64.b64encode(picture.png) + b'"}'
    stored = backend.images.add(picture, backend.origin(request), request[TENANT])
    return json.dumps(entry | {"url": stored.url, "loquent": own | {"expires_at": stored.expires_at}}).encode()


async def file(request: web.Request) -> web.Response:
    """The file of a picture; its signed link is the credential."""
    backend = request.app[BACKEND]
    png, seconds = backend.images.find(
        request.match_info["id"], request.query.get("expires", ""), request.query.get("signature", "")
    )
    headers = {
        "Cache-Control": f"private, max-age={seconds}, immutable",
        "Content-Security-Policy": "default-src 'none'",
        "Cross-Origin-Resource-Policy": "cross-origin",  # pages of other origins may embed it
        "X-Content-Type-Options": "nosniff",
    }
    return web.Response(body=png, content_type="image/png", headers=headers)


async def drawing(backend: Backend) -> ImageStage:
    """The image stage, once it is loaded. Raises: ApiError 404 where none is configured."""
    stage = await backend.pipeline.find_loaded(ImageStage)
    if stage is None:
        raise ApiError(404, "images_not_found", "This server does not draw: [pipeline] stages lacks 'image'.")
    return stage


def _size(backend: Backend, asked: str | None) -> int:
    """Pixels of a side. Raises: ApiError 400."""
    if asked in (None, "auto"):
        return backend.settings.image.size
    for size in SIZES:
        if asked == f"{size}x{size}":
            return size
    known = ", ".join(f"{size}x{size}" for size in SIZES)
    raise ApiError(400, "unsupported_value", f"size: there are {known} and auto.", "size")
