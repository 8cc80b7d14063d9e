"""What a voice says of written text: no mark-up, no emoji, and words for what is written in signs.

Pure. Every character of the result knows which character of the text it comes from, so that what was heard can be found
in what was written. Plain numbers are left to the voice's own language rules (espeak-ng has them for a hundred
languages); for English voices, `written/` has rules for what those get wrong.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile

from pipelines.speech.written.english import ENGLISH
from pipelines.speech.written.markup import MARKUP
from pipelines.speech.written.rules import Replacement
from pipelines.speech.written.tidy import TIDY

# Scripts that the voices of a language can read. Asked to read another one, they spell it letter by letter, in words.
SCRIPTS = {
    "ru": "CYRILLIC", "uk": "CYRILLIC", "be": "CYRILLIC", "bg": "CYRILLIC", "mk": "CYRILLIC", "kk": "CYRILLIC",
    "sr": "CYRILLIC", "el": "GREEK", "ar": "ARABIC", "fa": "ARABIC", "ur": "ARABIC", "he": "HEBREW", "hi": "DEVANAGARI",
    "ne": "DEVANAGARI", "mr": "DEVANAGARI", "bn": "BENGALI", "ta": "TAMIL", "te": "TELUGU", "ml": "MALAYALAM",
    "ka": "GEORGIAN", "hy": "ARMENIAN", "th": "THAI", "ko": "HANGUL", "zh": "CJK BOPOMOFO", "cmn": "CJK BOPOMOFO",
    "yue": "CJK", "ja": "CJK HIRAGANA KATAKANA KATAKANA-HIRAGANA",
}  # fmt: skip
LATIN = "LATIN FEMININE MASCULINE MICRO KELVIN ANGSTROM OHM GREEK FULLWIDTH MODIFIER SUPERSCRIPT SUBSCRIPT"

READ_SYMBOLS = "°©®™№℃℉"  # that are no pictures


@dataclass(frozen=True, slots=True)
class Spoken:
    """What to say, and for each of its characters the index behind the one of the source that it stands for."""

    text: str
    origins: tuple[int, ...]


def speakable(text: str, language: str) -> Spoken:
    """What a voice of this language (an espeak-ng or ISO code) says of ``text``: "" when there is nothing to say."""
    base = language.lower().replace("_", "-").partition("-")[0]
    origins = list(range(1, len(text) + 1))
    spoken = _only(text, lambda character: not _is_control(character))
    for pattern, replacement in MARKUP:
        spoken, origins = _replace(pattern, replacement, spoken, origins)
    for pattern, replacement in ENGLISH if base == "en" else ():
        spoken, origins = _replace(pattern, replacement, spoken, origins)
    spoken = _only(spoken, lambda character: _is_read(character, base))
    for pattern, replacement in TIDY:
        spoken, origins = _replace(pattern, replacement, spoken, origins)
    if not any(map(str.isalnum, spoken)):
        return Spoken("", ())
    return Spoken(spoken, tuple(origins))


def _replace(
    pattern: re.Pattern[str], replacement: Replacement, text: str, origins: list[int]
) -> tuple[str, list[int]]:
    """``re.sub`` that keeps the origins: what is put in stands for the end of what it replaces."""
    parts: list[str] = []
    kept: list[int] = []
    at = 0
    for found in pattern.finditer(text):
        new = replacement if isinstance(replacement, str) else replacement(found)
        parts += [text[at : found.start()], new]
        kept += origins[at : found.start()]
        kept += _placed(new, found[0], origins[found.start() : found.end()])
        at = found.end()
    if not at:
        return text, origins
    return "".join(parts) + text[at:], kept + origins[at:]


def _placed(new: str, old: str, origins: list[int]) -> Iterable[int]:
    """Where the characters of ``new`` come from, which stands for ``old``, whose characters come from ``origins``."""
    if new and new in old:  # a part of what was there: it stays where it was
        begin = old.index(new)
        return origins[begin : begin + len(new)]
    signs = [place for place, character in enumerate(old) if character.isdigit() or character == "+"]
    said = new.split(" ")
    if len(signs) > 2 and len(said) == len(signs):  # digit by digit
        return [origins[place] for place, word in zip(signs, said, strict=True) for _ in f"{word} "][: len(new)]
    same = _same(new, old)
    rest = _same(new[same:][::-1], old[same:][::-1])
    last = origins[max(len(old) - rest, same, 1) - 1]
    return [*origins[:same], *[last] * (len(new) - same - rest), *origins[len(old) - rest :]]


def _same(one: str, other: str) -> int:
    """How many characters both begin with."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _only(text: str, wanted: Callable[[str], bool]) -> str:
    """What is not wanted becomes a space, so that every character keeps its place."""
    return "".join(character if wanted(character) else " " for character in text)


@lru_cache(4096)
def _is_control(character: str) -> bool:
    # Besides control characters also what is invisible (tags, directions, joiners) and what is no character at all.
    return unicodedata.category(character)[0] == "C" and character not in "\n\t"


@lru_cache(4096)
def _is_read(character: str, language: str) -> bool:
    category = unicodedata.category(character)
    if category in ("So", "Sk", "Cn"):
        return character in READ_SYMBOLS or character in "^`"
    if category in ("Lm", "Lo", "Lu", "Ll", "Lt") or (category == "Nd" and not character.isascii()):
        return _script(character) in _scripts(language)
    return not "\ufe00" <= character <= "\ufe0f"  # these only say how the character before them is drawn


def _script(character: str) -> str:
    return unicodedata.name(character, "").partition(" ")[0]


@lru_cache(64)
def _scripts(language: str) -> frozenset[str]:
    return frozenset(f"{LATIN} {SCRIPTS.get(language, '')} DIGIT".split())
