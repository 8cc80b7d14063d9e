"""Draws a token from the model's logits."""

import torch
from torch import Tensor

from pipelines.events import Sampling

COLDEST = 1e-4  # below this a temperature means greedy; dividing by less would overflow


class Sampler:
    """Draws the tokens of one request.

    Each request has its own random generator, so the same seed gives the same text whatever runs beside it.
    """

    def __init__(self, sampling: Sampling) -> None:
        self._temperature = 1.0 if sampling.temperature is None else sampling.temperature
        self._top_p = 1.0 if sampling.top_p is None else sampling.top_p
        self._random = torch.Generator()
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed)

    def draw(self, logits: Tensor) -> int:
        """Draw one token id from ``logits``, (V,) on any device."""
        if self._temperature < COLDEST:
            return int(logits.argmax())
        scores, ids = logits.float().cpu().sort(descending=True)  # (V,) each
        probabilities = (scores / self._temperature).softmax(dim=0)
        # Nucleus: the fewest tokens whose probabilities reach top_p, the likeliest one at least.
        before = probabilities.cumsum(dim=0) - probabilities
        probabilities[1:] = probabilities[1:].masked_fill(before[1:] >= self._top_p, 0.0)
        return int(ids[torch.multinomial(probabilities, 1, generator=self._random)])
