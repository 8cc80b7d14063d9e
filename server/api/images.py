"""``POST /v1/images/generations``: pictures from a prompt, in OpenAI's format, and the route of their files."""

import asyncio
import base64
import json
import time
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from pipelines.events import Picture
from pipelines.image.stage import SEEDS, ImageStage
from server.api import requests
from server.api.pictures import SIZES, Canvas, FileFormat, content_type
from server.auth import TENANT
from server.backend import BACKEND, Backend
from server.errors import ApiError

MOST = 10  # pictures of one request

IGNORED: dict[str, requests.Harmless] = {
    "user": "any",
    "quality": "any",
    "moderation": "any",
    "safety_identifier": "any",
    "input_fidelity": "any",
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
    size: Annotated[str, WithJsonSchema({"type": "string", "enum": [*SIZES, "auto"]})] | None = None
    response_format: Literal["url", "b64_json"] | None = None
    background: Literal["transparent", "opaque", "auto"] | None = None
    output_format: FileFormat | None = None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None = None  # per cent; PNG ignores it
    style: Literal["vivid", "natural"] | None = None  # DALL-E's parameter; ignored here
    seed: Annotated[int, Field(ge=0, lt=SEEDS)] | None = None
    loquent: ImageExtension | None = None

    @property
    def as_file(self) -> bool:
        """Whether the response holds the files: those for a GPT image model do unless a link is asked for."""
        gpt = (self.model or "").startswith(("gpt-image", "chatgpt-image"))
        return self.response_format == "b64_json" or (gpt and self.response_format is None)


async def create(request: web.Request) -> web.Response:
    """Draw what a prompt asks for. Raises: ApiError 400 that lists the nearest captions where nothing matches."""
    backend = request.app[BACKEND]
    asked = requests.read(await requests.body(request), ImageRequest, ignored=IGNORED)
    stage = await drawing(backend)
    backend.names_of("images").resolve(asked.model)
    canvas, count = _canvas(backend, asked), asked.n or 1
    if count > (most := stage.painter.capacity.permits // canvas.weight):
        raise ApiError(400, "invalid_value", f"n: at most {most} of this size fit into one request.", "n")
    wish = await stage.understand(asked.prompt)
    if wish.found.similarity < backend.settings.image.asked_similarity:
        known = ", ".join(wish.similar)
        raise ApiError(
            400, "nothing_like_it", f"prompt: nothing similar can be drawn. The nearest are: {known}.", "prompt"
        )
    pictures = await stage.draw(
        wish.found,
        count=count,
        size=canvas.side,
        seed=asked.seed,
        style=asked.loquent.style if asked.loquent else None,
        opaque=canvas.opaque,
        tenant=request[TENANT],
        bulk=True,
    )
    body = {
        "created": int(time.time()),
        "background": "opaque" if canvas.opaque else "transparent",
        "output_format": canvas.format,
        "size": f"{canvas.width}x{canvas.height}",
    }
    pieces = [json.dumps(body)[:-1].encode() + b', "data": [']
    for picture in pictures:  # several large ones are megabytes, so each is serialised separately
        if len(pieces) > 1:
            pieces.append(b", ")
        fitted = await asyncio.to_thread(canvas.fit, picture)
        pieces.append(await _entry(backend, request, fitted, as_file=asked.as_file))
    return web.Response(body=b"".join([*pieces, b"]}"]), content_type="application/json", charset="utf-8")


async def _entry(backend: Backend, request: web.Request, picture: Picture, *, as_file: bool) -> bytes:
    """A picture as JSON, with its file or a link to it."""
    entry: dict[str, Any] = {"revised_prompt": picture.caption}
    own = {"seed": picture.seed, "style": picture.style, "model": picture.model}
    if as_file:
        text = json.dumps(entry | {"loquent": own})
        return text[:-1].encode() + b', "b64_json": "' + base64.b64encode(picture.png) + b'"}'
    stored = await backend.images.put(picture, backend.origin(request), request[TENANT])
    return json.dumps(entry | {"url": stored.url, "loquent": own | {"expires_at": stored.expires_at}}).encode()


async def file(request: web.Request) -> web.Response:
    """The file of a picture; its signed link is the credential."""
    backend = request.app[BACKEND]
    png, seconds = await backend.images.get(
        request.match_info["id"], request.query.get("expires", ""), request.query.get("signature", "")
    )
    headers = {
        "Cache-Control": f"private, max-age={seconds}, immutable",
        "Content-Security-Policy": "default-src 'none'",
        "Cross-Origin-Resource-Policy": "cross-origin",  # pages of other origins may embed it
        "X-Content-Type-Options": "nosniff",
    }
    return web.Response(body=png, content_type=content_type(png), headers=headers)


async def drawing(backend: Backend) -> ImageStage:
    """The image stage, once it is loaded. Raises: ApiError 404 where none is configured."""
    stage = await backend.pipeline.find_loaded(ImageStage)
    if stage is None:
        raise ApiError(404, "images_not_found", "This server does not draw: [pipeline] stages lacks 'image'.")
    return stage


def _canvas(backend: Backend, asked: ImageRequest) -> Canvas:
    """What the picture is drawn on. Raises: ApiError 400."""
    usual = backend.settings.image.size
    if asked.size in (None, "auto"):
        width, height = usual, usual
    elif asked.size in SIZES:
        width, height = SIZES[asked.size]
    else:
        raise ApiError(400, "unsupported_value", f"size: there are {', '.join(SIZES)} and auto.", "size")
    format = asked.output_format or "png"
    if format == "jpeg" and asked.background == "transparent":
        raise ApiError(400, "unsupported_value", "background: JPEG has no transparency.", "background")
    compression = 100 if asked.output_compression is None else asked.output_compression
    return Canvas(width, height, format, compression, asked.background == "opaque" or format == "jpeg")
