"""Who says a sentence, where a voice's speakers speak several languages. Kokoro's names say which: of "bf_emma" the
first letter is the language, and the second one whether it is a woman's voice."""

from collections.abc import Sequence

from pipelines.speech.settings import AUTO, SpeechSettings
from pipelines.speech.voices.interface import Cast
from pipelines.speech.voices.kokoro_phonemes import LANGUAGES
from pipelines.speech.voices.languages import LanguageDetector

PREFERRED = ("af_heart", "am_michael", "bf_emma", "bm_george")  # the best that their makers have for English


class Casting:
    """The speakers of a voice, and the languages that they speak."""

    def __init__(self, speakers: Sequence[str], settings: SpeechSettings) -> None:
        self.speakers = tuple(speakers)
        self.speaker = settings.speaker or next((name for name in PREFERRED if name in speakers), self.speakers[0])
        self._reads = "" if settings.language == AUTO else settings.language  # whoever speaks
        self._detector: LanguageDetector | None = None
        if settings.language == AUTO:
            self._detector = LanguageDetector(_base(self.language_of(name)) for name in self.speakers)

    def language_of(self, speaker: str) -> str:
        """The espeak-ng voice that reads for a speaker."""
        return self._reads or LANGUAGES[speaker[0]]

    def cast(self, text: str, speaker: str) -> Cast:
        """Who says a sentence that was asked of ``speaker``: with the language "auto", somebody who speaks its own."""
        asked = speaker or self.speaker
        found = self._detector.language(text) if self._detector is not None else ""
        if found and found != _base(self.language_of(asked)):
            able = [name for name in self.speakers if _base(LANGUAGES[name[0]]) == found]
            asked = min(able, key=lambda name: _unlike(name, asked), default=asked)
        return Cast(asked, self.language_of(asked))


def _base(language: str) -> str:
    return language.partition("-")[0]


def _unlike(speaker: str, other: str) -> tuple[bool, int]:
    """How badly one speaker stands in for another."""
    return speaker[1] != other[1], PREFERRED.index(speaker) if speaker in PREFERRED else len(PREFERRED)
