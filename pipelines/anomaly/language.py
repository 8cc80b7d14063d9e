"""Two small n-gram models of normal text: how unusual are a message's letters, and the order of its words?

Letters: trigrams and 4-grams; noise, codes and key mash consist of n-grams that hardly occur. Words: bigrams, by how
much likelier a word is behind the word before it than anywhere; a heap of words without grammar gains nothing. Counts
are hashed into a byte each, so that the size does not depend on the data.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float64]

LETTER_BUCKETS = {3: 1 << 17, 4: 1 << 18}
PAIR_BUCKETS = 1 << 19
VOCABULARY = 8000
RARE = 3  # occurrences from which on a word is in the vocabulary
FLOOR = 15.9375  # nats; a run of letters that was never seen is this unusual
NATS = 16  # steps a nat, of a byte
LETTERS_BEFORE = 8  # imagined letters of usual kind, so that a short message is not judged by two of them
WORDS_BEFORE = 6
USUAL_LETTERS, USUAL_WORDS = 9.0, 1.6  # nats, of what is imagined
PAIRS_BEFORE = 20.0  # imagined occurrences of a word, as likely behind one word as behind another
STRETCH = 24  # characters of the least usual stretch
WORD = re.compile(r"\w+(?:'\w+)?|[^\w\s]")
EDGE = "\x00"  # stands for the beginning and the end


def _runs(text: str, length: int) -> NDArray[np.int64]:
    """The bucket of every run of so many characters; digits count as one character, and cases do not differ."""
    points = np.frombuffer(f" {text.lower()} ".encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.int64)
    points = np.where((points >= 48) & (points < 58), 48, points)
    if len(points) < length:
        points = np.concatenate((points, np.full(length - len(points), 32)))
    hashed = np.zeros(len(points) - length + 1, dtype=np.int64)
    for offset in range(length):
        hashed = (hashed * 1_000_003 + points[offset : len(points) - length + 1 + offset]) % 2_147_483_647
    return hashed % LETTER_BUCKETS[length]


def _tokens(text: str) -> list[str]:
    return [EDGE, *WORD.findall(text.lower()), EDGE]


@dataclass(frozen=True, slots=True)
class Language:
    """Counts of normal text."""

    runs: Mapping[int, Bytes]  # by length: how unusual each bucket is, in steps
    vocabulary: tuple[str, ...]  # words, numbered from 1 on; 0 is every other word
    words: NDArray[np.float32]  # (vocabulary + 1,), counts
    pairs: Bytes  # (PAIR_BUCKETS,), logarithms of counts, in steps
    _numbers: Mapping[str, int] = field(repr=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_numbers", {word: number for number, word in enumerate(self.vocabulary, 1)})

    @classmethod
    def count(cls, texts: Sequence[str], others: Sequence[str] = ()) -> "Language":
        """The counts of these texts, of which each says something once; ``others`` count for their letters alone.

        Word pairs of many languages in one table find no heap of words any more.
        """
        vocabulary = _vocabulary(texts)
        runs = {length: np.zeros(buckets) for length, buckets in LETTER_BUCKETS.items()}
        words, pairs = np.zeros(len(vocabulary) + 1), np.zeros(PAIR_BUCKETS)
        numbers = {word: number for number, word in enumerate(vocabulary, 1)}
        for text in (*texts, *others):
            for length, counts in runs.items():
                np.add.at(counts, _runs(text, length), 1 / max(len(text), 1) ** 0.5)  # a long text is not worth many
        for text in texts:
            said = np.array([numbers.get(word, 0) for word in _tokens(text)])
            np.add.at(words, said, 1)
            np.add.at(pairs, _pairs(said), 1)
        return cls(
            {length: _unusual(counts) for length, counts in runs.items()},
            vocabulary,
            words.astype(np.float32),
            np.minimum(np.rint(np.log1p(pairs) * NATS), 255).astype(np.uint8),
        )

    def letters(self, text: str) -> Floats:
        """The surprisal of each run of letters, in nats: the mean of its trigram's and its 4-gram's."""
        four = self.runs[4][_runs(text, 4)]
        three = self.runs[3][_runs(text, 3)][: len(four)]
        return (three.astype(np.float64) + four) / (2 * NATS)

    def log_perplexity(self, text: str) -> float:
        """The letter n-gram log-perplexity of a text, smoothed for short ones, in nats a letter."""
        return _smoothed(self.letters(text))

    def log_likelihood(self, text: str) -> float:
        """The mean log-likelihood of a text's letter n-grams, smoothed, in nats; minus infinity for no text."""
        return -self.log_perplexity(text) if text else -math.inf

    def log_perplexities(self, text: str) -> tuple[float, float]:
        """The same of the text, and, not smoothed, of the ``STRETCH`` characters where it is highest."""
        each = self.letters(text)
        if len(each) <= STRETCH:
            return _smoothed(each), float(each.mean())
        sums = np.concatenate(([0.0], np.cumsum(each)))
        return _smoothed(each), float((sums[STRETCH:] - sums[:-STRETCH]).max() / STRETCH)

    def known_words(self, text: str) -> float:
        """The share of the words that are in the vocabulary."""
        words = [word for word in WORD.findall(text.lower()) if word[0].isalpha()]
        return sum(word in self._numbers for word in words) / max(len(words), 1)

    def order_score(self, text: str) -> float:
        """The negative mean gain of each word's log-likelihood by the word before it, in nats; 0 is a heap of words."""
        said = np.array([self._numbers.get(word, 0) for word in _tokens(text)])
        before, after = said[:-1], said[1:]
        anywhere = (self.words[after] + 0.5) / (self.words.sum() + len(self.words) / 2)
        together = np.expm1(self.pairs[_pairs(said)].astype(np.float64) / NATS)
        behind = (together + PAIRS_BEFORE * anywhere) / (self.words[before] + PAIRS_BEFORE)
        gain = np.log(np.maximum(behind / anywhere, 1e-6))
        return -float((gain.sum() + USUAL_WORDS * WORDS_BEFORE) / (len(gain) + WORDS_BEFORE))


def _smoothed(each: Floats) -> float:
    return float((each.sum() + USUAL_LETTERS * LETTERS_BEFORE) / (len(each) + LETTERS_BEFORE))


def _vocabulary(texts: Iterable[str]) -> tuple[str, ...]:
    counts = Counter(word for text in texts for word in set(_tokens(text)))
    return tuple(word for word, count in counts.most_common(VOCABULARY) if count >= RARE)


def _pairs(said: NDArray[np.int64]) -> NDArray[np.int64]:
    return (said[:-1] * 30_011 + said[1:]) % 2_147_483_647 % PAIR_BUCKETS


def _unusual(counts: Floats) -> Bytes:
    with np.errstate(divide="ignore"):
        nats: Floats = -np.log(counts / counts.sum())
    steps: Bytes = np.rint(np.minimum(nats, FLOOR) * NATS).astype(np.uint8)
    return steps
