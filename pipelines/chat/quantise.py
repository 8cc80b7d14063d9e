"""Weights in 4 or 8 bits, in groups of 32 along the inputs: w = scale * q + minimum.

Models that came in such a form (GGUF's Q4_0, Q4_1, Q8_0 have the same groups) are held almost exactly; others are
held in 8 bits, which costs next to nothing (docs/decisions/0007).
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

GROUP = 32
BLOCK = 16  # outputs side by side in the packed form, as the kernel's vectors are wide
QUAD = 4  # inputs that one lane of an integer product takes at a time
CAME_SO = 0.005  # relative error below which weights were 4 bits wide already


def fits(weight: Tensor) -> bool:
    """Whether these weights (N, K) can be packed."""
    return weight.shape[1] % GROUP == 0 and weight.dtype in (torch.bfloat16, torch.float32)


def pack(weight: Tensor) -> tuple[Tensor, int]:
    """The packed form of ``weight`` (N, K), and its bits: 4 where that loses nothing to speak of, else 8.

    The form is (N / 16, K / 32, bytes): for 16 outputs and 32 inputs first the values, then 16 scales and 16 minima in
    half precision.
    """
    narrow = _quantise(weight, 4)
    if _relative_error(weight, *narrow) < CAME_SO:
        return _packed(*narrow, 4), 4
    return _packed(*_quantise(weight, 8), 8), 8


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


def _packed(quants: Tensor, scales: Tensor, minima: Tensor, bits: int) -> Tensor:
    outputs, groups, _ = quants.shape
    missing = -outputs % BLOCK
    blocks = (outputs + missing) // BLOCK

    def lanes(values: Tensor) -> Tensor:
        """(N, groups, width) to (blocks, groups, width * 16), the 16 outputs of a block innermost by QUAD."""
        width = values.shape[2]
        step = min(width, QUAD)
        split = pad(values, (0, 0, 0, 0, 0, missing)).view(blocks, BLOCK, groups, width // step, step)
        return split.permute(0, 2, 3, 1, 4).reshape(blocks, groups, -1)

    values = lanes(quants.to(torch.uint8))
    if bits == 4:
        pairs = values.view(blocks, groups, GROUP // QUAD // 2, 2, BLOCK * QUAD)
        values = (pairs[:, :, :, 0] | (pairs[:, :, :, 1] << 4)).flatten(2)
    factors = [lanes(part).contiguous().view(torch.uint8) for part in (scales, minima)]
    return torch.cat([values, *factors], dim=2).contiguous()
