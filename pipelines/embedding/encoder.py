"""A BERT encoder: what it is made of, and what it does."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from pipelines.embedding.passages import Floats
from pipelines.kernels.quantise import Groups, Layout

PASS = 256  # tokens of one forward pass: what a core needs a frame of video for, so that nothing else waits longer


class Matrix(Protocol):
    """The weights of a linear layer."""

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs, inputs."""

    @property
    def layout(self) -> Layout:
        """How they are packed best."""

    def dense(self) -> Tensor:
        """(outputs, inputs), float32."""

    def groups(self, layout: Layout) -> Groups:
        """The quants, and their factors, for this layout."""


@dataclass(frozen=True, slots=True)
class Affine:
    """Weight and bias of a linear layer."""

    matrix: Matrix
    bias: Tensor  # (outputs,) float32


@dataclass(frozen=True, slots=True)
class Norm:
    """Weight and bias of a layer normalisation, (width,) each, float32."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Of one layer."""

    query: Affine
    key: Affine
    value: Affine
    mixed: Affine
    after_attention: Norm
    up: Affine
    down: Affine
    after: Norm


class Words(Protocol):
    """The embeddings of a vocabulary."""

    def __call__(self, ids: Tensor) -> Tensor:
        """(…,) → (…, width), float32."""


@dataclass(frozen=True, slots=True)
class Table:
    """The embeddings as they are: (vocabulary, width)."""

    weight: Tensor

    def __call__(self, ids: Tensor) -> Tensor:
        """(…,) → (…, width), float32."""
        return F.embedding(ids, self.weight).float()


@dataclass(frozen=True, slots=True)
class Weights:
    """Of a BERT whose activation is GELU, and whose tokens are all of one kind."""

    words: Words
    places: Tensor  # (longest, width) float32: of positions, and of the tokens' kind
    first: Norm
    layers: Sequence[LayerWeights]
    heads: int
    epsilon: float


class Encoder(Protocol):
    """The token embeddings of texts. Not for two threads at a time."""

    def passes(self, lengths: Sequence[int]) -> list[list[int]]:
        """Which texts of so many tokens are computed together, by their places: ``PASS`` tokens at most, padded."""

    def __call__(self, rows: Sequence[Sequence[int]], *, threads: int = 1) -> list[Floats]:
        """Rows of token ids → the embeddings of each one's tokens, (tokens, width)."""
