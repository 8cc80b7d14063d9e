"""How a text is worded: a linear model of its words and letters, beside what the embedding makes of it.

An embedding says what a text is about; whether it says "ignore the above" or asks what that means is lost in part.
Words, pairs of words and strings of three to five letters are hashed into a fixed number of features (Weinberger et
al. 2009), so that any language and any misspelling has some. Pure functions, in time that grows with the text alone.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BUCKETS = 2**16  # of words; as many again of letters
LETTERS = (3, 4, 5)  # in a row
FACTOR = np.uint32(0x01000193)  # of the hash of letters: FNV's prime
SPREAD = np.uint32(0x9E3779B1)  # so that neighbours do not share a bucket
_WORD = re.compile(r"\w+")
_SPACES = re.compile(r"\s+")


def features(text: str) -> tuple[NDArray[np.int64], Floats]:
    """Which features a text has, ascending, and how much of each: those of words, and of letters, of unit length."""
    text = f" {_SPACES.sub(' ', text.lower()).strip()} "
    found = _WORD.findall(text)
    words = [*found, *map(" ".join, pairwise(found))]
    hashed = np.fromiter((zlib.crc32(word.encode("utf-8", "replace")) % BUCKETS for word in words), np.int64)
    of_words, of_letters = _counted(hashed), _counted(_strings(text))
    return np.concatenate([of_words[0], of_letters[0] + BUCKETS]), np.concatenate([of_words[1], of_letters[1]])


def _strings(text: str) -> NDArray[np.int64]:
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    found = [np.zeros(0, dtype=np.int64)]
    for length in LETTERS:
        hashed = np.full(max(len(codes) - length + 1, 0), np.uint32(length))
        for at in range(length):
            hashed = hashed * FACTOR ^ codes[at : at + len(hashed)]
        found.append((hashed * SPREAD >> np.uint32(16)).astype(np.int64) % BUCKETS)
    return np.concatenate(found)


def _counted(hashed: NDArray[np.int64]) -> tuple[NDArray[np.int64], Floats]:
    places, counts = np.unique(hashed, return_counts=True)
    return places, (counts / max(float(np.linalg.norm(counts)), 1.0)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Wording:
    """Weights of the features, and what a text without any has."""

    weights: Floats  # (2 * BUCKETS,)
    bias: float

    def score(self, texts: Sequence[str]) -> Floats:
        """A logit for each text, (N,)."""
        found = np.full(len(texts), self.bias, dtype=np.float32)
        for n, text in enumerate(texts):
            places, amounts = features(text)
            found[n] += self.weights[places] @ amounts
        return found
