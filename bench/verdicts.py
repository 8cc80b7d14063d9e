"""What a goal is, and whether the figures of a run meet it."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.results import Figures

Values = Callable[[Figures], Sequence[float]]  # raises KeyError where a figure was not measured

COMPARED = {"≥": operator.ge, ">": operator.gt, "≤": operator.le}


@dataclass(frozen=True)
class Goal:
    """A figure, or one for each level, and what it must be."""

    measure: str
    values: Values
    compared: str  # one of ``COMPARED``
    bounds: tuple[float, ...]  # one for all values, or one for each
    unit: str = ""
    decimals: int = 2

    @property
    def stated(self) -> str:
        """The goal in words."""
        return f"{self.compared} {self.shown(self.bounds)}"

    def shown(self, values: Sequence[float]) -> str:
        """Figures with their unit, as precise as makes sense."""
        return " / ".join(f"{value:.{self.decimals}f}" for value in values) + self.unit

    def judge(self, figures: Figures) -> "Verdict":
        """The figures beside the goal."""
        try:
            return Verdict(self, tuple(self.values(figures)))
        except KeyError:
            return Verdict(self, ())


@dataclass(frozen=True)
class Verdict:
    """What was measured for a goal; no values where nothing was."""

    goal: Goal
    values: tuple[float, ...]

    @property
    def missed(self) -> list[float]:
        """How far each value that is not as it must be is from its bound."""
        bounds = self.goal.bounds * (len(self.values) if len(self.goal.bounds) == 1 else 1)
        compare = COMPARED[self.goal.compared]
        pairs = zip(self.values, bounds, strict=True) if self.values else ()
        return [abs(value - bound) for value, bound in pairs if not compare(value, bound)]

    @property
    def met(self) -> bool:
        """Whether all values are there and as they must be."""
        return bool(self.values) and not self.missed

    @property
    def word(self) -> str:
        """What the table says of it."""
        if not self.values:
            return "not measured"
        return f"short by {self.goal.shown([max(self.missed)])}" if self.missed else "met"

    @property
    def row(self) -> list[str]:
        """Measure, figure, goal, verdict."""
        return [self.goal.measure, self.goal.shown(self.values) if self.values else "–", self.goal.stated, self.word]


def each(path: str, levels: Sequence[object]) -> Values:
    """A figure at every level; ``path`` has ``{}`` for the level."""
    return lambda figures: [figures[path.format(level)] for level in levels]


def one(path: str, scale: float = 1.0) -> Values:
    """One figure, times ``scale``."""
    return lambda figures: [figures[path] * scale]


def quotient(path: str, other: str) -> Values:
    """A figure over another one."""
    return lambda figures: [figures[path] / figures[other]]


def over_the_best(path: str, levels: Sequence[object], ours: str, others: Sequence[str]) -> Values:
    """Our figure over the highest of the others', at every level; ``path`` has ``{}`` for the server and the level."""

    def values(figures: Figures) -> list[float]:
        found = []
        for level in levels:
            theirs = [figures[key] for name in others if (key := path.format(name, level)) in figures]
            if not theirs:
                raise KeyError(path)
            found.append(figures[path.format(ours, level)] / max(theirs))
        return found

    return values


def closing(verdicts: Sequence[Verdict]) -> str:
    """How many goals are met, and which are not."""
    line = f"{sum(verdict.met for verdict in verdicts)} of {len(verdicts)} goals met"
    for word, chosen in (
        ("short", [verdict for verdict in verdicts if verdict.missed]),
        ("not measured", [verdict for verdict in verdicts if not verdict.values]),
    ):
        if chosen:
            line += f"; {word}: " + " · ".join(verdict.goal.measure for verdict in chosen)
    return line + "."
