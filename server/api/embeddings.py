"""``POST /v1/embeddings``: what sentences mean, as numbers, in OpenAI's shape."""

import base64
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from pipelines.embed import DIMENSIONS, NAME, TOKENS, Embedding, Passage
from server.api import requests
from server.api.moderations import screening
from server.backend import BACKEND
from server.errors import ApiError

INPUTS = 2048  # of one request
TOGETHER = 16  # texts that are asked for at a time; others have their turn between

Text = Annotated[str, Field(min_length=1)]


class EmbeddingRequest(BaseModel):
    """The parameters that mean something here."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    input: Text | Annotated[list[Text], Field(min_length=1, max_length=INPUTS)]
    model: str | None = None
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


async def create(request: web.Request) -> web.Response:
    """Embed texts. A text beyond the model's length is read to there, and named under ``loquent``."""
    backend = request.app[BACKEND]
    asked = requests.read(await requests.body(request), EmbeddingRequest, ignored={"user": "any"})
    if asked.dimensions not in (None, DIMENSIONS):
        raise ApiError(400, "unsupported_value", f"dimensions: this model has {DIMENSIONS}.", "dimensions")
    backend.names.resolve(asked.model)
    embedder = screening(backend).embedder
    texts = [asked.input] if isinstance(asked.input, str) else asked.input
    found: list[Embedding] = []
    for start in range(0, len(texts), TOGETHER):
        found += await embedder.embed([Passage(text) for text in texts[start : start + TOGETHER]], bulk=True)
    tokens = sum(each.tokens for each in found)
    body: dict[str, Any] = {
        "object": "list",
        "data": [
            {"object": "embedding", "index": index, "embedding": _encoded(each, asked.encoding_format)}
            for index, each in enumerate(found)
        ],
        "model": NAME,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }
    if cut := [index for index, each in enumerate(found) if each.tokens >= TOKENS]:
        body["loquent"] = {"truncated": cut}
    return web.json_response(body)


def _encoded(embedding: Embedding, format: Literal["float", "base64"]) -> list[float] | str:
    if format == "base64":
        return base64.b64encode(embedding.whole.astype("<f4").tobytes()).decode()
    return [float(value) for value in embedding.whole]
