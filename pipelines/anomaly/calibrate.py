"""From scores to p-values: split conformal prediction over messages of many kinds, with one budget of false alarms for
all heads.

Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World" (2005): where s is a new normal message's score
and n scores of normal messages were set aside, p = (1 + how many of these are ≥ s) / (n + 1) is at most α with a
probability of at most α.

Long and foreign messages have higher scores by nature and must not take up everybody's false alarms, but no language
has the hundreds of messages that a calibration of its own would need. So a score is first measured against its
language: by how many spreads it lies above the middle. Where few messages of a language are known, its middle and
spread lean on those of its script ("borrowing strength", Efron and Morris 1975); where hardly any are, they are those
of its script, which are as wide as its languages lie apart. What is measured so is comparable, and calibrated together,
or with what is about as long where there is enough of it.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipelines.anomaly.kinds import LENGTHS, Kind

Floats = NDArray[np.float32]

HeadName = Literal["surface", "letters", "order", "injection", "semantic", "documents"]
HEADS: tuple[HeadName, ...] = ("surface", "letters", "order", "injection", "semantic")  # of a message
EVERY: tuple[HeadName, ...] = (*HEADS, "documents")  # the last one is that of documents
MOST = 8000  # scores of a pool that are kept
LEAST = 4000  # scores of one length, from which on they have a pool of their own
ALL = "all"  # the pool of every length
LEAN = 25.0  # messages that what a language leans on is worth
ENOUGH = 12  # messages of a language from which on it is known
UPPER = 0.9  # the quantile whose distance from the median is the spread
NARROWEST = 1e-3  # spread


class CalibrationError(ValueError):
    """A calibration that can't be trusted; the message says why."""


@dataclass(frozen=True, slots=True)
class Level:
    """Where the scores of one kind of message lie."""

    middle: float
    spread: float
    count: int  # messages it is known from


@dataclass(frozen=True, slots=True)
class Scored:
    """Scores of normal messages by one head, and their kinds."""

    scores: Sequence[float]
    kinds: Sequence[Kind]

    def halves(self) -> tuple["Scored", "Scored"]:
        """Two halves with a fair share of every kind: what levels are taken from, and what is measured against them."""
        order = sorted(range(len(self.scores)), key=lambda n: (str(self.kinds[n]), n * 2_654_435_761 % 4_294_967_296))
        return self._pick(order[::2]), self._pick(order[1::2])

    def _pick(self, where: Iterable[int]) -> "Scored":
        chosen = list(where)
        return Scored([self.scores[n] for n in chosen], [self.kinds[n] for n in chosen])


def keys(kind: Kind) -> Iterator[str]:
    """The levels that a message's own are looked for in, from the nearest on; of each language that it may be in."""
    for language in kind.languages:
        yield f"{kind.length} {kind.script} {language}"


def lean(kind: Kind) -> tuple[str, str]:
    """What a language's level leans on: its script, and then all messages of this length."""
    return f"{kind.length} {kind.script}", kind.length


@dataclass(frozen=True, slots=True)
class Calibration:
    """Where normal scores lie, how far above they are, and what share of the false alarms each head may cause."""

    levels: Mapping[HeadName, Mapping[str, Level]]  # by what ``keys`` and ``lean`` yield
    pools: Mapping[tuple[HeadName, str], Floats]  # by length or ``ALL``: spreads above their middles, ascending
    shares: Mapping[HeadName, float]  # of α, of the heads that judge a message; their sum is 1

    def __post_init__(self) -> None:
        """Raises: CalibrationError when the numbers can't come from a calibration."""
        if set(self.shares) != set(HEADS) or not math.isclose(sum(self.shares.values()), 1, abs_tol=1e-6):
            raise CalibrationError("the heads' shares of the false alarms do not add up to 1")
        if any(not 0 <= share <= 1 for share in self.shares.values()):
            raise CalibrationError("a head's share of the false alarms is not between 0 and 1")
        for head in EVERY:
            levels = self.levels.get(head)
            if (head, ALL) not in self.pools or levels is None:
                raise CalibrationError(f"there are no scores of the {head} head")
            for pool in (pool for (of, _), pool in self.pools.items() if of == head):
                if pool.ndim != 1 or not len(pool) or not np.isfinite(pool).all() or (np.diff(pool) < 0).any():
                    raise CalibrationError(f"the scores of the {head} head are not numbers in ascending order")
            for key, level in levels.items():
                if not (math.isfinite(level.middle) and math.isfinite(level.spread) and level.spread > 0):
                    raise CalibrationError(f"the {head} head's level of messages that are {key} is none")
            if not set(levels).issuperset(LENGTHS):
                raise CalibrationError(f"the {head} head lacks the level of a length")

    @classmethod
    def fit(
        cls,
        scored: Mapping[HeadName, Scored],
        shares: Mapping[HeadName, float],
        base: "Calibration | None" = None,
    ) -> "Calibration":
        """From each head's scores of normal messages that no head was trained on.

        A head without scores stays as it is in ``base``.
        """
        levels: dict[HeadName, Mapping[str, Level]] = {}
        pools: dict[tuple[HeadName, str], Floats] = {}
        for head in EVERY:
            each = scored.get(head)
            if each is None or not each.scores:
                if base is not None:
                    levels[head] = base.levels[head]
                    pools |= {key: pool for key, pool in base.pools.items() if key[0] == head}
                continue
            first, second = each.halves()
            levels[head] = _levels(first)
            above: dict[str, list[float]] = {ALL: []}
            for score, kind in zip(second.scores, second.kinds, strict=True):
                found = _above(levels[head], kind, score)
                above[ALL].append(found)
                above.setdefault(kind.length, []).append(found)
            for length, values in above.items():
                if length == ALL or len(values) >= LEAST:
                    few = np.random.default_rng(0).permutation(np.array(values, dtype=np.float32))[:MOST]
                    pools[head, length] = np.sort(few)
        return cls(levels, pools, shares)

    def p_value(self, head: HeadName, kind: Kind, score: float) -> float:
        """How often a normal message of this kind has such a score or a higher one; 1 / (n + 1) at least.

        Of the languages that the message may be in, the one counts in which it is most usual.
        """
        pool = self.pools.get((head, kind.length), self.pools[head, ALL])
        if not math.isfinite(score):  # no number is more unusual
            return 1 / (len(pool) + 1)
        above = _above(self.levels[head], kind, score)
        return (1 + len(pool) - int(np.searchsorted(pool, np.float32(above), side="left"))) / (len(pool) + 1)

    def knows(self, head: HeadName, kind: Kind) -> bool:
        """Whether enough messages of one of its languages are known; else it is compared with all of its script."""
        return any(known(self.levels[head], key) for key in keys(kind))

    def combined(self, p_values: Mapping[HeadName, float]) -> tuple[float, HeadName]:
        """One p-value for the message, and the head it is due to: each head's, divided by its share (Bonferroni)."""
        shared = {head: p / self.shares[head] for head, p in p_values.items() if self.shares[head] > 0}
        head = min(shared, key=shared.__getitem__)
        return min(shared[head], 1.0), head

    def least_alpha(self) -> float:
        """The smallest α at which every head with a share can find anything, given how many scores there are."""
        fewest = {head: min(len(pool) for (of, _), pool in self.pools.items() if of == head) for head in HEADS}
        return max(1 / (fewest[head] + 1) / share for head, share in self.shares.items() if share > 0)


def known(levels: Mapping[str, Level], key: str) -> bool:
    """Whether a level stands on enough messages of its own."""
    return key in levels and levels[key].count >= ENOUGH


def _above(levels: Mapping[str, Level], kind: Kind, score: float) -> float:
    """How many spreads a score lies above its middle, by the known level that makes it most usual."""
    near = [key for key in keys(kind) if known(levels, key)] or [key for key in lean(kind) if key in levels][:1]
    return min((score - levels[key].middle) / levels[key].spread for key in near)


def _levels(scored: Scored) -> dict[str, Level]:
    """The levels of every length, script and language that occurs; each leans on the one above it."""
    groups: dict[str, list[float]] = {length: [] for length in LENGTHS}
    above: dict[str, str] = {}
    for score, kind in zip(scored.scores, scored.kinds, strict=True):
        script, length = lean(kind)
        own = f"{script} {kind.languages[0]}" if kind.languages else script
        above |= {script: length} | ({own: script} if own != script else {})
        for key in dict.fromkeys((length, script, own)):
            groups.setdefault(key, []).append(score)
    everything = Level(*_middle(np.array(scored.scores)), len(scored.scores))
    found: dict[str, Level] = {}
    for key in sorted(groups, key=lambda key: key.count(" ")):
        found[key] = _leaning(np.array(groups[key]), found[above[key]] if key in above else everything)
    return found


def _leaning(scores: NDArray[np.float64], on: Level) -> Level:
    """A level of these scores that leans on another one, the less so the more there are."""
    if not len(scores):
        return Level(on.middle, on.spread, 0)
    middle, spread = _middle(scores)
    own = len(scores) / (len(scores) + LEAN)
    # A spread is known less well than a middle: few scores have none above the others.
    own_spread = len(scores) / (len(scores) + 3 * LEAN)
    return Level(
        own * middle + (1 - own) * on.middle,
        math.exp(own_spread * math.log(spread) + (1 - own_spread) * math.log(on.spread)),
        len(scores),
    )


def _middle(scores: NDArray[np.float64]) -> tuple[float, float]:
    middle, upper = (float(value) for value in np.quantile(scores, [0.5, UPPER]))
    return middle, max(upper - middle, NARROWEST)
