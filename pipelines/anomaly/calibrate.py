"""From scores to p-values: split conformal prediction, by kind of message, with one budget of false alarms for all
heads.

Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World" (2005): where s is a new normal message's score
and n scores of normal messages were set aside, p = (1 + how many of these are ≥ s) / (n + 1) is at most α with a
probability of at most α. That holds for each cell of messages on its own ("Mondrian"), so that long or foreign
messages, whose scores are higher by nature, do not take up everybody's false alarms.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

Scored = tuple[Sequence[float], Sequence[str]]  # scores, and the cell of each message
HeadName = Literal["surface", "letters", "order", "injection", "semantic"]
HEADS: tuple[HeadName, ...] = get_args(HeadName)
CELLS = ("short", "medium", "long", "accented", "other scripts")
MOST = 5000  # scores of a cell that are kept
SHORT, MEDIUM = 40, 200  # characters


class CalibrationError(ValueError):
    """A calibration that can't be trusted; the message says why."""


def cell(text: str) -> str:
    """The kind of message that a normalised text is, for calibration."""
    letters = [character for character in text if character.isalpha()]
    if sum(letter > "\u02af" for letter in letters) * 3 > len(letters):
        return "other scripts"
    if sum(letter > "\x7f" for letter in letters) * 33 > len(letters):
        return "accented"
    return "short" if len(text) <= SHORT else "medium" if len(text) <= MEDIUM else "long"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Scores of normal messages that were set aside, and what share of the false alarms each head may cause."""

    scores: Mapping[tuple[HeadName, str], Floats]  # by head and cell, ascending
    shares: Mapping[HeadName, float]  # of α; their sum is 1
    _pools: Mapping[HeadName, Floats] = field(init=False, repr=False)  # of each head, all cells together, ascending

    def __post_init__(self) -> None:
        """Raises: CalibrationError when the numbers can't come from a calibration."""
        if set(self.shares) != set(HEADS) or not math.isclose(sum(self.shares.values()), 1, abs_tol=1e-6):
            raise CalibrationError("the heads' shares of the false alarms do not add up to 1")
        if any(not 0 <= share <= 1 for share in self.shares.values()):
            raise CalibrationError("a head's share of the false alarms is not between 0 and 1")
        for head in HEADS:
            if not sum(len(self._scores(head, name)) for name in CELLS):
                raise CalibrationError(f"there are no scores of the {head} head")
        for (head, name), scores in self.scores.items():
            if head not in HEADS or name not in CELLS or scores.ndim != 1:
                raise CalibrationError(f"there is no {head} head with messages that are {name}")
            if not np.isfinite(scores).all() or (np.diff(scores) < 0).any():
                raise CalibrationError(f"the scores of the {head} head are not numbers in ascending order")
        pools = {head: np.sort(np.concatenate([self._scores(head, name) for name in CELLS])) for head in HEADS}
        object.__setattr__(self, "_pools", pools)

    @classmethod
    def of(cls, scores: Mapping[HeadName, Scored], shares: Mapping[HeadName, float]) -> "Calibration":
        """From each head's scores of normal messages, and the cells of these."""
        kept = {}
        for head, (values, cells) in scores.items():
            for name in CELLS:
                of_cell = np.array(
                    [v for v, where in zip(values, cells, strict=True) if where == name], dtype=np.float32
                )
                few = np.random.default_rng(0).permutation(of_cell)[:MOST]
                kept[head, name] = np.sort(few)
        return cls(kept, shares)

    def _scores(self, head: HeadName, name: str) -> Floats:
        return self.scores.get((head, name), np.zeros(0, dtype=np.float32))

    def judges(self, head: HeadName, name: str, alpha: float) -> bool:
        """Whether a cell has so many scores that one above them all is found; else all cells judge together."""
        return (len(self._scores(head, name)) + 1) * alpha * self.shares[head] >= 1

    def p_value(self, head: HeadName, name: str, score: float, alpha: float = 0.01) -> float:
        """How often a normal message of this cell has such a score or a higher one; 1 / (n + 1) at least."""
        scores = self._scores(head, name) if self.judges(head, name, alpha) else self._pools[head]
        if not math.isfinite(score):  # no number is more unusual
            return 1 / (len(scores) + 1)
        above = len(scores) - int(np.searchsorted(scores, np.float32(score), side="left"))
        return (1 + above) / (len(scores) + 1)

    def combined(self, p_values: Mapping[HeadName, float]) -> tuple[float, HeadName]:
        """One p-value for the message, and the head it is due to: each head's, divided by its share (Bonferroni)."""
        shared = {head: p / self.shares[head] for head, p in p_values.items() if self.shares[head] > 0}
        head = min(shared, key=shared.__getitem__)
        return min(shared[head], 1.0), head

    def least_alpha(self) -> float:
        """The smallest α at which every head with a share can find anything, given how many scores there are."""
        return max(1 / (len(self._pools[head]) + 1) / share for head, share in self.shares.items() if share > 0)
