"""``POST /v1/embeddings``: sentence embeddings, in OpenAI's format."""

import base64
import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic_core import PydanticCustomError

from pipelines.embedding.interface import Embeds
from pipelines.embedding.names import E5, MINILM
from pipelines.embedding.passages import DIMENSIONS, Embedding, Passage
from server.api import requests
from server.backend import BACKEND, Backend
from server.errors import ApiError

INPUTS = 2048  # of one request
USED_BY = {MINILM: "image", E5: "anomaly"}  # the stage that brings each model
TOGETHER = 8  # texts that are embedded at a time; other requests run in between

Text = Annotated[str, Field(min_length=1)]


def _no_tokens(given: Any) -> Any:
    """Token ids are those of a vocabulary that the model here does not have."""
    if isinstance(given, list) and given and isinstance(given[0], int | list):
        raise PydanticCustomError(
            "unsupported_content",
            "Token ids can't be read: they are of another model's vocabulary. Send texts; "
            "with LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False).",
        )
    return given


class EmbeddingRequest(BaseModel):
    """The supported parameters."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    input: Annotated[
        Text | Annotated[list[Text], Field(min_length=1, max_length=INPUTS, fail_fast=True)],
        BeforeValidator(_no_tokens),
    ]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, WithJsonSchema({"type": "integer", "enum": [DIMENSIONS]})] | None = None


async def create(request: web.Request) -> web.Response:
    """Embed texts. A text beyond the model's length is truncated, and its index is listed under ``loquent``."""
    backend = request.app[BACKEND]
    asked = requests.read(await requests.body(request), EmbeddingRequest, ignored={"user": "any"})
    if asked.dimensions not in (None, DIMENSIONS):
        raise ApiError(400, "unsupported_value", f"dimensions: this model has {DIMENSIONS}.", "dimensions")
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    check_lengths(texts, backend.settings.limits.message_bytes)
    embedder = _named(backend, asked.model)
    await backend.pipeline.wait_until(lambda: embedder.ready)
    data: list[str] = []  # as JSON: serialising thousands at once would block the event loop
    tokens = 0
    cut: list[int] = []
    for start in range(0, len(texts), TOGETHER):
        found = await embedder.embed([Passage(text) for text in texts[start : start + TOGETHER]], bulk=True)
        for index, each in enumerate(found, start):
            data.append(_dumped(index, each, asked.encoding_format))
            tokens += each.tokens
            if each.rows > 1:
                cut.append(index)
    body: dict[str, Any] = {"model": embedder.name, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
    if cut:
        body["loquent"] = {"truncated": cut}
    text = f'{{"object": "list", "data": [{", ".join(data)}], {json.dumps(body)[1:]}'
    return web.Response(text=text, content_type="application/json")


def _named(backend: Backend, model: str | None) -> Embeds:
    """The embedder that a request means. Raises: ApiError 404 where no stage brings it, StageError."""
    here = backend.embedding_models
    if not here:
        raise ApiError(
            404, "embeddings_not_found", "This server does not embed: [pipeline] stages lacks 'anomaly' and 'image'."
        )
    if model in USED_BY and model not in here:  # another's vectors would be worthless beside its own
        lacks = f"[pipeline] stages lacks {USED_BY[model]!r}, which uses it; there is {', '.join(here)}"
        raise ApiError(404, "model_not_found", f"{model} is not loaded: {lacks}.", "model")
    return backend.pipeline.shared.embedders[backend.names_of("embeddings").resolve(model)]


def check_lengths(texts: Sequence[str], longest: int) -> None:
    """Raises: ApiError 413 for a text of more than ``longest`` characters."""
    for index, text in enumerate(texts):
        if len(text) > longest:
            where = f"input.{index}" if len(texts) > 1 else "input"
            raise ApiError(413, "request_too_large", f"{where}: a text may have at most {longest} characters.", where)


def _dumped(index: int, embedding: Embedding, format: Literal["float", "base64"]) -> str:
    value = (
        base64.b64encode(embedding.whole.astype("<f4").tobytes()).decode()
        if format == "base64"
        else embedding.whole.tolist()
    )
    return json.dumps({"object": "embedding", "index": index, "embedding": value})
