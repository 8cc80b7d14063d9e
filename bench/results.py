"""What a bench found: tables in Markdown for people, and its figures in JSON, by which ``bench.goals`` judges."""

import json
import math
import statistics
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from bench.machine import machine

FOLDER = Path("bench/results")
LOG = FOLDER / "servers.log"

Figures = dict[str, float]
Runs = dict[tuple[str, ...], list[Figures]]  # what was measured, by what and of whom; a run each


def ratio(figure: float, other: float) -> float:
    """``figure`` over ``other``, where that is not 0."""
    return figure / other if other else math.inf


def median(runs: Sequence[Figures]) -> Figures:
    """Figure by figure, over the repeats."""
    return {key: statistics.median(each[key] for each in runs) for key in runs[0]}


def medians(runs: Runs) -> Figures:
    """The same for every key of ``runs``, each under a path: the key's parts, then the figure's name."""
    return {
        "/".join(part for part in (*key, name) if part): value
        for key, each in runs.items()
        if each
        for name, value in median(each).items()
    }


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def head(name: str, detail: str = "") -> str:
    """The hardware, the day and the command of a bench."""
    command = " ".join([f"python -m bench.{name}", *sys.argv[1:]])
    return f"{machine()}; {datetime.now(UTC):%Y-%m-%d}; `{command}`" + (f", {detail}" if detail else "")


def write(name: str, text: str, figures: Figures) -> None:
    """Write NAME.md and NAME.json into the folder of results."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.md").write_text(text)
    found = {key: value if math.isfinite(value) else None for key, value in figures.items()}
    now = datetime.now(UTC)
    seconds = round(now.timestamp() - psutil.Process().create_time())
    written = {"time": now.isoformat(timespec="seconds"), "seconds": seconds, "figures": found}
    (FOLDER / f"{name}.json").write_text(json.dumps(written, indent=1) + "\n")


def show(name: str, text: str, figures: Figures) -> None:
    """Write them, and print the text."""
    write(name, text, figures)
    sys.stdout.write(f"\n{text}")
    sys.stdout.flush()


@dataclass(frozen=True)
class Results:
    """What is in the folder of results."""

    figures: Figures  # of every bench, each under its bench's name
    times: list[str]  # when the benches ended
    seconds: dict[str, int]  # that each bench took


def read() -> Results:
    """Everything that the benches wrote."""
    figures: Figures = {}
    times: list[str] = []
    seconds: dict[str, int] = {}
    for path in sorted(FOLDER.glob("*.json")):
        written: dict[str, Any] = json.loads(path.read_text())
        times.append(written["time"])
        seconds[path.stem] = written["seconds"]
        figures |= {f"{path.stem}/{key}": value for key, value in written["figures"].items() if value is not None}
    return Results(figures, sorted(times), seconds)
