"""Draft tokens by prompt lookup: what followed the last tokens when they occurred before in the same text.

A reply often repeats its prompt or itself. Draft tokens are verified in the forward pass of the sampled one, and
accepted as far as the model says the same, so the text is the same as without them.
"""

from collections.abc import Sequence

MATCH = 3  # tokens that must have occurred before
SEARCHED = 1024  # tokens that are looked through, from the end
LONGEST = 4  # draft tokens a step
PATIENCE = 4  # steps without draft tokens after a rejected draft, doubled each time
MOST_PATIENCE = 64


class PromptLookup:
    """Drafts for one stream, fewer the more often they were rejected."""

    def __init__(self) -> None:
        self._wait = 0
        self._patience = PATIENCE

    def draft(self, tokens: Sequence[int], most: int) -> list[int]:
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

    def learn(self, drafted: int, accepted: int) -> None:
        """How many draft tokens were accepted."""
        if not drafted:
            return
        if accepted:
            self._patience = PATIENCE
        else:
            self._wait, self._patience = self._patience, min(2 * self._patience, MOST_PATIENCE)
