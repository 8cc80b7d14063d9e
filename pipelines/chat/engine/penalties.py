"""What it costs to say again what was said: repetition, presence and frequency penalties.

A greedy stream needs the best token under its penalties. They change few logits: the best of all others is found first,
of every stream in one go, and then compared with those few.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipelines.events import Sampling
from pipelines.kernels import argmax

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

FIRST = 256  # distinct tokens that there is room for at first


@dataclass(frozen=True, slots=True)
class Changes:
    """The tokens whose logits change, and what it depends on."""

    ids: Ids
    said: Floats  # how often the reply has said each
    more: Floats  # to add: 0, or minus infinity where it must not be drawn


class Penalties:
    """The tokens of one request whose logits are changed, and by what.

    ``presence_penalty`` and ``frequency_penalty`` count the reply; ``repetition_penalty`` the prompt too, unless the
    request says otherwise. ``banned`` tokens are never drawn.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int] = (), banned: Iterable[int] = ()) -> None:
        repetition = 1.0 if sampling.repetition_penalty is None else sampling.repetition_penalty
        self.factors = (repetition, sampling.presence_penalty or 0.0, sampling.frequency_penalty or 0.0)
        self.counts = self.factors != (1.0, 0.0, 0.0)
        self._at: dict[int, int] = {}  # where each token is in the arrays
        self._largest = -1
        self._ids: Ids = np.zeros(FIRST, dtype=np.int64)
        self._said: Floats = np.zeros(FIRST, dtype=np.float32)
        self._more: Floats = np.zeros(FIRST, dtype=np.float32)
        for token in prompt if repetition != 1.0 and sampling.repetition_prompt is not False else ():
            self._place(token)
        for token in banned:
            place = self._place(token)  # which may make the arrays anew
            self._more[place] = -np.inf
        self.any = self.counts or bool(self._at)  # whether a logit may be changed

    def count(self, token: int) -> None:
        """The reply has said this token."""
        if self.counts:
            place = self._place(token)
            self._said[place] += 1

    def changes(self, size: int, ahead: Sequence[int] = ()) -> Changes:
        """What changes of ``size`` logits once ``ahead`` was said too."""
        count = len(self._at)
        ids, said, more = self._ids[:count], self._said[:count], self._more[:count]
        if ahead and self.counts:
            new = [token for token in dict.fromkeys(ahead) if token not in self._at]
            ids = np.append(ids, np.array(new, dtype=np.int64))
            said, more = (np.append(each, np.zeros(len(new), dtype=np.float32)) for each in (said, more))
            for token in ahead:
                said[ids == token] += 1
        if self._largest < size:
            return Changes(ids, said, more)
        known = ids < size
        return Changes(ids[known], said[known], more[known])

    def _place(self, token: int) -> int:
        if (place := self._at.get(token)) is None:
            place = self._at[token] = len(self._at)
            if place == len(self._ids):
                self._ids = np.append(self._ids, np.zeros_like(self._ids))
                self._said, self._more = (np.append(each, np.zeros_like(each)) for each in (self._said, self._more))
            self._ids[place] = token
            self._largest = max(self._largest, token)
        return place


def penalised(logits: Floats, changes: Changes, factors: tuple[float, float, float] | Floats) -> Floats:
    """Logits of the tokens that change, (N,), under penalties.

    ``factors`` are the repetition, presence and frequency penalty: numbers, or (N,) each. As in transformers
    (https://arxiv.org/abs/1909.05858) and in OpenAI's interface.
    """
    repetition, presence, frequency = (np.asarray(factor, dtype=np.float32) for factor in factors)
    scores = np.where(logits > 0, logits / repetition, logits * repetition)
    scores -= np.where(changes.said > 0, presence + frequency * changes.said, np.float32(0))
    scores += changes.more
    return scores


@dataclass(frozen=True, slots=True)
class Row:
    """A row of logits whose best token is to be found under penalties, once ``ahead`` was said too."""

    row: int
    penalties: Penalties
    ahead: Sequence[int]


@torch.inference_mode()
def best_tokens(logits: Tensor, rows: Sequence[Row]) -> list[int]:
    """The best token of every row of ``logits`` (N, V), of these ``rows`` under their penalties.

    What is penalised is computed in float32; the lower id wins a tie. ``logits`` are the same afterwards.
    """
    size = logits.shape[-1]
    parts = [(each, changes) for each in rows if len((changes := each.penalties.changes(size, each.ahead)).ids)]
    if not parts:
        return argmax(logits)
    counts = [len(part.ids) for _, part in parts]
    changes = Changes(*map(np.concatenate, zip(*((part.ids, part.said, part.more) for _, part in parts), strict=True)))
    starts = np.array([each.row * size for each, _ in parts])
    places = torch.from_numpy(changes.ids + np.repeat(starts, counts)).to(logits.device)
    flat = logits.reshape(-1)
    before = flat.index_select(0, places)
    flat.index_fill_(0, places, float("-inf"))
    best = argmax(flat.view(-1, size))
    others = flat.index_select(0, torch.from_numpy(starts + [best[each.row] for each, _ in parts]).to(logits.device))
    flat.index_copy_(0, places, before)
    factors = np.repeat(np.array([each.penalties.factors for each, _ in parts], dtype=np.float32), counts, axis=0).T
    scores = penalised(before.float().cpu().numpy(), changes, factors)
    ends: Ids = np.cumsum(counts, dtype=np.int64)
    tops = np.maximum.reduceat(scores, ends - counts).tolist()
    for (each, part), top, other, end in zip(parts, tops, others.tolist(), ends.tolist(), strict=True):
        if top >= other:
            first = int(part.ids[scores[end - len(part.ids) : end] == top].min())
            best[each.row] = first if top > other else min(first, best[each.row])
    return best
