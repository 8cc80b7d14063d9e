"""Weights in 4 to 8 bits, in groups of 32 along the inputs, each with factors in half precision.

Models that came in such a form (as GGUF's do) are held almost exactly; others are held in 8 bits, which costs next to
nothing (docs/decisions/0007).
"""

from collections.abc import Iterator
from enum import Enum

import torch
from torch import Tensor

from pipelines.kernels import Form

GROUP = 32
BLOCK = 16  # outputs side by side in the packed form, as the kernel's vectors are wide
AT_ONCE = 1 << 18  # values that are converted at a time: in float32 they stay in the cache
CAME_SO = 0.005  # relative error below which weights were 4 bits wide already

Groups = tuple[Tensor, Tensor]  # quants (N, K / 32, 32), and their factors (N, K / 32, 1 or 2)


class Layout(Enum):
    """How packed weights are laid out, by bits and factors.

    w = scale * q + minimum; where there is no minimum, scale * (q - the middle of the range), and with two scales one
    for each half of a group.
    """

    BITS_4 = (4, ("scale", "minimum"))
    BITS_5 = (5, ("scale", "minimum"))
    BITS_8 = (8, ("scale", "minimum"))
    SIGNED_4 = (4, ("scale",))
    SIGNED_5 = (5, ("scale",))
    SIGNED_8 = (8, ("scale",))
    HALVES_6 = (6, ("scale", "scale"))

    def __init__(self, bits: int, factors: tuple[str, ...]) -> None:
        self.bits = bits  # of a quant
        self.factors = factors
        self.bytes = GROUP * BLOCK * bits // 8 + 2 * BLOCK * len(factors)  # of a group of a block

    def fits(self, form: Form) -> bool:
        """Whether the form has this layout; tiles have two."""
        return form is Form.LANES or self in (Layout.BITS_4, Layout.BITS_8)

    def within(self, form: Form) -> "Layout":
        """This one, or the form's own that holds the same quants, or more."""
        if self.fits(form):
            return self
        return Layout.BITS_4 if self.bits == 4 else Layout.BITS_8


def fits(weight: Tensor) -> bool:
    """Whether these weights (N, K) can be packed."""
    return weight.shape[1] % GROUP == 0 and weight.dtype in (torch.bfloat16, torch.float32)


def slices(outputs: int, inputs: int) -> Iterator[slice]:
    """Rows of a matrix (N, K) that are converted at a time, so that what is made of them stays small."""
    step = max(AT_ONCE // inputs, 1)
    return (slice(begin, min(begin + step, outputs)) for begin in range(0, outputs, step))


class Packed:
    """Packed weights (N, K), written from the first row to the last.

    The tensor is (N / 16, K / 32, bytes): for 16 outputs and 32 inputs first the quants, then the factors of each kind.
    """

    def __init__(self, outputs: int, inputs: int, layout: Layout, form: Form) -> None:
        self.tensor = torch.zeros(-(-outputs // BLOCK), inputs // GROUP, layout.bytes, dtype=torch.uint8)
        self._form = form
        self._rows = 0

    def add(self, quants: Tensor, factors: Tensor) -> None:
        """Write the next rows: quants (n, K / 32, 32), factors (n, K / 32, as many as the layout has)."""
        torch.ops.loquent.pack(self.tensor, self._rows, quants.to(torch.uint8), factors.half(), self._form)
        self._rows += len(quants)


def pack(weight: Tensor, form: Form) -> Tensor:
    """The packed form of ``weight`` (N, K): in 4 bits where that loses nothing to speak of, else in 8."""
    outputs, inputs = weight.shape
    parts = [weight[rows] for rows in slices(outputs, inputs)]
    came_so = all(_relative_error(part, *quantise(part, 4)) < CAME_SO for part in parts)
    layout = Layout.BITS_4 if came_so else Layout.BITS_8
    packed = Packed(outputs, inputs, layout, form)
    for part in parts:
        packed.add(*quantise(part, layout.bits))
    return packed.tensor


def _relative_error(weight: Tensor, quants: Tensor, factors: Tensor) -> float:
    """How far the weights are from this form of them, as a share of their norm."""
    exact, (scales, minima) = weight.float(), factors.half().float().split(1, dim=-1)
    error = (quants * scales + minima).view_as(exact) - exact
    return float(error.norm() / exact.norm().clamp_min(1e-12))


def quantise(weight: Tensor, bits: int) -> Groups:
    """Weights (N, K) in so many bits, each group with a scale and a minimum."""
    outputs, inputs = weight.shape
    w = weight.float().view(outputs, inputs // GROUP, GROUP)
    low, high = w.amin(-1, keepdim=True), w.amax(-1, keepdim=True)
    top = 2**bits - 1
    quants = ((w - low) * (top / (high - low).clamp_min(1e-12))).round().clamp(0, top)
    # The values are settled; the line through them is fitted again, because rounding has moved its ends.
    centre, mean = quants.mean(-1, keepdim=True), w.mean(-1, keepdim=True)
    spread = (quants - centre).square().sum(-1, keepdim=True)
    scale = ((quants - centre) * (w - mean)).sum(-1, keepdim=True) / spread.clamp_min(1e-9)
    return quants, torch.cat((scale, mean - scale * centre), dim=-1)
