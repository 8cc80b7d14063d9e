"""Weights in 4 or 8 bits, in groups of 32 along the inputs: w = scale * q + minimum.

Models that came in such a form (GGUF's Q4_0, Q4_1, Q8_0 have the same groups) are held almost exactly; others are
held in 8 bits, which costs next to nothing (docs/decisions/0007).
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from pipelines.chat.model.kernels import Form

GROUP = 32
BLOCK = 16  # outputs side by side in the packed form, as the kernel's vectors are wide
QUAD = 4  # inputs that one lane of an integer product takes at a time
CAME_SO = 0.005  # relative error below which weights were 4 bits wide already


def fits(weight: Tensor) -> bool:
    """Whether these weights (N, K) can be packed."""
    return weight.shape[1] % GROUP == 0 and weight.dtype in (torch.bfloat16, torch.float32)


def pack(weight: Tensor, form: Form) -> tuple[Tensor, int]:
    """The packed form of ``weight`` (N, K), and its bits: 4 where that loses nothing to speak of, else 8.

    It is (N / 16, K / 32, bytes): for 16 outputs and 32 inputs first the values, then 16 scales and 16 minima in half
    precision.
    """
    narrow = _quantise(weight, 4)
    if _relative_error(weight, *narrow) < CAME_SO:
        return _packed(*narrow, 4, form), 4
    return _packed(*_quantise(weight, 8), 8, form), 8


def _relative_error(weight: Tensor, quants: Tensor, scales: Tensor, minima: Tensor) -> float:
    """How far the weights are from this form of them, as a share of their norm."""
    exact = weight.float()
    error = (quants * scales.float() + minima.float()).view_as(exact) - exact
    return float(error.norm() / exact.norm().clamp_min(1e-12))


def _quantise(weight: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Values (N, K / 32, 32), scales and minima (N, K / 32, 1) in half precision."""
    outputs, inputs = weight.shape
    w = weight.float().view(outputs, inputs // GROUP, GROUP)
    low, high = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True)
    top = 2**bits - 1
    quants = ((w - low) * (top / (high - low).clamp_min(1e-12))).round().clamp(0, top)
    # The values are settled; the line through them is fitted again, because rounding has moved its ends.
    centre, mean = quants.mean(-1, keepdim=True), w.mean(-1, keepdim=True)
    spread = (quants - centre).square().sum(-1, keepdim=True)
    scale = ((quants - centre) * (w - mean)).sum(-1, keepdim=True) / spread.clamp_min(1e-9)
    return quants, scale.half(), (mean - scale * centre).half()


def _packed(quants: Tensor, scales: Tensor, minima: Tensor, bits: int, form: Form) -> Tensor:
    outputs, groups, _ = quants.shape
    missing = -outputs % BLOCK
    blocks = (outputs + missing) // BLOCK

    def blocked(values: Tensor) -> Tensor:
        """(N, groups, width) to (blocks, groups, 16 outputs, width)."""
        return pad(values, (0, 0, 0, 0, 0, missing)).view(blocks, BLOCK, groups, -1).transpose(1, 2)

    values = blocked(quants.to(torch.uint8))
    parts = _lanes(values, bits) if form is Form.LANES else _rows(values, bits)
    parts += [blocked(factors).contiguous().view(torch.uint8).flatten(2) for factors in (scales, minima)]
    return torch.cat(parts, dim=2).contiguous()


def _lanes(values: Tensor, bits: int) -> list[Tensor]:
    """(blocks, groups, 16 outputs, 32) as LANES: four inputs of each output at a time, its lower 4 bits, its fifth."""
    quads = values.unflatten(3, (GROUP // QUAD, QUAD)).transpose(2, 3)
    if bits == 8:
        return [quads.flatten(2)]
    low = quads & 0x0F
    parts = [(low[:, :, 0::2] | (low[:, :, 1::2] << 4)).flatten(2)]
    if bits == 5:
        eights = (quads >> 4).flatten(2).unflatten(2, (-1, 8))
        parts.append((eights << torch.arange(8, dtype=torch.uint8)).sum(-1, dtype=torch.uint8))
    return parts


def _rows(values: Tensor, bits: int) -> list[Tensor]:
    """(blocks, groups, 16 outputs, 32) as TILES."""
    if bits == 8:
        return [values.flatten(2)]
    return [(values[..., : GROUP // 2] | (values[..., GROUP // 2 :] << 4)).flatten(2)]
