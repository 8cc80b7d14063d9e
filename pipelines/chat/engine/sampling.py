"""Draws a token from the model's logits."""

import hashlib
import secrets
from collections.abc import Sequence

import torch
from torch import Tensor

from pipelines.chat.engine.penalties import Penalties, penalised
from pipelines.events import Sampling

COLDEST = 1e-4  # below this a temperature means greedy; dividing by less would overflow
LIKELIEST = 512  # tokens among which a nucleus is looked for first; sorting a whole vocabulary takes milliseconds


class Sampler:
    """Draws the tokens of one request.

    The chance in each draw comes from the seed and the token's place in the reply alone, so that the same seed gives
    the same text whatever runs beside it.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int] = (), ends: frozenset[int] = frozenset()) -> None:
        self._banned = ends if sampling.ignore_eos else frozenset()
        self._temperature = 1.0 if sampling.temperature is None else sampling.temperature
        self._top_p = 1.0 if sampling.top_p is None else sampling.top_p
        self._top_k, self._min_p = sampling.top_k or 0, sampling.min_p or 0.0
        self._seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
        self._drawn = 0
        self.penalties = Penalties(sampling, prompt, self._banned)
        self._bias = dict(sampling.logit_bias)
        self._bias_ids = torch.tensor(list(self._bias), dtype=torch.long)
        self._biases = torch.tensor(list(self._bias.values()), dtype=torch.float32)
        self.greedy = self._temperature < COLDEST and not self._bias  # the best token under the penalties is meant
        self._plain = self.greedy and not self.penalties.counts
        self._changes = self.penalties.any or bool(self._bias)

    def takes(self, likeliest: int) -> bool:
        """Whether the likeliest token of the untouched logits is meant, so that there is nothing to draw."""
        return self._plain and likeliest not in self._banned

    def take(self, best: int) -> int:
        """Take the best token under the penalties, where it is what is meant."""
        self._drawn += 1
        self.penalties.count(best)
        return best

    def draw(self, logits: Tensor) -> int:
        """Draw one token id from ``logits``, (V,) on any device."""
        scores = self._changed(logits)
        token = int(scores.argmax()) if self._temperature < COLDEST else self._drawn_from(scores)
        return self.take(token)

    def _changed(self, logits: Tensor) -> Tensor:
        if not self._changes:
            return logits
        scores = logits.float().clone()
        size = scores.shape[-1]
        if self.penalties.any:
            changes = self.penalties.changes(size)
            places = torch.from_numpy(changes.ids).to(scores.device)
            new = penalised(scores[places].cpu().numpy(), changes, self.penalties.factors)
            scores[places] = torch.from_numpy(new).to(scores.device)
        if self._bias:
            known = (self._bias_ids >= 0) & (self._bias_ids < size)
            ids, biases = self._bias_ids[known].to(scores.device), self._biases[known].to(scores.device)
            scores.index_add_(0, ids, biases)
        return scores

    def _drawn_from(self, logits: Tensor) -> int:
        scores = logits.float().cpu() / self._temperature
        if not (self._top_k or self._top_p < 1.0 or self._min_p):
            probabilities = scores.softmax(dim=0).double()
            return self._pick(probabilities, probabilities.cumsum(dim=0))
        probabilities, ids = self._likeliest(scores)
        # Nucleus: the fewest tokens whose probabilities reach top_p, the likeliest one at least.
        keep = (probabilities.cumsum(dim=0) - probabilities) < self._top_p
        keep &= probabilities >= self._min_p * probabilities[0]
        keep[0] = True
        probabilities = probabilities * keep
        return int(ids[self._pick(probabilities, probabilities.cumsum(dim=0))])

    def _likeliest(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities and ids, the likeliest first, of at least those tokens that may be drawn."""
        size = scores.shape[-1]
        if self._top_k:
            best, ids = scores.topk(min(self._top_k, size))
            return best.softmax(dim=0).double(), ids
        total = scores.logsumexp(dim=0)
        best, ids = scores.topk(min(LIKELIEST, size))
        probabilities = (best - total).exp().double()
        if float(probabilities.sum()) < self._top_p and probabilities[-1] >= self._min_p * probabilities[0]:
            best, ids = scores.sort(descending=True)
            probabilities = (best - total).exp().double()
        return probabilities, ids

    def _pick(self, probabilities: Tensor, summed: Tensor) -> int:
        """The place at which the chance of this draw falls."""
        digest = hashlib.blake2b(f"{self._seed}:{self._drawn}".encode(), digest_size=8).digest()
        chance = int.from_bytes(digest, "big") / 2**64 * float(summed[-1])
        place = int(torch.searchsorted(summed, torch.tensor(chance, dtype=summed.dtype), right=True))
        place = min(place, len(summed) - 1)
        while place and not probabilities[place]:
            place -= 1
        return place
