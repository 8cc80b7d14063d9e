"""The generator: a caption's meaning, a style and noise become a picture of 64 × 64 pixels.

A ResNet that grows a learnt 4 × 4 grid; each convolution is preceded by a normalisation whose scale and shift come from
the conditions (FiLM: Perez et al. 2018). The last doubling is a pixel shuffle (Shi et al. 2016), so that nothing but
the last two convolutions is computed at the full size: most of the time of a step goes there.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

SIDE = 64  # pixels
CHANNELS = 4  # red, green and blue, multiplied by the fourth: opacity


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a generator."""

    text: int = 384  # of the caption's embedding
    styles: int = 3
    noise: int = 32
    hidden: int = 256  # of the conditions
    widths: tuple[int, int, int, int] = (256, 192, 96, 48)  # channels at 4, 8, 16 and 32 pixels
    last: int = 24  # at 64 pixels


class Reader(nn.Module):
    """Reads captions and styles. Captions of like things have like embeddings: they are told apart by where each lies
    among all of them, so every number is centred and scaled first."""

    def __init__(self, text: int, styles: int, hidden: int) -> None:
        super().__init__()
        self.text = nn.Linear(text, hidden)
        self.style = nn.Embedding(styles, hidden)
        self.register_buffer("centre", torch.zeros(text))
        self.register_buffer("spread", torch.ones(text))

    def fit(self, captions: Tensor) -> None:
        """Take centre and spread from (N, text)."""
        self.centre = captions.mean(0)
        self.spread = captions.std(0).clamp(min=1e-3)

    def forward(self, text: Tensor, style: Tensor) -> Tensor:
        """(B, text), (B,) → (B, hidden)."""
        read: Tensor = self.text((text - self.centre) / self.spread) + self.style(style)
        return read


class Generator(nn.Module):
    """(B, text), (B,) and (B, noise) → (B, 4, 64, 64), between 0 and 1, colours at most opacity."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.reader = Reader(shape.text, shape.styles, shape.hidden)
        self.noise = nn.Linear(shape.noise, shape.hidden)
        self.mix = nn.Sequential(
            nn.SiLU(),
            nn.Linear(shape.hidden, shape.hidden),
            nn.SiLU(),
            nn.Linear(shape.hidden, shape.hidden),
            nn.SiLU(),
        )
        first, *others = shape.widths
        self.seed = nn.Linear(shape.hidden, first * 16)
        self.blocks = nn.ModuleList([Block(first, first, shape.hidden)])
        for before, after in zip(shape.widths, others, strict=False):
            self.blocks.append(Block(before, after, shape.hidden, up=True))
            self.blocks.append(Block(after, after, shape.hidden))
        self.film = Film(shape.widths[-1], shape.hidden)
        self.shuffle = nn.Conv2d(shape.widths[-1], shape.last * 4, 3, padding=1)
        self.paint = nn.Conv2d(shape.last, CHANNELS, 3, padding=1)

    def forward(self, text: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        """(B, text), (B,), (B, noise) → (B, CHANNELS, SIDE, SIDE)."""
        *_, pictures = self.steps(text, style, noise)
        return pictures

    def steps(self, text: Tensor, style: Tensor, noise: Tensor) -> Iterator[Tensor]:
        """The same in steps of milliseconds, between which others can compute; the last one yields the pictures."""
        conditions = self.mix(self.reader(text, style) + self.noise(noise))
        grid = self.seed(conditions).unflatten(1, (-1, 4, 4)).contiguous(memory_format=torch.channels_last)
        for block in self.blocks:
            grid = block(grid, conditions)
            yield grid
        grid = functional.silu(functional.pixel_shuffle(self.shuffle(functional.silu(self.film(grid, conditions))), 2))
        painted = torch.sigmoid(self.paint(grid).float())
        opacity = painted[:, 3:]
        yield torch.cat((painted[:, :3] * opacity, opacity), 1)


class Film(nn.Module):
    """Brings channels to one size and lets the conditions scale and shift them."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.normalise = nn.GroupNorm(channels // 8, channels, affine=False)
        self.from_conditions = nn.Linear(hidden, 2 * channels)

    def forward(self, grid: Tensor, conditions: Tensor) -> Tensor:
        """(B, C, H, W), (B, hidden) → (B, C, H, W)."""
        scale, shift = self.from_conditions(conditions)[:, :, None, None].chunk(2, 1)
        return torch.addcmul(shift, self.normalise(grid), 1 + scale)


class Block(nn.Module):
    """Two convolutions beside a shortcut; ``up`` doubles height and width between them, where it is cheapest."""

    def __init__(self, before: int, after: int, hidden: int, *, up: bool = False) -> None:
        super().__init__()
        self.up = up
        self.films = nn.ModuleList((Film(before, hidden), Film(after, hidden)))
        self.convolutions = nn.ModuleList(
            (nn.Conv2d(before, after, 3, padding=1), nn.Conv2d(after, after, 3, padding=1))
        )
        self.shortcut = nn.Conv2d(before, after, 1, bias=False) if before != after else nn.Identity()

    def forward(self, grid: Tensor, conditions: Tensor) -> Tensor:
        """(B, before, H, W), (B, hidden) → (B, after, H, W) or twice as large."""
        inner = self.convolutions[0](functional.silu(self.films[0](grid, conditions)))
        inner = self.convolutions[1](self._larger(functional.silu(self.films[1](inner, conditions))))
        grown: Tensor = inner + self._larger(self.shortcut(grid))
        return grown

    def _larger(self, grid: Tensor) -> Tensor:
        return functional.interpolate(grid, scale_factor=2.0, mode="nearest") if self.up else grid
