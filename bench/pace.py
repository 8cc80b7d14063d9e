"""How long a bench takes: its repeats, and the seconds of each level."""

import argparse
from dataclasses import dataclass

QUICK_SECONDS = 1.0


@dataclass(frozen=True)
class Pace:
    """Repeats of everything, and seconds of one level of one load."""

    repeats: int
    seconds: float
    quick: bool = False  # to try a bench: its figures mean nothing

    @property
    def share(self) -> float:
        """Of what is counted rather than timed."""
        return 0.02 if self.quick else 1.0


def parser(description: str | None, usual: Pace) -> argparse.ArgumentParser:
    """A command line with the options of a pace."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--repeats", type=int, default=usual.repeats, help="of each load, of which the median counts")
    made.add_argument("--seconds", type=float, default=usual.seconds, help="of each level of clients")
    made.add_argument("--quick", action="store_true", help="to try it out: one repeat, a second a level")
    return made


def chosen(asked: argparse.Namespace) -> Pace:
    """The pace that the command line asks for."""
    return Pace(1, QUICK_SECONDS, quick=True) if asked.quick else Pace(asked.repeats, asked.seconds)
