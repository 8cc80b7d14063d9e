"""A BERT encoder as one call of the kernels: weights in 4 or 8 bits, no padding, none of the interpreter's lock.

What a text gets does not depend on what is computed along with it.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from pipelines import kernels
from pipelines.embedding.encoder import PASS, Affine, LayerWeights, Matrix, Weights
from pipelines.embedding.passages import Floats
from pipelines.kernels import Form
from pipelines.kernels.quantise import GROUP, Packed

HEAD = 32  # dimensions of a head, which the kernel is written for


def can_be_packed(weights: Weights) -> bool:
    """Whether the kernel can run such an encoder."""
    width, sizes = weights.places.shape[1], [layer.up.matrix.shape[0] for layer in weights.layers]
    return weights.heads * HEAD == width and all(size % GROUP == 0 for size in sizes)


class PackedEncoder:
    """The token embeddings, by the kernels."""

    def __init__(self, weights: Weights, form: Form) -> None:
        self._words = weights.words
        tensors = [weights.places, weights.first.weight, weights.first.bias]
        for layer in weights.layers:
            tensors += _tensors(layer, form)
        contiguous = [each.contiguous() for each in tensors]
        self._encoder = torch.classes.loquent.Encoder(contiguous, int(form), weights.epsilon)

    def passes(self, lengths: Sequence[int]) -> list[list[int]]:
        """As many texts together as have ``PASS`` tokens, in their order."""
        passes: list[list[int]] = []
        tokens = PASS
        for row, length in enumerate(lengths):
            if tokens + length > PASS:
                passes.append([])
                tokens = 0
            passes[-1].append(row)
            tokens += length
        return passes

    def __call__(self, rows: Sequence[Sequence[int]], *, threads: int = 1) -> list[Floats]:
        """Rows of token ids → the embeddings of each one's tokens, (tokens, width)."""
        if threads > 1:
            kernels.use_threads(threads)
        lengths = [len(row) for row in rows]
        with torch.inference_mode():
            words = self._words(torch.tensor([id for row in rows for id in row]))
            tokens: Floats = self._encoder.run(words, lengths, threads == 1).numpy()
        return np.split(tokens, np.cumsum(lengths)[:-1])


def _tensors(layer: LayerWeights, form: Form) -> list[Tensor]:
    """A layer's, in the order in which encoder.h takes them.

    A bias of the keys adds the same to all scores of a query, which changes nothing. What a bias of the values adds to
    every mixture of them is added behind the next product.
    """
    mixed = layer.mixed.matrix.dense() @ layer.value.bias + layer.mixed.bias
    return [
        _packed([layer.query, layer.key, layer.value], form),
        layer.query.bias,
        _packed([layer.mixed], form),
        mixed,
        layer.after_attention.weight,
        layer.after_attention.bias,
        _packed([layer.up], form),
        layer.up.bias,
        _packed([layer.down], form),
        layer.down.bias,
        layer.after.weight,
        layer.after.bias,
    ]


def _packed(parts: Sequence[Affine], form: Form) -> Tensor:
    """The weights of one product, whose parts are coded alike."""
    matrices: list[Matrix] = [part.matrix for part in parts]
    layout, inputs = matrices[0].layout.within(form), matrices[0].shape[1]
    packed = Packed(sum(matrix.shape[0] for matrix in matrices), inputs, layout, form)
    for matrix in matrices:
        packed.add(*matrix.groups(layout))
    return packed.tensor
