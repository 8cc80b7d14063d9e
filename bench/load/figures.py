"""What a load measured, and the table of it."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bench.results import Figures, table

SHARES = (0.5, 0.95, 0.99, 0.999)
NAMES = {
    "connect": "a socket is open",
    "first": "what is due → first text",
    "served": "what is sent → first text",
    "sound": "what is due → first sound",
    "heard": "end of speech → first sound",
    "gap": "between texts",
    "late": "the generator itself is late",
}


@dataclass
class Measured:
    """Of one process, or of all. Times are in seconds."""

    times: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in NAMES})
    outcomes: Counter[str] = field(default_factory=Counter)  # of turns: "completed", or what went wrong
    tokens: int = 0
    read: int = 0  # tokens of prompts that were not cached
    visits: int = 0
    most: int = 0  # sessions at a time
    seconds: float = 0.0  # from the first turn's due time to the last reply's end

    def add(self, other: "Measured") -> None:
        """Take in what another process measured, beside this one."""
        for name, values in other.times.items():
            self.times[name] += values
        self.outcomes.update(other.outcomes)
        self.tokens += other.tokens
        self.read += other.read
        self.visits += other.visits
        self.most += other.most
        self.seconds = max(self.seconds, other.seconds)


def joined(parts: Iterable[Measured]) -> Measured:
    """What several processes measured together."""
    whole = Measured()
    for part in parts:
        whole.add(part)
    return whole


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest of sorted values that this share of them does not exceed."""
    return values[min(int(len(values) * share), len(values) - 1)]


def figures(measured: Measured) -> Figures:
    """By name, times in milliseconds."""
    found: Figures = {
        "visits": measured.visits,
        "sessions": measured.most,
        "turns": sum(measured.outcomes.values()),
        "completed": measured.outcomes["completed"],
        "tokens": measured.tokens / measured.seconds if measured.seconds else 0.0,
    }
    for name, values in measured.times.items():
        ordered = sorted(values)
        for share in SHARES if ordered else ():
            found[f"{name}/p{share * 100:g}"] = quantile(ordered, share) * 1000
        if ordered:
            found[f"{name}/max"] = ordered[-1] * 1000
    return found


def report(measured: Measured) -> str:
    """Two tables in Markdown: the times, and how the turns ended."""
    found = figures(measured)
    columns = [f"p{share * 100:g}" for share in SHARES] + ["max"]
    rows = [
        [NAMES[name], str(len(values)), *(f"{found[f'{name}/{column}']:,.1f}" for column in columns)]
        for name, values in measured.times.items()
        if values
    ]
    ends = [[outcome, f"{count:,}"] for outcome, count in measured.outcomes.most_common()]
    return (
        f"{measured.visits:,} users, {measured.most:,} sessions at a time at most, "
        f"{found['turns']:,.0f} turns, {found['tokens']:,.0f} tokens/s\n\n"
        + table(["ms", "of", *columns], rows)
        + "\n"
        + table(["turns that ended as", "of"], ends)
    )
