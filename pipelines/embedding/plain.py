"""A BERT encoder as a flat list of PyTorch's operations, for processors that the kernels have no products for.

BERT's modules take as long in Python, with the interpreter's lock, as a short text takes in the operations themselves,
and PyTorch's linear layers put their weights into oneDNN's order again at every call. Here a layer is ten operations,
on weights that are packed once.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from pipelines.embedding import encoder
from pipelines.embedding.encoder import PASS, Affine, LayerWeights, Weights
from pipelines.embedding.passages import Floats

# The shapes of a forward pass. oneDNN and PyTorch keep what they compiled for each shape that they meet, and texts of
# every length beside every number of others took 600 MB.
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16)  # rows
LENGTHS = (8, 16, 20, 24, 28, 32, 48, 64, 96, 128, 192, 256)  # tokens of a row
ROWS_HINT = 32  # for which oneDNN chooses the order of packed weights; others are as fast
LONG = 64  # tokens from which on attention is faster in the model's dtype than in float32


class Linear:
    """x Wᵀ + b, with what follows it in the same operation."""

    def __init__(self, dtype: torch.dtype, *parts: Affine) -> None:
        self._weight = torch.cat([part.matrix.dense().to(dtype) for part in parts])  # of several, one product
        self._bias = torch.cat([part.bias.to(dtype) for part in parts])
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


class Norm:
    """Layer normalisation."""

    def __init__(self, dtype: torch.dtype, weights: encoder.Norm, epsilon: float) -> None:
        self._weight, self._bias = weights.weight.to(dtype), weights.bias.to(dtype)
        self._epsilon = epsilon

    def __call__(self, hidden: Tensor) -> Tensor:
        """(…, width) → (…, width)."""
        return F.layer_norm(hidden, self._weight.shape, self._weight, self._bias, self._epsilon)


class Layer:
    """One layer of the encoder."""

    def __init__(self, dtype: torch.dtype, weights: LayerWeights, epsilon: float) -> None:
        self.heads = Linear(dtype, weights.query, weights.key, weights.value)
        self.mixed = Linear(dtype, weights.mixed)
        self.after_attention = Norm(dtype, weights.after_attention, epsilon)
        self.up = Linear(dtype, weights.up)
        self.down = Linear(dtype, weights.down)
        self.after = Norm(dtype, weights.after, epsilon)


class PlainEncoder:
    """The token embeddings, by PyTorch."""

    def __init__(self, weights: Weights, dtype: torch.dtype) -> None:
        self._words = weights.words
        self._places = weights.places.to(dtype)
        self._first = Norm(dtype, weights.first, weights.epsilon)
        self._layers = [Layer(dtype, each, weights.epsilon) for each in weights.layers]
        self._heads = weights.heads

    def passes(self, lengths: Sequence[int]) -> list[list[int]]:
        """Texts of about one length together, with little padding: it costs as much as text."""
        passes: list[list[int]] = []
        shortest = 0
        for row in sorted(range(len(lengths)), key=lengths.__getitem__):
            together = _rounded(len(passes[-1]) + 1, COUNTS) * _rounded(lengths[row], LENGTHS) if passes else 0
            if not passes or lengths[row] > 1.5 * shortest + 16 or together > PASS or len(passes[-1]) == COUNTS[-1]:
                passes.append([])
                shortest = lengths[row]
            passes[-1].append(row)
        return passes

    def __call__(self, rows: Sequence[Sequence[int]], *, threads: int = 1) -> list[Floats]:
        """Rows of token ids → the embeddings of each one's tokens, (tokens, width)."""
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)  # of this thread only
        lengths = [len(row) for row in rows]
        count, length = _rounded(len(rows), COUNTS), _rounded(max(lengths), LENGTHS)
        more = count - len(rows)
        padded = [[*row, *[0] * (length - len(row))] for row in [*rows, *[rows[0]] * more]]
        with torch.inference_mode():
            output = self.forward(torch.tensor(padded), torch.tensor([*lengths, *lengths[:1] * more]))
        return [tokens[:each] for tokens, each in zip(output.numpy(), lengths, strict=False)]

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Token ids (B, T), of which so many are real (B,) → token embeddings (B, T, width) in float32."""
        rows, tokens = ids.shape
        padding = torch.arange(tokens) >= lengths[:, None]  # (B, T)
        exact = torch.float32 if tokens < LONG else self._places.dtype
        mask = torch.zeros(rows, 1, 1, tokens, dtype=exact).masked_fill_(padding[:, None, None], -1e9)
        mask = mask.expand(-1, self._heads, -1, -1).flatten(0, 1)  # (B · heads, 1, T)
        words = self._words(ids).to(self._places.dtype)
        hidden = self._first(words + self._places[:tokens]).flatten(0, 1)
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


def _rounded(number: int, steps: Sequence[int]) -> int:
    """The next of the steps; above the last one, its next multiple."""
    return next((step for step in steps if step >= number), -(-number // steps[-1]) * steps[-1])
