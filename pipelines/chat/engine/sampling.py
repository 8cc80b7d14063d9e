"""Draws a token from the model's logits."""

import hashlib
import secrets
from collections.abc import Sequence

import torch
from torch import Tensor

from pipelines.events import Sampling

COLDEST = 1e-4  # below this a temperature means greedy; dividing by less would overflow
LIKELIEST = 512  # tokens among which a nucleus is looked for first; sorting a whole vocabulary takes milliseconds


class Sampler:
    """Draws the tokens of one request.

    The chance in each draw comes from the seed and the token's place in the reply alone, so that the same seed gives
    the same text whatever runs beside it.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int] = (), ends: frozenset[int] = frozenset()) -> None:
        self._sampling = sampling
        self._banned = ends if sampling.ignore_eos else frozenset()
        self._temperature = 1.0 if sampling.temperature is None else sampling.temperature
        self._top_p = 1.0 if sampling.top_p is None else sampling.top_p
        self._seed = secrets.randbits(64) if sampling.seed is None else sampling.seed
        self._drawn = 0
        self._said: dict[int, int] = {}  # how often each token occurs in the reply
        self._seen = set(prompt) if sampling.repetition_penalty != 1.0 else set()
        self._bias = dict(sampling.logit_bias)
        self._bias_ids = torch.tensor(list(self._bias), dtype=torch.long)
        self._biases = torch.tensor(list(self._bias.values()), dtype=torch.float32)
        counts = (
            sampling.repetition_penalty != 1.0 or bool(sampling.presence_penalty) or bool(sampling.frequency_penalty)
        )
        self._plain = self._temperature < COLDEST and not counts and not self._bias
        self._changes = counts or bool(self._bias) or bool(self._banned)

    def takes(self, likeliest: int) -> bool:
        """Whether the likeliest token of the untouched logits is meant, so that there is nothing to draw."""
        return self._plain and likeliest not in self._banned

    def draw(self, logits: Tensor) -> int:
        """Draw one token id from ``logits``, (V,) on any device."""
        scores = self._changed(logits)
        token = int(scores.argmax()) if self._temperature < COLDEST else self._drawn_from(scores)
        self._drawn += 1
        if self._changes:
            self._said[token] = self._said.get(token, 0) + 1
            self._seen.add(token)
        return token

    def _changed(self, logits: Tensor) -> Tensor:
        if not self._changes:
            return logits
        scores = logits.float().clone()
        size = scores.shape[-1]
        asked = self._sampling
        if asked.repetition_penalty != 1.0:  # as in transformers: https://arxiv.org/abs/1909.05858
            ids = torch.tensor([id for id in self._seen if id < size], dtype=torch.long, device=scores.device)
            seen = scores[ids]
            scores[ids] = torch.where(seen > 0, seen / asked.repetition_penalty, seen * asked.repetition_penalty)
        if self._said and (asked.presence_penalty or asked.frequency_penalty):
            ids = torch.tensor(list(self._said), device=scores.device)
            counts = torch.tensor(list(self._said.values()), dtype=scores.dtype, device=scores.device)
            scores[ids] -= asked.presence_penalty + asked.frequency_penalty * counts
        if self._bias:
            known = (self._bias_ids >= 0) & (self._bias_ids < size)
            ids, biases = self._bias_ids[known].to(scores.device), self._biases[known].to(scores.device)
            scores.index_add_(0, ids, biases)
        for id in self._banned:
            if id < size:
                scores[id] = float("-inf")
        return scores

    def _drawn_from(self, logits: Tensor) -> int:
        scores = logits.float().cpu() / self._temperature
        asked = self._sampling
        if not (asked.top_k or self._top_p < 1.0 or asked.min_p):
            probabilities = scores.softmax(dim=0).double()
            return self._pick(probabilities, probabilities.cumsum(dim=0))
        probabilities, ids = self._likeliest(scores)
        # Nucleus: the fewest tokens whose probabilities reach top_p, the likeliest one at least.
        keep = (probabilities.cumsum(dim=0) - probabilities) < self._top_p
        keep &= probabilities >= asked.min_p * probabilities[0]
        keep[0] = True
        probabilities = probabilities * keep
        return int(ids[self._pick(probabilities, probabilities.cumsum(dim=0))])

    def _likeliest(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Probabilities and ids, the likeliest first, of at least those tokens that may be drawn."""
        asked, size = self._sampling, scores.shape[-1]
        if asked.top_k:
            best, ids = scores.topk(min(asked.top_k, size))
            return best.softmax(dim=0).double(), ids
        total = scores.logsumexp(dim=0)
        best, ids = scores.topk(min(LIKELIEST, size))
        probabilities = (best - total).exp().double()
        if float(probabilities.sum()) < self._top_p and probabilities[-1] >= asked.min_p * probabilities[0]:
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
