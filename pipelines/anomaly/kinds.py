"""What kind of message a text is: how long, in which script, in which languages perhaps. Calibration goes by it."""

import math
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

LENGTHS = ("short", "medium", "long")
SHORT, MEDIUM = 40, 200  # characters
# As Unicode names letters; "cjk" is Chinese, Japanese and Korean.
SCRIPTS = (
    "latin", "cyrillic", "greek", "arabic", "hebrew", "cjk", "devanagari", "bengali", "gurmukhi", "gujarati", "oriya",
    "tamil", "telugu", "kannada", "malayalam", "sinhala", "thai", "lao", "tibetan", "myanmar", "khmer", "georgian",
    "armenian", "ethiopic", "thaana", "mongolian", "other",
)  # fmt: skip
UNKNOWN = ""  # no language
READ = 400  # characters that a language is told by
LIKELY = 0.05  # probability of a language from which on the text may be in it
CANDIDATES = 3  # languages of one text at most
NO_LANGUAGE = "zxx"  # as ISO 639-2 has it
UNLIKELY = -8.0  # nats; texts of any language are less likely to be of none
_CJK = ("CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "HALFWIDTH")


@dataclass(frozen=True, slots=True)
class Kind:
    """Of one message."""

    length: str
    script: str
    languages: tuple[str, ...]  # ISO 639-1, those that it may be in, the likeliest first; none for no letters

    def as_long_as(self, text: str) -> "Kind":
        """The same kind of message with the length of this text."""
        return replace(self, length=length_of(text))

    def __str__(self) -> str:
        return f"{self.length} {self.script} {' '.join(self.languages)}".strip()

    @classmethod
    def of(cls, text: str) -> "Kind":
        """Read what ``str`` has written. Raises: ValueError."""
        length, script, *languages = text.split(" ")
        if length not in LENGTHS or script not in SCRIPTS:
            raise ValueError(f"there is no kind of message {text!r}")
        return cls(length, script, tuple(languages))


class Identifier:
    """Tells the kinds of messages. Loading takes a third of a second; for any number of threads."""

    def __init__(self) -> None:
        from py3langid.langid import MODEL_FILE, LanguageIdentifier

        self._identifier: Any = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)

    def identify(self, text: str) -> tuple[Kind, float]:
        """The kind of a normalised text, without what is pasted into it, and how likely it is that it is of no
        language, as keys that are struck at random: a logarithm, from ``UNLIKELY`` to 0."""
        letters = "".join(character for character in text[:READ] if character.isalpha() or character.isspace())
        if not letters.strip():
            return Kind(length_of(text), "latin", ()), UNLIKELY
        ranked: Sequence[tuple[str, float]] = self._identifier.rank(letters)
        noise = next((probability for code, probability in ranked if code == NO_LANGUAGE), 0.0)
        languages = [each for each in ranked[: CANDIDATES + 1] if each[0] != NO_LANGUAGE][:CANDIDATES]
        likely = tuple(str(code) for code, probability in languages if probability >= LIKELY)
        kind = Kind(length_of(text), script_of(letters), likely or (str(languages[0][0]),))
        return kind, max(math.log(max(noise, 1e-30)), UNLIKELY)

    def kind(self, text: str) -> Kind:
        """The kind alone."""
        return self.identify(text)[0]


def length_of(text: str) -> str:
    """How long a text is, as a kind says it."""
    return "short" if len(text) <= SHORT else "medium" if len(text) <= MEDIUM else "long"


def script_of(text: str) -> str:
    """The script that most of a text's letters are of."""
    found = Counter(_script(letter) for letter in text if letter.isalpha())
    return found.most_common(1)[0][0] if found else "latin"


@lru_cache(maxsize=8192)
def _script(letter: str) -> str:
    if letter < "\u0250":
        return "latin"
    name = unicodedata.name(letter, "").partition(" ")[0]
    if name.partition("-")[0] in _CJK:
        return "cjk"
    return name.lower() if name.lower() in SCRIPTS else "other"
