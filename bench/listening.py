"""Listening: words, ends of turns, interruptions, ghosts, echo, and the wait for an answer.

python -m bench.listening                    every part, half an hour
python -m bench.listening --only words ends  these parts alone
python -m bench.listening --quick            a fifth of each

Voices say texts of ``bench/data`` to the ears of a session, once; what they said lies in the cache. Interruptions, echo
and talk run in real time: their figures want an idle machine.
"""

import argparse
import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any

from bench import results
from bench.goals import stated
from bench.heard import echo, ends, ghosts, interruptions, talk, words
from bench.heard.notes import show_notes
from bench.pace import Pace
from bench.results import Figures

Part = Callable[[Pace, Figures], Coroutine[Any, Any, list[tuple[str, str]]]]

PARTS: dict[str, Part] = {
    "words": words.measure,
    "ends": ends.measure,
    "interruptions": interruptions.measure,
    "ghosts": ghosts.measure,
    "echo": echo.measure,
    "talk": talk.measure,
}
# The figures that have a goal, in the order of their parts.
JUDGED = (
    "english", "german", "spanish", "french", "babble", "street", "cutoffs", "interrupting", "soon", "disturbed",
    "ghosts", "echo", "first", "first95", "semantic", "four", "underruns", "beside",
)  # fmt: skip


def earlier() -> Figures:
    """The figures of parts that ran before: --only replaces those of its parts."""
    path = results.FOLDER / "listening.json"
    found: Figures = json.loads(path.read_text())["figures"] if path.is_file() else {}
    return {name: value for name, value in found.items() if value is not None}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=tuple(PARTS))
    parser.add_argument("--quick", action="store_true", help="a fifth of each part, to try it out")
    parser.add_argument("--verbose", action="store_true", help="print what is found of each sound")
    asked = parser.parse_args()
    if asked.verbose:
        show_notes()
    results.FOLDER.mkdir(parents=True, exist_ok=True)
    pace = Pace(1, 1.0, quick=asked.quick)
    figures: Figures = {} if set(asked.only) == set(PARTS) else earlier()
    text = f"## Listening\n\n{results.head('listening')}\n\n"
    for name in asked.only:
        rows = asyncio.run(PARTS[name](pace, figures))
        text += f"### {name.capitalize()}\n\n{results.table(['measure', 'figure'], rows)}\n"
    goals = [[name, f"{figures[name]:.1f}", stated(f"listening/{name}")] for name in JUDGED if name in figures]
    text += f"### Goals\n\n{results.table(['figure', 'is', 'goal'], goals)}"
    results.show("listening", text, figures)


if __name__ == "__main__":
    main()
