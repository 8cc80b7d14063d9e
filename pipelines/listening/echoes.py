"""Whether words that are heard over a reply are the reply's own, and whether somebody speaks behind them.

A recogniser that hears an echo writes other words than the reply has ("the boiling egg" for "to boil an egg"), but much
the same letters in the same order. The letters are aligned with any piece of the reply.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHARE = 0.6  # of the words that are heard, in the reply's order, beyond which they are its echo
LIKE = 0.36  # likeness of the letters, beyond which they are
UNLIKE = 0.1  # likeness of the last words, up to which they are somebody else's
UNLIKE_SHARE = 0.5  # of those words in the reply, likewise
FEWEST_WORDS, FEWEST_LETTERS = 3, 9  # of somebody else
MOST_WORDS = 12  # of the last ones that are looked at


def echoes(heard: Sequence[str], said: Sequence[str], *, doubtful: bool = False) -> bool:
    """Whether most of what is heard is what was said; where it is ``doubtful``, whether some of it may be."""
    if not heard or not said:
        return False
    if common(heard, said) >= SHARE * len(heard):
        return True
    letters = "".join(heard)  # a few of them are in any text
    return len(letters) >= FEWEST_LETTERS and likeness(letters, "".join(said)) >= (UNLIKE if doubtful else LIKE)


def beyond(heard: Sequence[str], said: Sequence[str]) -> bool:
    """Whether an echo ends with words that were not said."""
    letters = "".join(said)
    for begin in range(max(len(heard) - MOST_WORDS, 1), len(heard) - FEWEST_WORDS + 1):
        last = heard[begin:]
        text = "".join(last)
        if (
            len(text) >= FEWEST_LETTERS
            and common(last, said) < UNLIKE_SHARE * len(last)
            and likeness(text, letters) <= UNLIKE
        ):
            return True
    return False


def common(one: Sequence[str], other: Sequence[str]) -> int:
    """The length of the longest subsequence that both have."""
    lengths = [0] * (len(other) + 1)
    for word in one:
        before = 0
        for index, against in enumerate(other, start=1):
            held = lengths[index]
            lengths[index] = before + 1 if word == against else max(held, lengths[index - 1])
            before = held
    return lengths[-1]


def likeness(heard: str, said: str) -> float:
    """How well all letters of ``heard`` align with some piece of ``said``: 1 if they are one, below 0 if they are not.

    A letter that is the same counts 1; one that differs, is left out or added counts -1. About 5 µs a letter.
    """
    if not heard:
        return 0.0
    letters = np.frombuffer(said.encode("utf-32-le"), np.uint32)
    places = np.arange(len(letters) + 1)
    row: NDArray[np.int64] = np.zeros(
        len(letters) + 1, np.int64
    )  # (said,): the best so far that ends behind each letter
    for sign in map(ord, heard):
        best: NDArray[np.int64] = row - 1
        np.maximum(best[1:], row[:-1] + np.where(letters == sign, 1, -1), out=best[1:])
        row = np.maximum.accumulate(best + places) - places
    return int(row.max()) / len(heard)
