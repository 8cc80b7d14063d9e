"""Pauses between attempts: twice as long each time, and never the same for two servers that wait for one thing."""

import random


class Pauses:
    """Seconds, from ``first`` to ``longest``, each half to one and a half times that."""

    def __init__(self, first: float, longest: float) -> None:
        self.next = first  # without chance
        self._first = first
        self._longest = longest

    def reset(self) -> None:
        """An attempt has succeeded."""
        self.next = self._first

    def take(self) -> float:
        """The next pause."""
        pause, self.next = self.next, min(2 * self.next, self._longest)
        return pause * random.uniform(0.5, 1.5)  # noqa: S311 - no secret
