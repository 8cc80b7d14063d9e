"""The noise that a picture is drawn from."""

import torch
from torch import Tensor

POSES = 6  # of the noise: turn, size, right, down, light, warmth
FURTHEST = 2.0  # deviations

# Deviation of the noise that pictures are drawn from. A generator makes less of its noise than the pictures it learned
# from show; drawn wider, but nowhere beyond what it was trained with, it varies enough and draws as well.
DRAWN = 1.8


def noise(count: int, size: int, chance: torch.Generator, *, spread: float = 1.0) -> Tensor:
    """(count, size): noise whose first ``POSES`` numbers are a pose; none of it is further than ``FURTHEST``."""
    return (torch.randn(count, size, generator=chance) * spread).clamp_(-FURTHEST, FURTHEST)
