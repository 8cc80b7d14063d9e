"""Speculation by looking up: what followed the last words when they occurred before in the same text.

A reply often repeats its prompt or itself. The guessed tokens are read in the same step as the sampled one, and kept
as far as the model would have said them, so the text is the same as without.
"""

from collections.abc import Sequence

MATCH = 3  # tokens that must have occurred before
SEARCHED = 1024  # tokens that are looked through, from the end
LONGEST = 4  # guesses a step
PATIENCE = 4  # steps that a stream waits with guessing after it guessed wrong, doubled each time
MOST_PATIENCE = 64


class Lookup:
    """Guesses for one stream, fewer the more often they were wrong."""

    def __init__(self) -> None:
        self._wait = 0
        self._patience = PATIENCE

    def guess(self, tokens: Sequence[int], most: int) -> list[int]:
        """Up to ``most`` tokens that may follow."""
        if self._wait:
            self._wait -= 1
            return []
        most = min(most, LONGEST)
        if most <= 0 or len(tokens) <= MATCH:
            return []
        first = max(0, len(tokens) - SEARCHED)
        tail = list(tokens[-MATCH:])
        for at in range(len(tokens) - MATCH - 1, first - 1, -1):
            if tokens[at + MATCH - 1] == tail[-1] and list(tokens[at : at + MATCH]) == tail:
                return list(tokens[at + MATCH : at + MATCH + most])
        return []

    def learn(self, guessed: int, right: int) -> None:
        """How a guess turned out."""
        if not guessed:
            return
        if right:
            self._patience = PATIENCE
        else:
            self._wait, self._patience = self._patience, min(2 * self._patience, MOST_PATIENCE)
