"""Changes of pictures: a pose that the noise stands for, and what keeps a discriminator from learning by heart."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pipelines.image.noise import POSES

TURN, SIZE, MOVE, LIGHT, WARMTH = 3.0, 0.02, 0.6, 0.05, 0.03  # degrees, share, pixels, share, share: one deviation


def posed(pictures: Tensor, poses: Tensor) -> Tensor:
    """(B, 4, H, W), (B, POSES or more) → the pictures as the noise has them."""
    turn, size, right, down, light, warmth = poses[:, :POSES].unbind(1)
    angle, scale = turn * math.radians(TURN), 1 + size * SIZE
    step = MOVE * 2 / pictures.shape[-1]
    rows = (
        torch.stack((angle.cos() / scale, -angle.sin() / scale, right * step), 1),
        torch.stack((angle.sin() / scale, angle.cos() / scale, down * step), 1),
    )
    grid = functional.affine_grid(torch.stack(rows, 1), list(pictures.shape), align_corners=False)
    moved = functional.grid_sample(pictures, grid, align_corners=False)
    gain = torch.stack((light * LIGHT + warmth * WARMTH, light * LIGHT, light * LIGHT - warmth * WARMTH), 1) + 1
    opacity = moved[:, 3:]
    return torch.cat(((moved[:, :3] * gain[:, :, None, None]).minimum(opacity), opacity), 1)


@dataclass(frozen=True, slots=True)
class Disturbance:
    """One draw of DiffAugment (Zhao et al. 2020) for a batch: colour, translation, cutout."""

    light: Tensor  # (B, 1, 1, 1) each
    saturation: Tensor
    shift: Tensor  # (B, 2) pixels
    hole: Tensor  # (B, 2) pixels, where the hole begins

    @classmethod
    def draw(cls, count: int, side: int, chance: torch.Generator) -> "Disturbance":
        """Chosen at random."""

        def some(low: float, high: float) -> Tensor:
            return torch.rand(count, 1, 1, 1, generator=chance) * (high - low) + low

        reach = side // 8
        return cls(
            some(0.75, 1.25),
            some(0.5, 1.5),
            torch.randint(-reach, reach + 1, (count, 2), generator=chance),
            torch.randint(-side // 4, side, (count, 2), generator=chance),
        )

    def to(self, device: torch.device) -> "Disturbance":
        """On another device."""
        return Disturbance(*(each.to(device) for each in (self.light, self.saturation, self.shift, self.hole)))

    def __call__(self, pictures: Tensor) -> Tensor:
        """(B, 4, H, W) → the same, disturbed; a gradient passes."""
        colours, opacity = pictures[:, :3], pictures[:, 3:]
        grey = colours.mean(1, keepdim=True)
        colours = (grey + (colours - grey) * self.saturation) * self.light
        moved = _moved(torch.cat((colours, opacity), 1), self.shift)
        side = pictures.shape[-1]
        across = torch.arange(side, device=pictures.device)
        inside = (across >= self.hole[..., None]) & (across < self.hole[..., None] + side // 4)  # (B, 2, side)
        return moved * ~(inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]


def _moved(pictures: Tensor, shift: Tensor) -> Tensor:
    """Each picture shifted by whole pixels; what comes in is empty."""
    side = pictures.shape[-1]
    across = torch.arange(side, device=pictures.device)
    rows, columns = ((across + shift[:, axis, None]).clamp(-1, side) + 1 for axis in (0, 1))  # (B, side)
    padded = functional.pad(pictures, (1, 1, 1, 1)).permute(0, 2, 3, 1)
    batch = torch.arange(len(pictures), device=pictures.device)[:, None, None]
    return padded[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
