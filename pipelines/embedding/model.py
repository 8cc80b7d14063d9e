"""A model of sentence embeddings: texts in rows of tokens, rows in forward passes of few shapes.

A text's embedding has unit length and is the mean of its tokens' embeddings. What is longer than a row is read in
several. Windows of a text are embedded along with it for nothing: each is the mean of the whole's token embeddings over
it, so that a window knows its surroundings ("late chunking", Günther et al. 2024).
"""

import os
from collections.abc import Generator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.embedding.passages import DIMENSIONS, Embedding, Floats, Passage, Span

if TYPE_CHECKING:  # which loads PyTorch
    from pipelines.embedding.encoder import Encoder

TOKENS = 256  # of a text that are read
ROWS = 16  # of one text; of more, the first and the last are read
# How windows are made; stored beside stored embeddings.
RECIPE = "rows of 256 tokens, spans pooled by where tokens end, activations of 8 bits"

Passes = Generator[None, None, list[Embedding]]  # between two of them other texts may be embedded


def advance(passes: Passes) -> list[Embedding] | None:
    """Compute one more forward pass; the embeddings, if it was the last one."""
    try:
        next(passes)
    except StopIteration as end:
        found: list[Embedding] = end.value
        return found
    return None


class EmbeddingModel:
    """A loaded model. Not for two threads at a time."""

    def __init__(self, name: str, tokenizer: Any, encoder: "Encoder") -> None:
        """``tokenizer`` is one of the package ``tokenizers``, which adds what the model wants around a text."""
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its pool would take every core for a batch
        self.name = name
        self._encoder = encoder
        self._tokenizer = tokenizer
        self._tokenizer.enable_truncation(TOKENS)  # a text that is too long has several rows
        self._tokenizer.no_padding()

    def embed(self, passages: Sequence[Passage], *, threads: int = 1) -> list[Embedding]:
        """Embed the texts, those of about one length together."""
        passes = self.passes(passages, threads=threads)
        while (found := advance(passes)) is None:
            pass
        return found

    def passes(self, passages: Sequence[Passage], *, threads: int = 1) -> Passes:
        """Embed the texts as ``embed`` does, and yield between two forward passes of few tokens."""
        texts = [_ends([first, *first.overflowing]) for first in self._tokens([each.text for each in passages])]
        rows = [row for text in texts for row in text]
        found: dict[int, tuple[Floats, Floats]] = {}
        for group in self._encoder.passes([len(row) for row in rows]):
            if found:
                yield
            tokens = self._encoder([rows[row].ids for row in group], threads=threads)
            wholes = _unit(np.stack([each.mean(0) for each in tokens]))
            found |= zip(group, zip(wholes, tokens, strict=True), strict=True)
        numbers = iter(range(len(rows)))
        return [
            _joined([(*found[next(numbers)], row.offsets) for row in text], passage.windows)
            for text, passage in zip(texts, passages, strict=True)
        ]

    def _tokens(self, texts: list[str]) -> list[Any]:
        """The first rows of the texts; each knows the others of its text."""
        first: list[Any] = self._tokenizer.encode_batch(texts)
        return first


def _ends(rows: list[Any]) -> list[Any]:
    """The rows of one text, or of too many the first and the last."""
    return rows if len(rows) <= ROWS else rows[: ROWS // 2] + rows[-ROWS // 2 :]


def _joined(rows: Sequence[tuple[Floats, Floats, Sequence[Span]]], spans: tuple[Span, ...]) -> Embedding:
    """One text's rows, each with its tokens and where in the text they are: the first row is the whole."""
    offsets = [np.array(each) for _, _, each in rows]
    found: list[tuple[Span, Floats]] = []
    for (whole, _, _), of_row in zip(rows[1:], offsets[1:], strict=True):
        real = of_row[of_row[:, 1] > of_row[:, 0]]
        found.append(((int(real[0, 0]), int(real[-1, 1])) if len(real) else (0, 0), whole))
    tokens, everywhere = np.concatenate([each for _, each, _ in rows]), np.concatenate(offsets)
    starts, ends = everywhere[:, 0], everywhere[:, 1]
    real = ends > starts  # the model's own tokens have no characters
    for start, end in spans:
        inside = real & (ends > start) & (ends <= end)  # a token may begin with the space before its word
        if inside.sum() >= 3:
            found.append(((start, end), tokens[inside].mean(0)))
    parts = np.array([part for _, part in found], dtype=np.float32).reshape(-1, DIMENSIONS)
    return Embedding(rows[0][0], _unit(parts), len(rows[0][1]), len(rows), tuple(span for span, _ in found))


def _unit(vectors: Floats) -> Floats:
    lengths: Floats = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)
    unit: Floats = (vectors / np.maximum(lengths, 1e-9)).astype(np.float32)
    return unit
