"""How long the texts of one server's replies are gathered, the more of them there are the longer.

Upstreams that gather where they are asked to, as this project's do, are asked to: they are spared the pieces, and their
pieces come together. Here they are gathered once more, so that many are passed on at a time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pipelines.chat.pace import STEP, Pace, Paced
from pipelines.events import Turn

MANY = 32  # replies, which are gathered for as long as may be; fewer ones in proportion


class Gathering:
    """Of one server's replies, each of which is gathered for ``longest`` seconds at most, or as its reader wants."""

    def __init__(self, longest: float) -> None:
        self.longest = longest
        self.replies = 0
        self.pace = Pace()

    @contextmanager
    def reply(self, turn: Turn) -> Iterator["Gathered"]:
        """The turn's reply is asked for and read while the block runs."""
        self.replies += 1
        try:
            yield Gathered(self, turn)
        finally:
            self.replies -= 1


class Gathered(Paced):
    """One of them."""

    def __init__(self, all: Gathering, turn: Turn) -> None:
        super().__init__(all.pace)
        self._all = all
        # What is spoken costs nothing by the piece, and a voice waits for whole sentences already.
        self._longest = all.longest if turn.speech is None else 0.0
        self._wanted = turn.gather

    @property
    def seconds(self) -> float:
        """That it is gathered for, as things stand."""
        return max(self._longest * min(self._all.replies / MANY, 1.0), self._wanted)

    @property
    def asked(self) -> dict[str, Any]:
        """What an upstream that gathers is asked for, beside the usual."""
        return {"loquent": {"gather": round(self.seconds, 3)}} if self.seconds >= STEP else {}
