"""The discriminator: how real a picture looks, and how well it fits a caption and a style.

A ResNet without normalisation whose features are projected on the conditions (Miyato and Koyama, "cGANs with
Projection Discriminator", 2018): the features of a picture are computed once, whatever captions it is held against.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from pipelines.image.generator import CHANNELS, Reader


@dataclass(frozen=True, slots=True)
class Judging:
    """Sizes of a discriminator."""

    text: int = 384
    styles: int = 3
    widths: tuple[int, int, int, int] = (40, 80, 160, 256)  # channels at 32, 16, 8 and 4 pixels
    features: int = 256


class Discriminator(nn.Module):
    """Pictures and captions are read apart and compared at the end."""

    def __init__(self, shape: Judging) -> None:
        super().__init__()
        self.shape = shape
        self.enter = nn.Conv2d(CHANNELS * 4, shape.widths[0], 3, padding=1)
        pairs = zip(shape.widths, shape.widths[1:], strict=False)
        self.blocks = nn.ModuleList([Narrowing(before, after) for before, after in pairs])
        self.leave = nn.Sequential(
            nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(shape.widths[-1] * 16, shape.features), nn.LeakyReLU(0.2)
        )
        self.realness = nn.Linear(shape.features, 1)
        self.reader = Reader(shape.text, shape.styles, shape.features)
        self.conditions = nn.Sequential(nn.SiLU(), nn.Linear(shape.features, shape.features))

    def look(self, pictures: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(B, 4, 64, 64) → features (B, F), and the grids on the way to them."""
        grid = self.enter(functional.pixel_unshuffle(pictures * 2 - 1, 2))
        grids = []
        for block in self.blocks:
            grid = block(grid)
            grids.append(grid)
        features: Tensor = self.leave(grid)
        return features.float(), grids

    def read(self, text: Tensor, style: Tensor) -> Tensor:
        """(B, text), (B,) → (B, F): what the features of a fitting picture look like."""
        read: Tensor = self.conditions(self.reader(text, style))
        scaled: Tensor = read.float() / self.shape.features**0.5
        return scaled

    def judge(self, features: Tensor, conditions: Tensor) -> Tensor:
        """(B, F), (B, F) → (B,): larger for what is real and fits."""
        realness: Tensor = self.realness(features)
        judged: Tensor = realness.float().squeeze(1) + (features * conditions).sum(1)
        return judged


class Narrowing(nn.Module):
    """Two convolutions beside a shortcut, and half the height and width."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            (nn.Conv2d(before, before, 3, padding=1), nn.Conv2d(before, after, 3, padding=1))
        )
        self.shortcut = nn.Conv2d(before, after, 1, bias=False)

    def forward(self, grid: Tensor) -> Tensor:
        """(B, before, H, W) → (B, after, H / 2, W / 2)."""
        inner = self.convolutions[0](functional.leaky_relu(grid, 0.2))
        inner = self.convolutions[1](functional.avg_pool2d(functional.leaky_relu(inner, 0.2), 2))
        narrowed: Tensor = (inner + self.shortcut(functional.avg_pool2d(grid, 2))) * 0.5**0.5
        return narrowed
