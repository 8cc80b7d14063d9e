"""Which word is said when: from the length of every phoneme to the end of every word."""

import re
from collections.abc import Callable, Sequence
from itertools import accumulate

from pipelines.speech.voices.interface import WordEnd

WORD = re.compile(r"\S+")


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
    borders = [*(place for place, phoneme in enumerate(phonemes) if phoneme == " "), len(phonemes)]
    places = borders
    if len(borders) != len(words):
        weights = [max(count(word[0]), 1) for word in words]
        scale = len(phonemes) / sum(weights)
        places = _settled([round(sum_ * scale) for sum_ in accumulate(weights)], borders)
    last = len(ends)
    return tuple(
        WordEnd(word.end(), ends[min(max(place, 1), last) - 1]) for word, place in zip(words, places, strict=True)
    )


def even_word_ends(text: str, samples: int) -> tuple[WordEnd, ...]:
    """For voices without durations: as if every character took the same time."""
    length = max(len(text.rstrip()), 1)
    return tuple(WordEnd(word.end(), samples * word.end() // length) for word in WORD.finditer(text))


def _settled(guesses: Sequence[int], borders: Sequence[int]) -> list[int]:
    """Where words end: each pause between phonemes is the end of the word nearest to it, and of that one only."""
    fewer, more = sorted((guesses, borders), key=len)
    chosen: list[int] = []  # of ``more``, one for each of ``fewer``
    for number, place in enumerate(fewer):
        first = chosen[-1] + 1 if chosen else 0
        behind = len(more) - (len(fewer) - number) + 1  # as many must be left as are still to come
        chosen.append(min(range(first, behind), key=lambda each: abs(more[each] - place)))
    if fewer is guesses:
        return [borders[each] for each in chosen]
    known = dict(zip(chosen, borders, strict=True))
    settled: list[int] = []
    low = 0
    for each, guess in enumerate(guesses):  # what is only guessed stays between the pauses around it
        high = next((known[behind] for behind in range(each, len(guesses)) if behind in known), borders[-1])
        low = known.get(each, min(max(guess, low), high))
        settled.append(low)
    return settled
