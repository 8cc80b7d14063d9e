"""Weights in 4 or 8 bits, in groups of 32 along the inputs: w = scale * q + minimum.

Models that came in such a form (GGUF's Q4_0, Q4_1, Q8_0 have the same groups) are held almost exactly; others are
held in 8 bits, which costs next to nothing (docs/decisions/0007).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from pipelines.chat.model.kernels import Form

GROUP = 32
BLOCK = 16  # outputs side by side in the packed form, as the kernel's vectors are wide
AT_ONCE = 1 << 18  # values that are converted at a time: in float32 they stay in the cache
CAME_SO = 0.005  # relative error below which weights were 4 bits wide already

Groups = tuple[Tensor, Tensor, Tensor]  # quants (N, K / 32, 32), scales and minima (N, K / 32, 1)


def fits(weight: Tensor) -> bool:
    """Whether these weights (N, K) can be packed."""
    return weight.shape[1] % GROUP == 0 and weight.dtype in (torch.bfloat16, torch.float32)


def held(bits: int, form: Form) -> int:
    """In how many bits ``form`` holds quants of 4, 5 or 8."""
    return 8 if bits == 5 and form is Form.TILES else bits


def slices(outputs: int, inputs: int) -> Iterator[slice]:
    """Rows of a matrix (N, K) that are converted at a time, so that what is made of them stays small."""
    step = max(AT_ONCE // inputs, 1)
    return (slice(begin, min(begin + step, outputs)) for begin in range(0, outputs, step))


class Packed:
    """Packed weights (N, K) in ``bits``, written from the first row to the last.

    The tensor is (N / 16, K / 32, bytes): for 16 outputs and 32 inputs first the quants, then 16 scales and 16 minima
    in half precision.
    """

    def __init__(self, outputs: int, inputs: int, bits: int, form: Form) -> None:
        size = GROUP * BLOCK * bits // 8 + 4 * BLOCK
        self.tensor = torch.zeros(-(-outputs // BLOCK), inputs // GROUP, size, dtype=torch.uint8)
        self.bits = bits
        self._form = form
        self._rows = 0

    def add(self, quants: Tensor, scales: Tensor, minima: Tensor) -> None:
        """Write the next rows; quants (n, K / 32, 32), scales and minima (n, K / 32, 1)."""
        factors = (scales.half(), minima.half())
        torch.ops.loquent.pack(self.tensor, self._rows, quants.to(torch.uint8), *factors, self._form, self.bits)
        self._rows += len(quants)


def pack(weight: Tensor, form: Form) -> tuple[Tensor, int]:
    """The packed form of ``weight`` (N, K), and its bits: 4 where that loses nothing to speak of, else 8."""
    outputs, inputs = weight.shape
    parts = [weight[rows] for rows in slices(outputs, inputs)]
    came_so = all(_relative_error(part, *quantise(part, 4)) < CAME_SO for part in parts)
    packed = Packed(outputs, inputs, 4 if came_so else 8, form)
    for part in parts:
        packed.add(*quantise(part, packed.bits))
    return packed.tensor, packed.bits


def _relative_error(weight: Tensor, quants: Tensor, scales: Tensor, minima: Tensor) -> float:
    """How far the weights are from this form of them, as a share of their norm."""
    exact = weight.float()
    error = (quants * scales.half().float() + minima.half().float()).view_as(exact) - exact
    return float(error.norm() / exact.norm().clamp_min(1e-12))


def quantise(weight: Tensor, bits: int) -> Groups:
    """Weights (N, K) in so many bits: quants, scales and minima."""
    outputs, inputs = weight.shape
    w = weight.float().view(outputs, inputs // GROUP, GROUP)
    low, high = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True)
    top = 2**bits - 1
    quants = ((w - low) * (top / (high - low).clamp_min(1e-12))).round().clamp(0, top)
    # The values are settled; the line through them is fitted again, because rounding has moved its ends.
    centre, mean = quants.mean(-1, keepdim=True), w.mean(-1, keepdim=True)
    spread = (quants - centre).square().sum(-1, keepdim=True)
    scale = ((quants - centre) * (w - mean)).sum(-1, keepdim=True) / spread.clamp_min(1e-9)
    return quants, scale, mean - scale * centre
