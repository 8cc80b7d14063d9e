"""MiniLM's encoder as a flat list of operations.

BERT's modules take as long in Python, with the interpreter's lock, as a short text takes in the operations themselves,
and PyTorch's linear layers put their weights into oneDNN's order again at every call. Here a layer is ten operations,
on weights that are packed once.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import LayerNorm
from torch.nn import functional as F  # noqa: N812 - its usual name

ROWS_HINT = 32  # for which oneDNN chooses the order of packed weights; others are as fast
LONG = 64  # tokens from which on attention is faster in the model's dtype than in float32


class Linear:
    """x Wᵀ + b, with what follows it in the same operation."""

    def __init__(self, *parts: torch.nn.Linear) -> None:
        self._weight = torch.cat([part.weight.detach() for part in parts])  # of several, one product
        self._bias = torch.cat([part.bias.detach() for part in parts])
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
class Layer:
    """One layer of the encoder."""

    heads: Linear  # queries, keys and values
    mixed: Linear
    after_attention: LayerNorm
    up: Linear
    down: Linear
    after: LayerNorm


def _layer(module: Any) -> Layer:
    attention = module.attention.self
    return Layer(
        heads=Linear(attention.query, attention.key, attention.value),
        mixed=Linear(module.attention.output.dense),
        after_attention=module.attention.output.LayerNorm,
        up=Linear(module.intermediate.dense),
        down=Linear(module.output.dense),
        after=module.output.LayerNorm,
    )


class Encoder:
    """The token embeddings of a ``BertModel`` whose activation is GELU, on a processor."""

    def __init__(self, bert: Any) -> None:
        embeddings = bert.embeddings
        self._words: Tensor = embeddings.word_embeddings.weight.detach()
        kind = embeddings.token_type_embeddings.weight.detach()[0]  # every token is of the first kind
        self._places: Tensor = embeddings.position_embeddings.weight.detach() + kind
        self._first: LayerNorm = embeddings.LayerNorm
        self._layers = [_layer(module) for module in bert.encoder.layer]
        self._heads: int = bert.config.num_attention_heads

    def __call__(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Token ids (B, T), of which so many are real (B,) → token embeddings (B, T, width) in float32."""
        rows, tokens = ids.shape
        padding = torch.arange(tokens) >= lengths[:, None]  # (B, T)
        exact = torch.float32 if tokens < LONG else self._words.dtype
        mask = torch.zeros(rows, 1, 1, tokens, dtype=exact).masked_fill_(padding[:, None, None], -1e9)
        mask = mask.expand(-1, self._heads, -1, -1).flatten(0, 1)  # (B · heads, 1, T)
        hidden = _normal(self._first, F.embedding(ids, self._words) + self._places[:tokens]).flatten(0, 1)
        for layer in self._layers:
            mixed = self._attention(layer.heads(hidden), mask)
            hidden = _normal(layer.after_attention, layer.mixed.plus(mixed, hidden))
            hidden = _normal(layer.after, layer.down.plus(layer.up.gelu(hidden), hidden))
        return hidden.view(rows, tokens, -1).float()

    def _attention(self, projected: Tensor, mask: Tensor) -> Tensor:
        """Queries, keys and values (B · T, 3 · width) → (B · T, width)."""
        heads, tokens = mask.shape[0], mask.shape[2]
        split = projected.to(mask.dtype).view(heads // self._heads, tokens, 3, self._heads, -1)
        query, key, value = split.permute(2, 0, 3, 1, 4).reshape(3, heads, tokens, -1).unbind(0)
        scores = torch.baddbmm(mask, query, key.transpose(1, 2), alpha=query.shape[2] ** -0.5)
        mixed = torch.bmm(scores.softmax(-1), value).view(-1, self._heads, tokens, query.shape[2])
        return mixed.transpose(1, 2).reshape(projected.shape[0], -1).to(projected.dtype)


def _normal(norm: LayerNorm, hidden: Tensor) -> Tensor:
    return F.layer_norm(hidden, norm.normalized_shape, norm.weight, norm.bias, norm.eps)
