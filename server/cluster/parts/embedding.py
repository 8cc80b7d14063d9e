"""Embedding, for gateways whose embedding models are elsewhere: both ends of it."""

import threading
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from pipelines.downloads.progress import Progress
from pipelines.embedding.interface import Embeds
from pipelines.embedding.passages import DIMENSIONS, Embedding, Passage, Span
from pipelines.events import StageError
from server.cluster.parts.answering import Load
from server.cluster.parts.asking import Replicas
from server.cluster.parts.wire import OF_FLOAT, Frame, MalformedError, floats

EMBED = "embed"
NOT_READY = "embeddings_not_ready"


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    bulk: bool
    passages: list[tuple[str, tuple[Span, ...]]]


class _Found(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    embeddings: list[tuple[int, int, tuple[Span, ...]]]  # tokens, rows, spans


def not_ready() -> StageError:
    """That nothing can be embedded now."""
    return StageError("unavailable", NOT_READY, "The embedding model is not ready.")


class EmbeddingAnswers:
    """Embeds for gateways, on a replica."""

    def __init__(self, embedders: Mapping[str, Embeds], load: Load) -> None:
        """``embedders`` by the names of their models."""
        self._embedders = embedders
        self._load = load

    async def __call__(self, request: Frame) -> AsyncGenerator[Frame]:
        """An answer to ``RemoteEmbedder``."""
        asked = _Asked.model_validate(request.head)
        embedder = self._embedders.get(asked.model)
        if embedder is None:
            raise StageError("unavailable", NOT_READY, "This replica has no such embedding model.")
        passages = [Passage(text, windows) for text, windows in asked.passages]
        with self._load.of(len(passages)):
            yield pack(await embedder.embed(passages, bulk=asked.bulk))


class RemoteEmbedder:
    """Embeds with a model that replicas have; see ``Embeds``."""

    imports: tuple[str, ...] = ()

    def __init__(self, name: str, replicas: Replicas) -> None:
        self.name = name
        self._replicas = replicas

    @property
    def ready(self) -> bool:
        """Whether a replica may be asked."""
        return self._replicas.ready

    def prepare(self, stop: threading.Event) -> Iterator[Progress]:
        """Nothing is loaded here."""
        return iter(())

    async def start(self) -> None:
        """Wait for the first replica."""
        await self._replicas.start()

    async def close(self) -> None:
        """End every request."""
        await self._replicas.close()

    async def embed(self, passages: Sequence[Passage], *, bulk: bool = False) -> list[Embedding]:
        """See ``Embeds``."""
        asked = [(each.text, each.windows) for each in passages]
        head = {"model": self.name, "bulk": bulk, "passages": asked}
        return await self._replicas.ask_once(EMBED, head, lambda answer: unpack(answer, len(passages)))


def pack(embeddings: Sequence[Embedding]) -> Frame:
    """Embeddings as they are sent: of each the whole, then its windows."""
    arrays = [part for each in embeddings for part in (each.whole[None], each.windows)]
    numbers = np.concatenate(arrays).astype("<f4") if arrays else np.zeros((0, DIMENSIONS), "<f4")
    return Frame({"embeddings": [(each.tokens, each.rows, each.spans) for each in embeddings]}, numbers.tobytes())


def unpack(frame: Frame, count: int) -> list[Embedding]:
    """The ``count`` embeddings that were sent. Raises: MalformedError."""
    try:
        said = _Found.model_validate(frame.head).embeddings
    except ValidationError:
        raise MalformedError("embeddings that can't be read") from None
    rows = sum(1 + len(spans) for _, _, spans in said)
    if len(said) != count or len(frame.body) != rows * DIMENSIONS * OF_FLOAT:
        raise MalformedError("not as many embeddings as were asked for")
    numbers = floats(frame.body).reshape(rows, DIMENSIONS)
    found, at = [], 0
    for tokens, of_text, spans in said:
        found.append(Embedding(numbers[at], numbers[at + 1 : at + 1 + len(spans)], tokens, of_text, spans))
        at += 1 + len(spans)
    return found
