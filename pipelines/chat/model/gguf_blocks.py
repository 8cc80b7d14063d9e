"""The codings of GGUF's tensors, undone: from bytes to floats, or to groups of 32 with a scale and a minimum.

The layouts are those of ggml-common.h, and the values are, bit for bit, those of gguf-py's ``quants.py``.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from pipelines.chat.model.gguf import GgufError
from pipelines.chat.model.gguf_types import KINDS

GROUP = 32
BLOCK_SIZES = {name: (values, size) for name, values, size in KINDS.values()}
FLOATS = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}

# Quants (blocks, groups, 32) uint8; scales and minima (blocks, groups, 1) float32: w = scale * quant + minimum.
Groups = tuple[Tensor, Tensor, Tensor]


def dequantise(raw: Tensor, kind: str, shape: tuple[int, ...]) -> Tensor:
    """The values (``shape``, float32) of a tensor whose bytes are ``raw`` (uint8, one dimension).

    Raises: GgufError when ``kind`` is not one that is known here, or ``raw`` has not the size for ``shape``.
    """
    if kind in FLOATS:
        _checked(raw, kind, math.prod(shape))
        return raw.view(FLOATS[kind]).to(torch.float32, copy=True).view(shape)
    if kind == "Q6_K":
        quants, scales = _q6_k(_checked(raw, kind, math.prod(shape)))
        return (scales * (quants.to(torch.float32) - 32)).view(shape)
    if kind not in SIGNED:
        raise GgufError(f"values coded as {kind} can't be read")
    quants, scales, minima = SPLIT[kind](_checked(raw, kind, math.prod(shape)))
    if SIGNED[kind]:  # the scale times the quant less its offset: the rounding that the reference has
        return (scales * (quants.to(torch.float32) - SIGNED[kind])).view(shape)
    return (scales * quants + minima).view(shape)


def groups(raw: Tensor, kind: str, outputs: int, inputs: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """A matrix (N, K) of such a ``kind`` as it is coded: w = scale * quant + minimum in groups of 32 inputs.

    Returns the quants (N, K / 32, 32) in uint8, scales and minima (N, K / 32, 1) in float32, and the bits of a quant.

    Raises: GgufError when ``kind`` has no such form (see ``BITS``), or ``raw`` has not the size for (N, K).
    """
    if kind not in BITS:
        raise GgufError(f"values coded as {kind} have no groups of {GROUP}")
    quants, scales, minima = SPLIT[kind](_checked(raw, kind, outputs * inputs))
    width = inputs // GROUP
    return (
        quants.view(outputs, width, GROUP),
        scales.view(outputs, width, 1),
        minima.view(outputs, width, 1),
        BITS[kind],
    )


def halves(raw: Tensor, outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    """A matrix (N, K) of Q6_K: quants (N, K / 32, 32) in uint8, and a scale of each half of them (N, K / 32, 2).

    w = scale * (quant - 32). Raises: GgufError when ``raw`` has not the size for (N, K).
    """
    quants, scales = _q6_k(_checked(raw, "Q6_K", outputs * inputs))
    return quants.view(outputs, inputs // GROUP, GROUP), scales.view(outputs, inputs // GROUP, 2)


def _checked(raw: Tensor, kind: str, values: int) -> Tensor:
    """The bytes as blocks (blocks, bytes)."""
    in_block, size = BLOCK_SIZES[kind]
    if raw.dtype != torch.uint8 or values % in_block or raw.numel() != values // in_block * size:
        raise GgufError(f"{values:,} values coded as {kind} do not take {raw.numel():,} bytes")
    return raw.reshape(-1, size)


def _half(blocks: Tensor, at: int) -> Tensor:
    """The half-precision number at byte ``at`` of each block, (blocks, 1) float32."""
    return blocks[:, at : at + 2].contiguous().view(torch.float16).to(torch.float32)


def _nibbles(packed: Tensor) -> Tensor:
    """(…, n) bytes to (…, 2, n): the low halves, then the high ones."""
    return torch.stack((packed & 15, packed >> 4), dim=-2)


def _bits(packed: Tensor, count: int, width: int) -> Tensor:
    """(…, n) bytes to (…, count, n): of each byte the ``count`` fields of ``width`` bits, lowest first."""
    return torch.stack([(packed >> (width * n)) & (2**width - 1) for n in range(count)], dim=-2)


def _legacy(blocks: Tensor, *, fifth: bool, offset: int = 0) -> Groups:
    """Q4_0, Q4_1, Q5_0 and Q5_1: a scale, a minimum where there is no offset, the fifth bits or none, 32 nibbles."""
    at = 2 if offset else 4
    scales = _half(blocks, 0)[:, None]
    minima = scales * -offset if offset else _half(blocks, 2)[:, None]
    quants = _nibbles(blocks[:, at + 4 * fifth :]).view(-1, 1, GROUP)
    if fifth:
        high = _bits(blocks[:, at : at + 4], 8, 1).transpose(1, 2).reshape(-1, 1, GROUP)
        quants = quants | (high << 4)
    return quants, scales, minima


def _q8_0(blocks: Tensor) -> Groups:
    """A scale and 32 signed bytes; with the sign bit turned over they are unsigned, 128 higher."""
    scales = _half(blocks, 0)[:, None]
    return (blocks[:, 2:] ^ 128)[:, None], scales, scales * -128


def _k_factors(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Scales and minima (blocks, 8, 1) of Q4_K and Q5_K: two halves, times 8 scales and 8 minima of 6 bits each.

    Four bytes hold the first scales, four the first minima, four the low nibbles of the rest, whose high two bits are
    the high bits of the bytes before.
    """
    first, second, rest = blocks[:, 4:8], blocks[:, 8:12], blocks[:, 12:16]
    scales = torch.cat((first & 63, (rest & 15) | ((first >> 2) & 48)), dim=1)
    minima = torch.cat((second & 63, (rest >> 4) | ((second >> 2) & 48)), dim=1)
    return (_half(blocks, 0) * scales)[..., None], -(_half(blocks, 2) * minima)[..., None]


def _q4_k(blocks: Tensor) -> Groups:
    quants = _nibbles(blocks[:, 16:].unflatten(1, (4, GROUP))).flatten(1, 2)
    return quants, *_k_factors(blocks)


def _q5_k(blocks: Tensor) -> Groups:
    low = _nibbles(blocks[:, 48:].unflatten(1, (4, GROUP))).flatten(1, 2)
    return low | (_bits(blocks[:, 16:48], 8, 1) << 4), *_k_factors(blocks)


def _q6_k(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Quants (blocks, 16, 16) of 6 bits, 32 too high, and scales (blocks, 16, 1), a half times 16 signed bytes."""
    low = _nibbles(blocks[:, :128].unflatten(1, (2, 64))).reshape(-1, 8, GROUP)
    high = _bits(blocks[:, 128:192].unflatten(1, (2, GROUP)), 4, 2).reshape(-1, 8, GROUP)
    scales = _half(blocks, 208) * blocks[:, 192:208].contiguous().view(torch.int8)
    return (low | (high << 4)).view(-1, 16, 16), scales[..., None]


SPLIT: dict[str, Callable[[Tensor], Groups]] = {
    "Q4_0": partial(_legacy, fifth=False, offset=8),
    "Q4_1": partial(_legacy, fifth=False),
    "Q5_0": partial(_legacy, fifth=True, offset=16),
    "Q5_1": partial(_legacy, fifth=True),
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
}
BITS = {"Q4_0": 4, "Q4_1": 4, "Q4_K": 4, "Q5_0": 5, "Q5_1": 5, "Q5_K": 5, "Q8_0": 8}
SIGNED = {"Q4_0": 8, "Q5_0": 16, "Q8_0": 128, "Q4_1": 0, "Q5_1": 0, "Q4_K": 0, "Q5_K": 0}  # what a quant is too high by
