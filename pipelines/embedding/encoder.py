"""A BERT encoder as a flat list of operations.

BERT's modules take as long in Python, with the interpreter's lock, as a short text takes in the operations themselves,
and PyTorch's linear layers put their weights into oneDNN's order again at every call. Here a layer is ten operations,
on weights that are packed once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

ROWS_HINT = 32  # for which oneDNN chooses the order of packed weights; others are as fast
LONG = 64  # tokens from which on attention is faster in the model's dtype than in float32


@dataclass(frozen=True, slots=True)
class Affine:
    """Weight and bias, of a linear layer (outputs, inputs) or of a layer normalisation (width,)."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """Of one layer."""

    query: Affine
    key: Affine
    value: Affine
    mixed: Affine
    after_attention: Affine
    up: Affine
    down: Affine
    after: Affine


class Words(Protocol):
    """The embeddings of a vocabulary."""

    def __call__(self, ids: Tensor) -> Tensor:
        """(B, T) → (B, T, width), in the model's dtype."""
        ...


@dataclass(frozen=True, slots=True)
class Table:
    """The embeddings as they are: (vocabulary, width)."""

    weight: Tensor

    def __call__(self, ids: Tensor) -> Tensor:
        """(B, T) → (B, T, width)."""
        return F.embedding(ids, self.weight)


@dataclass(frozen=True, slots=True)
class Weights:
    """Of a BERT whose activation is GELU, and whose tokens are all of one kind."""

    words: Words
    places: Tensor  # (longest, width): of positions, and of the tokens' kind
    first: Affine
    layers: Sequence[LayerWeights]
    heads: int
    epsilon: float


class Linear:
    """x Wᵀ + b, with what follows it in the same operation."""

    def __init__(self, *parts: Affine) -> None:
        self._weight = torch.cat([part.weight for part in parts])  # of several, one product
        self._bias = torch.cat([part.bias for part in parts])
        self._packed = torch.backends.mkldnn.is_available()
        if self._packed:
            self._weight = torch.ops.mkldnn._reorder_linear_weight(self._weight, ROWS_HINT)

    def __call__(self, inputs: Tensor) -> Tensor:
        """(N, inputs) → (N, outputs)."""
        return self._then("none", inputs) if self._packed else F.linear(inputs, self._weight, self._bias)

    def gelu(self, inputs: Tensor) -> Tensor:
        """(N, inputs) → (N, outputs), through the exact GELU."""
        return self._then("gelu", inputs) if self._packed else F.gelu(F.linear(inputs, self._weight, self._bias))

    def plus(self, inputs: Tensor, residual: Tensor) -> Tensor:
        """(N, inputs) → (N, outputs), added to the residual."""
        if not self._packed:
            return residual + F.linear(inputs, self._weight, self._bias)
        found: Tensor = torch.ops.mkldnn._linear_pointwise.binary(inputs, residual, self._weight, self._bias, "add")
        return found

    def _then(self, activation: str, inputs: Tensor) -> Tensor:
        found: Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self._weight, self._bias, activation, [], "none")
        return found


@dataclass(frozen=True, slots=True)
class Norm:
    """Layer normalisation."""

    weights: Affine
    epsilon: float

    def __call__(self, hidden: Tensor) -> Tensor:
        """(…, width) → (…, width)."""
        weight = self.weights.weight
        return F.layer_norm(hidden, weight.shape, weight, self.weights.bias, self.epsilon)


class Layer:
    """One layer of the encoder."""

    def __init__(self, weights: LayerWeights, epsilon: float) -> None:
        self.heads = Linear(weights.query, weights.key, weights.value)
        self.mixed = Linear(weights.mixed)
        self.after_attention = Norm(weights.after_attention, epsilon)
        self.up = Linear(weights.up)
        self.down = Linear(weights.down)
        self.after = Norm(weights.after, epsilon)


class Encoder:
    """The token embeddings, on a processor."""

    def __init__(self, weights: Weights) -> None:
        self._words = weights.words
        self._places = weights.places
        self._first = Norm(weights.first, weights.epsilon)
        self._layers = [Layer(each, weights.epsilon) for each in weights.layers]
        self._heads = weights.heads

    def __call__(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Token ids (B, T), of which so many are real (B,) → token embeddings (B, T, width) in float32."""
        rows, tokens = ids.shape
        padding = torch.arange(tokens) >= lengths[:, None]  # (B, T)
        exact = torch.float32 if tokens < LONG else self._places.dtype
        mask = torch.zeros(rows, 1, 1, tokens, dtype=exact).masked_fill_(padding[:, None, None], -1e9)
        mask = mask.expand(-1, self._heads, -1, -1).flatten(0, 1)  # (B · heads, 1, T)
        hidden = self._first(self._words(ids) + self._places[:tokens]).flatten(0, 1)
        for layer in self._layers:
            mixed = self._attention(layer.heads(hidden), mask)
            hidden = layer.after_attention(layer.mixed.plus(mixed, hidden))
            hidden = layer.after(layer.down.plus(layer.up.gelu(hidden), hidden))
        return hidden.view(rows, tokens, -1).float()

    def _attention(self, projected: Tensor, mask: Tensor) -> Tensor:
        """Queries, keys and values (B · T, 3 · width) → (B · T, width)."""
        heads, tokens = mask.shape[0], mask.shape[2]
        split = projected.to(mask.dtype).view(heads // self._heads, tokens, 3, self._heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4).reshape(3, heads, tokens, -1).unbind(0)
        scores = torch.baddbmm(mask, query, key.transpose(1, 2), alpha=query.shape[2] ** -0.5)
        mixed = torch.bmm(scores.softmax(-1), value).view(-1, self._heads, tokens, query.shape[2])
        return mixed.transpose(1, 2).reshape(projected.shape[0], -1).to(projected.dtype)
