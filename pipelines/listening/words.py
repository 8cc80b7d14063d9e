"""What words mean for a turn: nothing at all, agreement, an order to stop, an echo of the reply, or something."""

import re
import unicodedata
import zlib
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import cache
from pathlib import Path

from pipelines.listening.echoes import beyond, echoes
from pipelines.listening.interface import Transcript

MOST_SAID = 400  # characters of the reply in which an echo is looked for
# Mean log-probabilities of words, below which they are not believed.
SURE = -0.7  # over a reply
CERTAIN = -0.5  # behind an echo
ORDER = -1.5  # of an order to stop and nothing else, that is clearly spoken
LIKELY = -1.0  # of words that are often imagined: a short answer such as "Okay." is never as certain as others
UNBELIEVED = -1.1  # of any words
CLEAR = 0.85  # mean probability of speech, below which that bound rises: a crowd sounds like speech, but less so
RISE = 6.0  # of the bound, for each unit below CLEAR
BELIEVED = -0.15  # where the bound ends
SILENT = 0.6  # probability of no speech, beyond which words that are not certain are not believed
FEW = 2  # words that are not believed over a reply where it may be that nothing was said
POLITE = frozenset(
    {"please", "okay", "ok", "no", "it", "that", "now", "a", "moment", "minute", "second"}
)  # in an order
REPEATED = 4  # times that a recogniser says the same thing when it hears none
COMPRESSION = 2.4  # bytes of a text to its compressed ones, beyond which it repeats itself: Whisper's own bound

HUM = re.compile(r"(?:m+|h+m+|u+h+|u+m+|a+h+|e+h+|h+u+h+|e+r+m*)+")
IN_BRACKETS = re.compile(r"[\[(（【*♪♫][^\])）】*♪♫]*(?:[\])）】*♪♫]|$)")


@cache
def _imagined() -> frozenset[str]:
    """What Whisper hears in noise: it learned from subtitles."""
    lines = Path(__file__).with_name("imagined.txt").read_text(encoding="utf-8").splitlines()
    return frozenset(map(plain, lines))


class Meaning(Enum):
    """What words over a reply are."""

    NOTHING = auto()
    AGREEMENT = auto()
    ECHO = auto()
    STOP = auto()
    SOMETHING = auto()


def plain(text: str) -> str:
    """Lower case, without accents, punctuation and what stands in brackets: words with a space between them."""
    text = IN_BRACKETS.sub(" ", text)
    text = unicodedata.normalize("NFKD", text.casefold())
    text = "".join(
        " " if sign in "-–—/" or sign.isspace() else sign
        for sign in text
        if sign.isalnum() or sign.isspace() or sign in "-–—/"
    )
    return " ".join(text.split())


def imagined(transcript: Transcript, *, certainty: float = 1.0) -> bool:
    """Whether a recogniser heard these words where nothing was said.

    ``certainty`` is the mean probability of speech over the turn.
    """
    words = plain(transcript.text)
    if not words:
        return True
    if transcript.logprob < min(UNBELIEVED + RISE * max(CLEAR - certainty, 0.0), BELIEVED):
        return True
    if transcript.no_speech > SILENT and transcript.logprob < SURE:
        return True
    if words in _imagined() and (transcript.logprob < LIKELY or transcript.no_speech > SILENT / 2 or certainty < 0.8):
        return True
    return repeated(words)


def repeated(words: str, times: int = REPEATED) -> bool:
    """Whether a few words, or the syllables of one, come again and again, and little else does."""
    text = words.encode()
    if len(text) > COMPRESSION * len(zlib.compress(text)):
        return True
    parts = words.split()
    for size in (1, 2, 3, 4):
        if len(parts) >= size * times and len(set(zip(*(parts[i:] for i in range(size)), strict=False))) <= size:
            return True
    return False


@dataclass(frozen=True, slots=True)
class Said:
    """The end of what a reply has said."""

    text: str = ""

    def __add__(self, text: str) -> "Said":
        return replace(self, text=(self.text + text)[-MOST_SAID:]) if text else self

    def echoes(self, words: str, *, doubtful: bool = False) -> bool:
        """Whether most of these words are those of the reply, in its order; or may be, where they are doubtful."""
        return echoes(words.split(), plain(self.text).split(), doubtful=doubtful)

    def interrupted(self, words: str) -> bool:
        """Whether somebody else says the last words of its echo."""
        return beyond(words.split(), plain(self.text).split())


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """Words that stop a reply at once, and words that only say that somebody listens; plain ones."""

    stop: frozenset[str] = frozenset()
    agreement: frozenset[str] = frozenset()

    @classmethod
    def of(cls, stop: tuple[str, ...], agreement: tuple[str, ...]) -> "Vocabulary":
        """From words as people write them."""
        return cls(frozenset(map(plain, stop)), frozenset(map(plain, agreement)))

    def meaning(self, transcript: Transcript, said: Said, certainty: float) -> Meaning:
        """What words that are heard over a reply mean."""
        words = plain(transcript.text)
        clear = ORDER if self.orders(transcript) and certainty >= CLEAR else UNBELIEVED
        if transcript.logprob > clear and self._stops(words, plain(said.text)):
            return Meaning.STOP
        if imagined(transcript, certainty=certainty) or transcript.logprob < SURE:
            return Meaning.NOTHING
        if len(words.split()) <= FEW and transcript.no_speech > SILENT / 2 and not self._agrees(words):
            return Meaning.NOTHING
        if self._agrees(words):
            return Meaning.AGREEMENT
        if said.echoes(words, doubtful=transcript.logprob < CERTAIN):
            others = transcript.logprob >= CERTAIN and said.interrupted(words)
            return Meaning.SOMETHING if others else Meaning.ECHO
        return Meaning.SOMETHING

    def orders(self, transcript: Transcript) -> bool:
        """Whether the words are an order to stop and nothing else, however often it is said."""
        words = f" {plain(transcript.text)} "
        rest = words
        for order in sorted(self.stop, key=len, reverse=True):
            rest = rest.replace(f" {order} ", "  ").replace(f" {order} ", "  ")  # each takes the space of the next
        return rest != words and not set(rest.split()) - POLITE

    def _stops(self, words: str, said: str) -> bool:
        """Whether the words are an order to stop, perhaps with a few around it, that is none of the reply's own."""
        return any(
            f" {order} " not in f" {said} "
            and (words == order or words.startswith(order + " ") or words.endswith(" " + order))
            for order in self.stop
        )

    def _agrees(self, words: str) -> bool:
        """Whether all of the words only say that somebody listens."""
        if HUM.fullmatch(words.replace(" ", "")):
            return True
        rest = words.split()
        while rest:
            for size in range(min(3, len(rest)), 0, -1):
                if " ".join(rest[:size]) in self.agreement:
                    rest = rest[size:]
                    break
            else:
                return False
        return True
