"""Reads GGUF, llama.cpp's file format, versions 2 and 3: metadata and tensors over a mapping of the file.

Written after the specification (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). The file is foreign input:
each count, length and offset is checked against the file and the limits below before anything of its size is made.
"""

import math
import mmap
import struct
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.chat.model.gguf_types import ARRAY, BOOL, KINDS, NUMBERS, TEXT

if TYPE_CHECKING:
    from torch import Tensor

MAGIC = b"GGUF"
VERSIONS = (2, 3)
HEADER_BYTES = 1 << 27  # metadata and tensor infos together; a vocabulary of 262,144 tokens takes 15 MB
MAX_KEYS = 1 << 14
MAX_TENSORS = 1 << 16
MAX_ITEMS = 1 << 22  # texts and arrays inside of arrays, all together
MAX_TEXT = 1 << 24  # bytes
MAX_NAME = (1 << 16) - 1  # bytes
MAX_DIMENSIONS = 4
MAX_DEPTH = 4  # arrays in arrays
MAX_ALIGNMENT = 1 << 20
DEFAULT_ALIGNMENT = 32
SHORTEST_KEY, SHORTEST_INFO = 8 + 1 + 4 + 1, 8 + 1 + 4 + 8 + 4 + 8  # bytes in the file

U32, U64 = struct.Struct("<I"), struct.Struct("<Q")

# A text, a number, a truth value, a list of texts or of arrays, or numbers side by side in the mapping.
Value = str | int | float | bool | list[Any] | NDArray[Any]


class GgufError(ValueError):
    """The file is not GGUF, is damaged, or is made to do harm; the message says what is wrong."""


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """One tensor: where it lies in the file, and how its values are coded."""

    name: str
    kind: str  # the coding, such as "F32" or "Q4_K"
    shape: tuple[int, ...]  # outermost first, as in PyTorch; a row's blocks lie side by side
    offset: int  # bytes from the file's begin
    size: int  # bytes
    mapping: mmap.mmap = field(repr=False, compare=False)

    def raw(self) -> "Tensor":
        """Its bytes (uint8, one dimension) in the mapping, not copied; writing to them does not change the file."""
        import torch  # here, because it takes seconds, and a header needs none of it

        return torch.frombuffer(self.mapping, dtype=torch.uint8, count=self.size, offset=self.offset)

    def drop_pages(self) -> None:
        """Give back the memory that reading its bytes took; they are read from the file again when they are needed."""
        start = self.offset // mmap.PAGESIZE * mmap.PAGESIZE
        if hasattr(mmap, "MADV_DONTNEED"):
            self.mapping.madvise(mmap.MADV_DONTNEED, start, self.offset + self.size - start)


@dataclass(frozen=True, slots=True)
class GgufFile:
    """What a GGUF file holds."""

    metadata: dict[str, Value]
    tensors: dict[str, GgufTensor]


def read(path: Path) -> GgufFile:
    """Read the header of ``path`` and map its tensors; the mapping closes with the last tensor that is let go.

    Raises: GgufError when the file is no sound GGUF file; OSError when it can't be opened.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise GgufError(f"{path} is not a GGUF file: it does not begin like one.")
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # PyTorch wants memory that it may write to
    try:
        return _Header(mapping).read()
    except GgufError as error:
        raise GgufError(f"{path} is not a sound GGUF file: {error}.") from None


class _Header:
    """A position that moves through the header, and never beyond its end."""

    def __init__(self, mapping: mmap.mmap) -> None:
        self._mapping = mapping
        self._at = len(MAGIC)
        self._end = min(len(mapping), HEADER_BYTES)
        self._items = 0

    def read(self) -> GgufFile:
        version = self._u32()
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            raise GgufError("it is big-endian" if swapped in VERSIONS else f"version {version} is neither 2 nor 3")
        tensors = self._count("tensors", MAX_TENSORS, SHORTEST_INFO)
        keys = self._count("metadata keys", MAX_KEYS, SHORTEST_KEY)
        metadata = self._metadata(keys)
        infos = [self._info() for _ in range(tensors)]
        return GgufFile(metadata, self._placed(infos, _alignment(metadata)))

    def _metadata(self, count: int) -> dict[str, Value]:
        metadata: dict[str, Value] = {}
        for _ in range(count):
            key = self._name("a metadata key")
            if key in metadata:
                raise GgufError(f"the metadata key {_shown(key)} comes twice")
            try:
                metadata[key] = self._value(self._u32())
            except GgufError as error:
                raise GgufError(f"metadata key {_shown(key)}: {error}") from None
        return metadata

    def _value(self, kind: int, depth: int = 0) -> Value:
        if kind == TEXT:
            return self._text(MAX_TEXT)
        if kind == ARRAY:
            return self._array(depth)
        value: Value = self._numbers(kind, 1)[0].item()
        return value

    def _array(self, depth: int) -> Value:
        if depth == MAX_DEPTH:
            raise GgufError(f"arrays in arrays are more than {MAX_DEPTH} deep")
        kind = self._u32()
        if kind not in (TEXT, ARRAY):
            return self._numbers(kind, self._u64())
        count = self._count("elements", MAX_ITEMS, 8 if kind == TEXT else 12)
        self._items += count
        if self._items > MAX_ITEMS:
            raise GgufError(f"the metadata's arrays have more than {MAX_ITEMS:,} elements")
        return self._texts(count) if kind == TEXT else [self._value(kind, depth + 1) for _ in range(count)]

    def _numbers(self, kind: int, count: int) -> NDArray[Any]:
        if kind not in NUMBERS:
            raise GgufError(f"value type {kind} is unknown")
        start = self._advance(count * NUMBERS[kind].itemsize)
        if kind == BOOL and np.frombuffer(self._mapping, np.uint8, count, start).max(initial=0) > 1:
            raise GgufError("a truth value is neither 0 nor 1")
        numbers: NDArray[Any] = np.frombuffer(self._mapping, NUMBERS[kind], count, start)
        return numbers

    def _texts(self, count: int) -> list[str]:
        """``count`` texts; a vocabulary has hundreds of thousands, so this loop is all in one place."""
        mapping, at, end, length_at = self._mapping, self._at, self._end, U64.unpack_from
        texts = []
        for _ in range(count):
            if at + 8 > end or (stop := at + 8 + length_at(mapping, at)[0]) > end:
                raise GgufError("the header ends inside of it")
            try:
                texts.append(str(mapping[at + 8 : stop], "utf-8"))
            except UnicodeDecodeError:
                raise GgufError("a text is not UTF-8") from None
            at = stop
        self._at = at
        return texts

    def _text(self, longest: int) -> str:
        length = self._u64()
        if length > longest:
            raise GgufError(f"a text of {length:,} bytes is longer than {longest:,}")
        start = self._advance(length)
        try:
            return str(self._mapping[start : start + length], "utf-8")
        except UnicodeDecodeError:
            raise GgufError("a text is not UTF-8") from None

    def _name(self, what: str) -> str:
        try:
            name = self._text(MAX_NAME)
        except GgufError as error:
            raise GgufError(f"{what}: {error}") from None
        if not name:
            raise GgufError(f"{what} is empty")
        return name

    def _info(self) -> GgufTensor:
        """One tensor's info, its offset still from the begin of the data."""
        name = self._name("a tensor's name")
        dimensions = self._u32()
        if not 1 <= dimensions <= MAX_DIMENSIONS:
            raise GgufError(f"tensor {_shown(name)} has {dimensions} dimensions, not 1 to {MAX_DIMENSIONS}")
        shape = tuple(self._u64() for _ in range(dimensions))[::-1]
        number, offset = self._u32(), self._u64()
        if number not in KINDS:
            raise GgufError(f"tensor {_shown(name)} has the unknown type {number}")
        kind, values, block = KINDS[number]
        if not all(shape):
            raise GgufError(f"tensor {_shown(name)} has no values")
        if shape[-1] % values:
            raise GgufError(f"tensor {_shown(name)} has rows of {shape[-1]} values, no multiple of {kind}'s {values}")
        return GgufTensor(name, kind, shape, offset, math.prod(shape) // values * block, self._mapping)

    def _placed(self, infos: list[GgufTensor], alignment: int) -> dict[str, GgufTensor]:
        """The tensors by name, their offsets from the file's begin, each one in the file and apart from the others."""
        base = -(-self._at // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for info in infos:
            if info.name in tensors:
                raise GgufError(f"the tensor {_shown(info.name)} comes twice")
            if info.offset % alignment:
                raise GgufError(f"tensor {_shown(info.name)} does not begin at a multiple of {alignment} bytes")
            if base + info.offset + info.size > len(self._mapping):
                raise GgufError(f"tensor {_shown(info.name)} reaches beyond the file's end: it may be cut short")
            tensors[info.name] = replace(info, offset=base + info.offset)
        for one, other in pairwise(sorted(tensors.values(), key=lambda tensor: tensor.offset)):
            if one.offset + one.size > other.offset:
                raise GgufError(f"the tensors {_shown(one.name)} and {_shown(other.name)} overlap")
        return tensors

    def _count(self, what: str, most: int, shortest: int) -> int:
        """A count of things of at least ``shortest`` bytes each."""
        count = self._u64()
        if count > most:
            raise GgufError(f"{count:,} {what} are more than {most:,}")
        if count * shortest > self._end - self._at:
            raise GgufError(f"its {count:,} {what} do not fit into the file: it may be cut short")
        return count

    def _u32(self) -> int:
        value: int = U32.unpack_from(self._mapping, self._advance(4))[0]
        return value

    def _u64(self) -> int:
        value: int = U64.unpack_from(self._mapping, self._advance(8))[0]
        return value

    def _advance(self, length: int) -> int:
        """Step over ``length`` bytes; returns where they begin."""
        start, self._at = self._at, self._at + length
        if self._at > self._end:
            raise GgufError("the header ends too early: the file may be cut short")
        return start


def _alignment(metadata: dict[str, Value]) -> int:
    alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
    if type(alignment) is not int or not 8 <= alignment <= MAX_ALIGNMENT or alignment & (alignment - 1):
        raise GgufError(f"general.alignment is no power of two from 8 to {MAX_ALIGNMENT:,}")
    return alignment


def _shown(name: str) -> str:
    return repr(name if len(name) <= 80 else f"{name[:80]}…")
