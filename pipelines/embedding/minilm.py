"""One MiniLM for every stage: sentence embeddings, computed by a thread of its own in small batches.

The model is all-MiniLM-L6-v2 through sentence-transformers: 384 dimensions, unit length, 256 tokens; what is longer
is read in several rows. Windows of a text are embedded along with it for nothing: each is the mean of the whole's token
embeddings over it, so that a window knows its surroundings ("late chunking", Günther et al. 2024).
"""

import logging
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.downloads.catalogue import PACKAGES
from pipelines.downloads.fetch import install
from pipelines.downloads.progress import Progress
from pipelines.loading import one_at_a_time

Floats = NDArray[np.float32]
Span = tuple[int, int]  # of characters
DIMENSIONS = 384
TOKENS = 256  # of a text that are read
ROWS = 16  # of one text; of more, the first and the last are read
# The shapes of a forward pass. oneDNN and PyTorch keep what they compiled for each shape that they meet, and texts of
# every length beside every number of others took 600 MB.
COUNTS = (1, 2, 3, 4, 6, 8, 12, 16)  # rows
LENGTHS = (8, 16, 24, 32, 48, 64, 96, 128, 192, TOKENS)  # tokens of a row
NAME = "all-minilm-l6-v2"
RECIPE = "rows of 256 tokens, spans pooled"  # how windows are made; stored beside stored embeddings


@dataclass(frozen=True, slots=True)
class Passage:
    """A text to embed, and spans of it."""

    text: str
    windows: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Embedding:
    """A text's embedding, and those of its parts."""

    whole: Floats  # (DIMENSIONS,), of its first ``TOKENS`` tokens
    windows: Floats  # (N, DIMENSIONS): what lies beyond those, and the spans that hold at least three tokens
    tokens: int = 0  # of the whole
    rows: int = 1  # that the text took


class MiniLM:
    """The loaded model. Not for two threads at a time."""

    def __init__(self, folder: Path, *, exact: bool = False) -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # of a load that takes a moment
        logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
        # Of this thread: an idle team that loading leaves behind makes OpenMP count more threads than cores. It then
        # waits passively at every barrier, and the language model's steps take twice as long.
        torch.set_num_threads(1)
        with one_at_a_time:
            self._model = SentenceTransformer(
                str(folder),
                device="cpu",
                local_files_only=True,
                model_kwargs={"dtype": torch.float32},  # any other would be everybody's default meanwhile
            )
        if not exact and torch.ops.mkldnn._is_mkldnn_bf16_supported():
            self._model.bfloat16()
        self._torch = torch

    def embed(self, passages: Sequence[Passage], *, threads: int = 1) -> list[Embedding]:
        """Embed the texts, those of about one length together."""
        if self._torch.get_num_threads() != threads:
            self._torch.set_num_threads(threads)  # of this thread only
        rows: Any = self._model.tokenizer(
            [passage.text for passage in passages],
            truncation=True,
            max_length=TOKENS,
            return_overflowing_tokens=True,  # a text that is too long has several rows
            return_offsets_mapping=True,
        )
        of: list[int] = list(rows["overflow_to_sample_mapping"])
        used = [row for n in range(len(passages)) for row in _ends([row for row, each in enumerate(of) if each == n])]
        found: dict[int, tuple[Floats, Floats]] = {}
        for group in _of_one_length({row: len(rows["input_ids"][row]) for row in used}):
            found |= zip(group, self._together([rows["input_ids"][row] for row in group]), strict=True)
        return [
            _joined([(*found[row], rows["offset_mapping"][row]) for row in used if of[row] == n], passage.windows)
            for n, passage in enumerate(passages)
        ]

    def _together(self, rows: Sequence[Sequence[int]]) -> list[tuple[Floats, Floats]]:
        """Embed rows of token ids in one pass, padded to a shape of few: each row's own embedding, and its tokens'."""
        torch = self._torch
        count, length = _rounded(len(rows), COUNTS), _rounded(max(map(len, rows)), LENGTHS)
        padded = [*rows, *[rows[0]] * (count - len(rows))]
        batch: Any = self._model.tokenizer.pad(
            {"input_ids": padded}, padding="max_length", max_length=length, return_tensors="pt"
        )
        with torch.inference_mode():
            output = self._model(dict(batch))
        tokens: Floats = output["token_embeddings"][: len(rows)].float().numpy()  # (N, T, DIMENSIONS)
        wholes = _unit(output["sentence_embedding"][: len(rows)].float().numpy())
        return [(whole, tokens[n, : len(row)]) for n, (whole, row) in enumerate(zip(wholes, rows, strict=True))]


def _rounded(number: int, steps: Sequence[int]) -> int:
    """The next of the steps; above the last one, its next multiple."""
    return next((step for step in steps if step >= number), -(-number // steps[-1]) * steps[-1])


def _ends(rows: list[int]) -> list[int]:
    """The rows of one text, or of too many the first and the last."""
    return rows if len(rows) <= ROWS else rows[: ROWS // 2] + rows[-ROWS // 2 :]


def _of_one_length(lengths: Mapping[int, int]) -> list[list[int]]:
    """The rows, by number of tokens, in groups with little padding: it costs as much as text."""
    groups: list[list[int]] = []
    shortest = 0
    for row in sorted(lengths, key=lengths.__getitem__):
        if not groups or lengths[row] > 1.5 * shortest + 16:
            groups.append([])
            shortest = lengths[row]
        groups[-1].append(row)
    return groups


def _joined(rows: Sequence[tuple[Floats, Floats, Sequence[Span]]], spans: tuple[Span, ...]) -> Embedding:
    """One text's rows, each with its tokens and where in the text they are: the first row is the whole."""
    parts = [whole for whole, _, _ in rows[1:]]
    for _, tokens, spans_of_tokens in rows:
        offsets = np.array(spans_of_tokens)
        starts, ends = offsets[:, 0], offsets[:, 1]
        real = ends > starts  # the model's own tokens have no characters
        for start, end in spans:
            inside = real & (starts >= start) & (ends <= end)
            if inside.sum() >= 3:
                parts.append(tokens[inside].mean(0))
    windows = _unit(np.array(parts, dtype=np.float32)) if parts else np.zeros((0, DIMENSIONS), dtype=np.float32)
    return Embedding(rows[0][0], windows, len(rows[0][1]), len(rows))


def _unit(vectors: Floats) -> Floats:
    lengths: Floats = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)
    unit: Floats = (vectors / np.maximum(lengths, 1e-9)).astype(np.float32)
    return unit


def prepare(stop: threading.Event) -> Generator[Progress, None, Path]:
    """Put the model into the cache; returns its folder. Raises: PackageError."""
    return (yield from install(PACKAGES[NAME], stop)).parent
