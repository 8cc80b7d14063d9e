"""What a message looks like, whatever it means: lengths, kinds of characters, repetition, and how usual its letters
and words are.

Twenty-one numbers, cheap enough for every message; the last four come from ``language``.
"""

import math
import unicodedata
import zlib
from collections import Counter

import numpy as np
from numpy.typing import NDArray

from pipelines.anomaly.language import Language

Floats = NDArray[np.float32]

FEATURES = (
    "characters",
    "words",
    "mean word length",
    "longest word",
    "letters",
    "capitals",
    "digits",
    "spaces",
    "punctuation",
    "symbols and emoji",
    "letters beyond ASCII",
    "character entropy",
    "compressed size",
    "distinct words",
    "most frequent word",
    "longest run of a character",
    "repeated lines",
    "unusual letters",
    "least usual stretch",
    "known words",
    "unusual order of words",
)


def features(text: str, language: Language) -> Floats:
    """The features of a normalised message: (21,)."""
    if not text:
        return np.zeros(len(FEATURES), dtype=np.float32)
    length = len(text)
    counts = Counter(text)
    kinds: Counter[str] = Counter()
    for character, count in counts.items():
        kinds[unicodedata.category(character)[0]] += count
    letters = kinds["L"]
    capitals = sum(count for character, count in counts.items() if character.isupper())
    foreign = sum(count for character, count in counts.items() if character.isalpha() and character > "\x7f")
    words = text.split()
    usual = Counter(word.lower() for word in words)
    lines = text.splitlines()
    raw = text.encode(errors="surrogatepass")
    return np.array(
        (
            math.log1p(length),
            math.log1p(len(words)),
            math.log1p((length - kinds["Z"]) / max(len(words), 1)),
            math.log1p(max(map(len, words), default=0)),
            letters / length,
            capitals / max(letters, 1),
            kinds["N"] / length,
            sum(map(str.isspace, text)) / length,
            kinds["P"] / length,
            kinds["S"] / length,
            foreign / max(letters, 1),
            -sum(count / length * math.log2(count / length) for count in counts.values()),
            len(zlib.compress(raw, 1)) / len(raw) if len(raw) > 40 else 1.0,
            len(usual) / max(len(words), 1),
            max(usual.values(), default=0) / max(len(words), 1),
            math.log1p(_longest_run(text)),
            1 - len(set(lines)) / max(len(lines), 1),
            *language.log_perplexities(text),
            language.known_words(text),
            language.order_score(text),
        ),
        dtype=np.float32,
    )


def _longest_run(text: str) -> int:
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    changes = np.flatnonzero(np.diff(points)) + 1
    return int(np.diff(np.concatenate(([0], changes, [len(points)]))).max())
