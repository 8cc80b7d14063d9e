"""Kokoro: a small StyleTTS 2 model with many speakers, in ONNX.

Its graph is cut in two: what reads a clause and plans its sound, a sixth of the work, and what makes the sound. That
second part normalises over all of a clause's frames, so it can't run over windows as Piper's vocoder does; instead long
sentences are spoken clause by clause.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.speech.settings import SpeechSettings
from pipelines.speech.stretch import Stretcher
from pipelines.speech.timing import word_ends
from pipelines.speech.voices.casting import Casting
from pipelines.speech.voices.interface import Samples, VoiceError, WordEnd
from pipelines.speech.voices.kokoro_graph import DURATIONS, READER, VOCODER
from pipelines.speech.voices.kokoro_phonemes import IDS, LANGUAGES, symbols
from pipelines.speech.voices.phonemizer import Phonemizer
from pipelines.speech.voices.sessions import GraphPart

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]

RATE = 24_000
FRAME = 600  # samples
SLOWEST, FASTEST = 0.6, 1.4  # speeds that the model makes itself: it reaches about twice; the rest is stretched
PAD = 0  # the id before and behind a text
MOST_SYMBOLS = 510  # of one reading
STYLES, STYLE = MOST_SYMBOLS, 256  # a speaker has a style for each number of symbols
CLAUSE = 100  # characters of text, up to which clauses are spoken together
CLAUSES = re.compile(r"(?<=[,;:–—，、；：،؛])\s+")
QUIET = (
    0.01  # of a clause's loudest sample: what is quieter at its ends is the silence that the model begins and ends with
)
LEAD, TAIL = round(0.03 * RATE), round(0.1 * RATE)  # samples of it that stay
WARM_UP = "Ready to speak."


@dataclass(frozen=True, slots=True)
class _Clause:
    """What is spoken at once."""

    text: str
    begin: int  # in the sentence
    symbols: str


def _paced(audio: Floats, factor: float) -> Floats:
    """The sound, ``factor`` times as long."""
    if factor == 1.0:
        return audio
    stretcher = Stretcher(RATE, factor)
    return np.concatenate([stretcher.feed(audio), stretcher.end()])


class KokoroVoice:
    """All speakers of one model; see ``Voice``."""

    def __init__(
        self, model: "_Model", styles: Mapping[str, Floats], phonemizer: Phonemizer, settings: SpeechSettings
    ) -> None:
        self.rate = RATE
        self.speakers = tuple(styles)
        self._model = model
        self._styles = styles
        self._phonemizer = phonemizer
        self._casting = Casting(self.speakers, settings)
        self._speaker = self._casting.speaker
        self.cast, self.language_of = self._casting.cast, self._casting.language_of
        self.language = self.language_of(self._speaker)

    def say(self, text: str, speaker: str, speed: float, threads: Callable[[], int]) -> Iterator[Samples | None]:
        """Speak one sentence, clause by clause where it is long."""
        speaker = speaker or self._speaker
        said = 0  # samples
        own = min(max(speed, SLOWEST), FASTEST)
        for clause in self._clauses(text, self.language_of(speaker)):
            style = self._styles[speaker][len(clause.symbols) - 1]
            plan = self._model.plan([IDS[symbol] for symbol in clause.symbols], style, own, threads())
            yield None
            audio = self._model.sound(plan, threads())
            begin, end = _sounding(audio)
            words = self._words(clause, plan, self.language_of(speaker), begin, end, 0)
            made = _paced(audio[begin:end], own / speed)
            scale = len(made) / max(end - begin, 1)
            yield Samples(made, tuple(WordEnd(word.character, said + int(word.sample * scale)) for word in words))
            said += len(made)

    def close(self) -> None:
        """End the process that reads text."""
        self._phonemizer.close()

    def _clauses(self, text: str, language: str) -> Iterator[_Clause]:
        spans = list(_spans(text))
        for (begin, end), said in zip(spans, self._symbols([text[b:e] for b, e in spans], language), strict=True):
            parts = list(_parted(said))
            told = text[begin:end] if len(parts) == 1 else ""  # which of several parts holds a word is unknown
            yield from (_Clause(told, begin, part) for part in parts if any(map(str.isalpha, part)))

    def _symbols(self, texts: Sequence[str], language: str) -> list[str]:
        """Those of each text, in one request: each costs two switches of the process."""
        return [symbols(groups, language) for groups in self._phonemizer.phonemes(texts, language)]

    def _words(
        self, clause: _Clause, plan: "_Plan", language: str, begin: int, end: int, said: int
    ) -> tuple[WordEnd, ...]:
        """When the clause's words have been said: its samples from ``begin`` to ``end`` follow ``said`` others."""
        behind = np.cumsum(plan.durations)[1:-1].astype(int) * FRAME
        ends = [said + int(sample) for sample in np.clip(behind - begin, 0, end - begin)]
        counts: dict[str, int] = {}

        def count(word: str) -> int:
            if not counts:
                words = list(dict.fromkeys(clause.text.split()))
                counts.update(zip(words, map(len, self._symbols(words, language)), strict=True))
            return counts[word]

        words = word_ends(clause.text, clause.symbols, ends, count)
        return tuple(WordEnd(clause.begin + word.character, word.sample) for word in words)


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Where clauses that are spoken together begin and end."""
    begin = end = after = 0
    for border, behind in [*(found.span() for found in CLAUSES.finditer(text)), (len(text), len(text))]:
        if end > begin and border - begin > CLAUSE:
            yield begin, end
            begin = after
        end, after = border, behind
    yield begin, end


def _parted(said: str) -> Iterator[str]:
    """Parts that the model can read at once."""
    while len(said) > MOST_SYMBOLS:
        end = said.rfind(" ", 0, MOST_SYMBOLS) + 1 or MOST_SYMBOLS
        yield said[:end]
        said = said[end:]
    yield said


def _sounding(audio: Floats) -> tuple[int, int]:
    """Where a clause's sound begins and ends, with some of the silence around it."""
    loud = np.abs(audio)
    (places,) = np.nonzero(loud > QUIET * loud.max(initial=0.0))
    if not len(places):
        return 0, len(audio)
    return max(int(places[0]) - LEAD, 0), min(int(places[-1]) + TAIL, len(audio))


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is known of a clause before its sound is computed."""

    durations: Floats  # (2 + symbols,), frames of each and of the pads around them
    tensors: dict[str, Floats]  # what the vocoder reads


class _Model:
    """The two parts of the graph."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._reader, self._vocoder = (GraphPart(folder / f"{name}.onnx", threads) for name in (READER, VOCODER))

    def plan(self, ids: Sequence[int], style: Floats, speed: float, threads: int) -> _Plan:
        """Read the symbols and plan their sound."""
        given: dict[str, Any] = {
            "tokens": np.array([[PAD, *ids, PAD]], dtype=np.int64),
            "style": style[None],
            "speed": np.array([speed], dtype=np.float32),
        }
        made = dict(zip(self._reader.outputs, self._reader.with_threads(threads).run(None, given), strict=True))
        return _Plan(made.pop(DURATIONS).reshape(-1), {**made, "style": given["style"]})

    def sound(self, plan: _Plan, threads: int) -> Floats:
        """The samples, (N,)."""
        (audio,) = self._vocoder.with_threads(threads).run(None, plan.tensors)
        return np.asarray(audio, dtype=np.float32).reshape(-1)


def load(path: Path, parts: Path, settings: SpeechSettings, threads: int) -> KokoroVoice:
    """Load a Kokoro model that was cut into ``parts``, with the folder ``voices`` of its speakers beside it.

    Raises: VoiceError that names the file and says what is wrong with it.
    """
    styles = _styles(path.parent / "voices")
    if settings.speaker and settings.speaker not in styles:
        raise VoiceError(f"The voice {path} has no speaker {settings.speaker!r}; there is {', '.join(styles)}.")
    phonemizer = Phonemizer(LANGUAGES["a"])
    try:
        voice = KokoroVoice(_Model(parts, threads), styles, phonemizer, settings)
        for _ in voice.say(WARM_UP, "", 1.0, lambda: threads):  # espeak-ng reads its tables at its first word
            pass
    except Exception as error:
        phonemizer.close()
        log.debug("the voice could not be loaded", exc_info=True)
        raise VoiceError(f"The voice {path} is not one that can be spoken with: {error}") from None
    return voice


def _styles(folder: Path) -> dict[str, Floats]:
    """By speaker: a style for each number of symbols, (510, 256). Raises: VoiceError."""
    files = [file for file in sorted(folder.glob("*.bin")) if file.name[0] in LANGUAGES and file.stem[1:2]]
    if not files:
        raise VoiceError(f"There is no speaker in {folder}: Kokoro's are files such as af_heart.bin.")
    for file in files:
        if file.stat().st_size != 4 * STYLES * STYLE:
            raise VoiceError(f"{file} is not a speaker of Kokoro's: it does not hold {STYLES} × {STYLE} numbers.")
    return {file.stem: np.memmap(file, dtype="<f4", mode="r", shape=(STYLES, STYLE)) for file in files}
