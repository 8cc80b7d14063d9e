"""What the two networks are trained to: R3GAN's relativistic pairing with penalties on both sides, and captions.

Huang et al., "The GAN is dead; long live the GAN! A Modern GAN Baseline" (2024), after Jolicoeur-Martineau's
relativistic GAN (2018) and Mescheder et al.'s gradient penalties (2018).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional


def pairing(better: Tensor, worse: Tensor) -> Tensor:
    """Mean of how much ``worse`` is not judged worse than its counterpart; (B,), (B,) → ()."""
    return functional.softplus(worse - better).mean()


def penalty(judge: Callable[[Tensor], Tensor], pictures: Tensor) -> Tensor:
    """Squared length of the judgement's gradient at these pictures, which keeps it flat there; () mean of the batch."""
    pictures = pictures.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(judge(pictures).sum(), pictures, create_graph=True)
    return gradient.float().square().sum((1, 2, 3)).mean()


def fitting(features: Tensor, captions: Tensor, same: Tensor) -> Tensor:
    """How little each picture fits its own caption better than the others of the batch.

    features and captions (B, F), same (B, B): which captions say the same, and are no wrong ones of each other.
    """
    logits = (features @ captions.T).masked_fill(
        same & ~torch.eye(len(same), dtype=torch.bool, device=same.device), -1e4
    )
    return functional.cross_entropy(logits, torch.arange(len(logits), device=logits.device))


def matching(drawn: Sequence[Tensor], real: Sequence[Tensor]) -> Tensor:
    """Distance of the discriminator's inner grids, each relative to the size of the real ones'."""
    distances = [
        (one.float() - other.float()).abs().mean() / other.float().abs().mean().clamp(min=1e-3)
        for one, other in zip(drawn, real, strict=True)
    ]
    return torch.stack(distances).mean()


def seeking(drawn: Tensor, again: Tensor, *, least: float) -> Tensor:
    """How far two drawings of one caption stay below a mean difference of ``least``: "mode seeking" (Mao et al. 2019),
    with an end, so that it can't be won with noise."""
    return functional.relu(least - (drawn - again).abs().mean((1, 2, 3))).mean() / least
