"""What the users of a load do, and when: drawn before the run, so that a slow server does not lighten its own load.

Users come by chance (a Poisson process). Each stays for some turns. A turn is due when its user would speak if every
reply took its nominal time: after that and the time to think. One that is due while the reply before it still runs
begins late, and its times count from when it was due; else a server that stalls would be asked less while it stalls,
and measured least where it is worst ("coordinated omission", Tene 2013).
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "text", "speech", "audio"
]  # text only; text that is answered with sound; sound that is answered with sound

SUBJECTS = ("the sea", "a lighthouse", "an old clock", "two brothers", "the first snow", "a lost dog", "a night train")


@dataclass(frozen=True, slots=True)
class Turn:
    """One thing that a user says."""

    due: float  # seconds from the run's beginning
    text: str


@dataclass(frozen=True, slots=True)
class Visit:
    """One user's session."""

    number: int
    kind: Kind
    turns: tuple[Turn, ...]  # the first one is due when the user has come

    @property
    def comes(self) -> float:
        """Seconds from the run's beginning."""
        return self.turns[0].due


@dataclass(frozen=True, slots=True)
class Load:
    """How much is asked, of what."""

    sessions: int  # that are open at a time, once as many leave as come
    seconds: float  # in which users come
    turns: int  # of a session
    think: float  # seconds between a reply's nominal end and what the user says next, the median
    nominal: float  # seconds of a reply
    speech: float  # share of the sessions that hear their replies
    audio: float  # share of those that speak, too
    seed: int

    @property
    def stay(self) -> float:
        """Seconds that a user stays, about."""
        spread = math.exp(SPREAD**2 / 2)  # the mean of the log-normal distribution over its median
        return self.turns * self.nominal + (self.turns - 1) * self.think * spread

    @property
    def rate(self) -> float:
        """Users that come in a second, so that ``sessions`` are there at a time (Little's law)."""
        return self.sessions / self.stay


SPREAD = 0.6  # of the times to think: the standard deviation of their logarithm


def visits(load: Load) -> Iterator[Visit]:
    """Every visit, in the order in which the users come. The same for the same seed."""
    chance = random.Random(load.seed)
    at, number = 0.0, 0
    while (at := at + chance.expovariate(load.rate)) < load.seconds:
        drawn = chance.random()
        kind: Kind = "audio" if drawn < load.audio else "speech" if drawn < load.audio + load.speech else "text"
        turns, due = [], at
        for turn in range(load.turns):
            subject = SUBJECTS[(number + turn) % len(SUBJECTS)]
            turns.append(
                Turn(due, f"Visitor {number} asks for the {turn + 1}. time: what is there to say about {subject}?")
            )
            due += load.nominal + chance.lognormvariate(math.log(load.think), SPREAD)
        yield Visit(number, kind, tuple(turns))
        number += 1
