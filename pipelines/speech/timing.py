"""Which word is said when: from the length of every phoneme to the end of every word."""

import re
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import accumulate

from pipelines.speech.voice import WordEnd

WORD = re.compile(r"\S+")
NEAR = 2  # phonemes; a pause so near to where a word should end is its end


def word_ends(
    text: str, phonemes: Sequence[str], ends: Sequence[int], count: Callable[[str], int]
) -> tuple[WordEnd, ...]:
    """When each word of ``text`` has been said.

    ``phonemes`` are what is spoken, words apart by " "; ``ends`` the sample behind each of them; ``count`` says how
    many phonemes a word has alone. A language's rules may join words ("of the") or make several of one ("1999"), so
    where the numbers of words differ, words are found by how many phonemes they would have.
    """
    words = list(WORD.finditer(text))
    if not words or not ends:
        return ()
    spaces = [place for place, phoneme in enumerate(phonemes) if phoneme == " "]
    borders = [*spaces, len(phonemes)]
    if len(borders) == len(words):
        places = borders
    else:
        weights = [max(count(word[0]), 1) for word in words]
        scale = len(phonemes) / sum(weights)
        places = [_snap(round(sum_ * scale), borders) for sum_ in accumulate(weights)]
    last = len(ends)
    return tuple(
        WordEnd(word.end(), ends[min(max(place, 1), last) - 1]) for word, place in zip(words, places, strict=True)
    )


def even_word_ends(text: str, samples: int) -> tuple[WordEnd, ...]:
    """For voices that do not tell: as if every character took the same time."""
    length = max(len(text.rstrip()), 1)
    return tuple(WordEnd(word.end(), samples * word.end() // length) for word in WORD.finditer(text))


def _snap(place: int, borders: Sequence[int]) -> int:
    at = bisect_left(borders, place)
    near = min(borders[max(at - 1, 0) : at + 1], key=lambda border: abs(border - place))
    return near if abs(near - place) <= NEAR else place
