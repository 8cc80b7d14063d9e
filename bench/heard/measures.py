"""Pure helpers: words and their errors, sounds mixed and spliced, and what a policy of turns would do with scores."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.written import words as english
from pipelines.events import AUDIO_RATE

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]  # (N,), mono, within [-1, 1], AUDIO_RATE a second

# American and joined spellings of what the corpus says: a recogniser may write either.
SPELLINGS = {
    "color": "colour", "neighbor": "neighbour", "anymore": "any more", "cannot": "can not", "can't": "can not",
    "doesn't": "does not", "let's": "let us", "i'd": "i would", "what's": "what is", "it's": "it is", "ok": "okay",
    "i'm": "i am",
}  # fmt: skip
NUMBERS = {
    "de": "null eins zwei drei vier fünf sechs sieben acht neun zehn elf zwölf",
    "es": "cero uno dos tres cuatro cinco seis siete ocho nueve diez once doce",
    "fr": "zéro un deux trois quatre cinq six sept huit neuf dix onze douze",
}
TWENTY = {"de": "zwanzig", "es": "veinte", "fr": "vingt"}


def spoken(text: str, language: str = "en") -> list[str]:
    """A text as the words that are said: lower case, no punctuation, numbers in words."""
    if language == "en":
        text = re.sub(r"\$(\d[\d,.]*\d|\d)", r"\1 dollars", text)
        return " ".join(SPELLINGS.get(word, word) for word in english(text)).split()
    numbers = dict(enumerate(NUMBERS[language].split())) | {20: TWENTY[language]}
    text = unicodedata.normalize("NFC", text.lower().replace("’", "'").replace("œ", "oe"))
    text = re.sub(r"\b\d+\b", lambda found: numbers.get(int(found[0]), found[0]), text)
    return re.sub(r"[^\w\s]", " ", text).split()


def errors(said: Sequence[str], heard: Sequence[str]) -> int:
    """Words that were replaced, left out or added: the edit distance."""
    row = list(range(len(heard) + 1))
    for number, word in enumerate(said, start=1):
        before, row[0] = row[0], number
        for index, other in enumerate(heard, start=1):
            before, row[index] = row[index], min(before + (word != other), row[index] + 1, row[index - 1] + 1)
    return row[-1]


def power(audio: "Floats") -> float:
    """The mean square of what of it is not silent."""
    loud = audio[np.abs(audio) > 0.01 * np.abs(audio).max(initial=0.0)]
    return float(np.square(loud).mean()) if len(loud) else 0.0


def mixed(speech: "Floats", noise: "Floats", decibels: float) -> "Floats":
    """Speech over noise that is ``decibels`` less powerful; the noise is repeated or cut to the speech's length."""
    noise = np.resize(noise, len(speech))
    scale = np.sqrt(power(speech) / max(power(noise), 1e-12) / 10 ** (decibels / 10))
    made: Floats = (speech + noise * np.float32(scale)).astype(np.float32)
    return made


def spliced(*parts: "Floats", pause: float, floor: float = 10 ** (-65 / 20)) -> "Floats":
    """The parts with ``pause`` seconds of a room's quiet noise between them."""
    chance = np.random.default_rng(1)
    gap = (floor * chance.standard_normal(round(pause * AUDIO_RATE))).astype(np.float32)
    pieces = [piece for part in parts for piece in (faded(part), gap)]
    return np.concatenate(pieces[:-1])


def faded(audio: "Floats", seconds: float = 0.01) -> "Floats":
    """The sound without a click at its ends."""
    count = min(round(seconds * AUDIO_RATE), len(audio) // 2)
    ramp = np.linspace(0, 1, count, dtype=np.float32)
    made = audio.copy()
    made[:count] *= ramp
    made[len(made) - count :] *= ramp[::-1]
    return made


def last_sound(audio: "Floats", decibels: float = -40.0) -> float:
    """Seconds to the end of the last sample that is louder than this, in dB of full scale."""
    (places,) = np.nonzero(np.abs(audio) > 10 ** (decibels / 20))
    return (int(places[-1]) + 1) / AUDIO_RATE if len(places) else 0.0


@dataclass(frozen=True, slots=True)
class Pause:
    """What a model says of one silence behind speech."""

    seconds: float | None  # until speech goes on; None: it is the end
    scores: tuple[tuple[float, float], ...]  # seconds of silence, and the probability of an end that is heard then
    sentence: bool = False  # whether the words in front of it end a sentence
    more: bool = False  # whether they want more of them


@dataclass(frozen=True, slots=True)
class Waiting:
    """When a turn ends: with a score above ``threshold``, behind ``least`` seconds, or behind ``patience`` anyway."""

    threshold: float
    patience: float
    least: float = 0.2
    share: float = 1.0  # of the patience, behind words that end a sentence
    wanting: float = 0.0  # of the patience, at least, behind words that want more; 0: as behind others

    def wait(self, pause: Pause) -> float:
        """Seconds of silence after which the turn ends."""
        if self.wanting and pause.more:
            least = self.wanting * self.patience
            ended = any(score >= self.threshold and at <= least for at, score in pause.scores)
            return least if ended else self.patience
        patience = self.patience * (self.share if pause.sentence else 1.0)
        over = (max(at, self.least) for at, score in pause.scores if score >= self.threshold and at <= patience)
        return min(next(over, patience), patience)

    def judge(self, pauses: Sequence[Pause]) -> tuple[float, float]:
        """The share of pauses inside speech that it cuts, and the mean wait behind speech that is over, in seconds."""
        inside = [pause for pause in pauses if pause.seconds is not None]
        cut = [pause for pause in inside if self.wait(pause) < (pause.seconds or 0.0)]
        waits = [self.wait(pause) for pause in pauses if pause.seconds is None]
        return len(cut) / max(len(inside), 1), sum(waits) / max(len(waits), 1)


def soonest(pauses: Sequence[Pause], ways: Sequence[Waiting], most: float) -> tuple[Waiting, float] | None:
    """The way that waits least while it cuts at most this share, and its mean wait; None where there is none."""
    judged = [(way, *way.judge(pauses)) for way in ways]
    able = [(way, wait) for way, cut, wait in judged if cut <= most]
    return min(able, key=lambda each: each[1]) if able else None
