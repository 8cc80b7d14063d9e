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
# The shapes of a forward pass. oneDNN and PyTorch keep what they compiled for each shape that they meet, and texts of
# every length beside every number of others took 600 MB.
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16)  # rows
LENGTHS = (8, 16, 20, 24, 28, 32, 48, 64, 96, 128, 192, TOKENS)  # tokens of a row
PASS = 256  # tokens of one, padded: what a core needs a frame of video for, so that nothing else waits longer
RECIPE = "rows of 256 tokens, spans pooled by where tokens end"  # how windows are made; stored beside stored embeddings

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
        import torch

        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its pool would take every core for a batch
        self.name = name
        self._torch = torch
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
        """Embed the texts as ``embed`` does, and yield between two forward passes of ``PASS`` tokens at most."""
        texts = [_ends([first, *first.overflowing]) for first in self._tokens([each.text for each in passages])]
        rows = [row for text in texts for row in text]
        found: dict[int, tuple[Floats, Floats]] = {}
        for group in _passes([len(row) for row in rows]):
            if found:
                yield
            if self._torch.get_num_threads() != threads:
                self._torch.set_num_threads(threads)  # of this thread only
            found |= zip(group, self._together([rows[row].ids for row in group]), strict=True)
        numbers = iter(range(len(rows)))
        return [
            _joined([(*found[next(numbers)], row.offsets) for row in text], passage.windows)
            for text, passage in zip(texts, passages, strict=True)
        ]

    def _tokens(self, texts: list[str]) -> list[Any]:
        """The first rows of the texts; each knows the others of its text."""
        first: list[Any] = self._tokenizer.encode_batch(texts)
        return first

    def _together(self, rows: Sequence[Sequence[int]]) -> list[tuple[Floats, Floats]]:
        """Embed rows of token ids in one pass, padded to a shape of few: each row's own embedding, and its tokens'."""
        torch = self._torch
        lengths = [len(row) for row in rows]
        count, length = _rounded(len(rows), COUNTS), _rounded(max(lengths), LENGTHS)
        more = count - len(rows)
        padded = [[*row, *[0] * (length - len(row))] for row in [*rows, *[rows[0]] * more]]
        with torch.inference_mode():
            output = self._encoder(torch.tensor(padded), torch.tensor([*lengths, *lengths[:1] * more]))
        embedded: list[Floats] = [tokens[:each] for tokens, each in zip(output.numpy(), lengths, strict=False)]
        wholes = _unit(np.stack([tokens.mean(0) for tokens in embedded]))
        return list(zip(wholes, embedded, strict=True))


def _rounded(number: int, steps: Sequence[int]) -> int:
    """The next of the steps; above the last one, its next multiple."""
    return next((step for step in steps if step >= number), -(-number // steps[-1]) * steps[-1])


def _ends(rows: list[Any]) -> list[Any]:
    """The rows of one text, or of too many the first and the last."""
    return rows if len(rows) <= ROWS else rows[: ROWS // 2] + rows[-ROWS // 2 :]


def _passes(lengths: Sequence[int]) -> list[list[int]]:
    """The rows of so many tokens, in passes with little padding: it costs as much as text."""
    passes: list[list[int]] = []
    shortest = 0
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        together = _rounded(len(passes[-1]) + 1, COUNTS) * _rounded(lengths[row], LENGTHS) if passes else 0
        if not passes or lengths[row] > 1.5 * shortest + 16 or together > PASS or len(passes[-1]) == COUNTS[-1]:
            passes.append([])
            shortest = lengths[row]
        passes[-1].append(row)
    return passes


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
