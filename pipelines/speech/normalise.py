"""What a voice says of written text: no mark-up, no emoji, and words for what is written in signs.

Pure. Every character of the result knows which character of the text it comes from, so that what was heard can be found
in what was written. Numbers, dates and most signs are left to the voice's own language rules (espeak-ng has them for a
hundred languages); what is expanded here are the cases that those get wrong.
"""

import html
import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

Replacement = str | Callable[[re.Match[str]], str]
Rule = tuple[re.Pattern[str], Replacement]

REPEATED = 3  # of a character that is written many times over, so many are read

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


def _rules(*pairs: tuple[str, Replacement]) -> tuple[Rule, ...]:
    return tuple((re.compile(pattern, re.MULTILINE), replacement) for pattern, replacement in pairs)


MARKUP = _rules(
    (r"^\s*(?:[-*_]\s*){3,}$", ""),  # a ruler
    (r"^(?=[^\n]*--)[ \t|:-]+$", ""),  # the line under a table's head
    (r"^\s{0,3}#{1,6}\s+", ""),
    (r"^\s*>+\s?", ""),
    (r"^\s*(?:[-*+•]|\d{1,3}[.)])\s+\[[ xX]\]\s+", ""),
    (r"^\s*[-*+•]\s+", ""),
    (r"^\s*\||\|\s*$", ""),
    (r"\s*\|\s*", ", "),
    (r"!?\[([^\[\]\n]*)\]\([^()\s]*\)", lambda found: found[1]),
    (r"</?[A-Za-z!?][^<>\n]{0,200}>", " "),
    (r"&(?:#\d{1,7}|#x[0-9a-fA-F]{1,6}|[A-Za-z]{2,31});", lambda found: html.unescape(found[0])),
    (r"`+", ""),
    (r"(?<![\w*])\*{1,3}(?=\S)|(?<=\S)\*{1,3}(?![\w*])", ""),
    (r"(?<!\w)_{1,3}(?=\w)|(?<=\w|[.!?,;:])_{1,3}(?!\w)", ""),
    (r"~~", ""),
    (r"https?://(?:www\.)?([^\s/?#:]+)[^\s]*?(?=[.,;:!?)\]]*(?:\s|$))", lambda found: found[1]),
    (r"\bwww\.(?=\w)", ""),
)

MARKS = r"\s!-\-/:-@\[-`{-~\u2010-\u205e"  # punctuation but the dot
LETTER = rf"[^{MARKS}\d.]"
DOTS = rf"[{MARKS}]*\.[{MARKS}.]*"  # dots between letters, with what espeak-ng overlooks there
ABBREVIATION = 10  # letters of one that are read without a pause
SPACED = r"[^\s\u0e00-\u0eff\u1000-\u109f\u2e80-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"  # of scripts with spaces
WORD = 64  # characters of one that are read without a space

TIDY = _rules(
    (r"(.)\1{3,}", lambda found: found[1] * (1 if found[1] in ".-=_~#*+" else REPEATED)),
    (r"…|\.{2,}", ", "),
    (r"\s*[—–―]\s*(?=\D)", ", "),
    (r"[“”„«»\"]|''|``", ""),
    (r"[‘’]", "'"),
    (r"\[{2,}|\]{2,}", " "),  # Piper would take what is between them for phonemes
    (r"\s+", " "),
    (r"\s+([,.;:!?])", lambda found: found[1]),
    (r"(?:,\s*){2,}", ", "),
    # Words that are longer than espeak-ng's buffers, which it does not guard: letters with dots between them, which it
    # takes for one abbreviation until a clause ends, and endings on endings ('s's's).
    (rf"((?:{LETTER}{DOTS}){{{ABBREVIATION - 1}}}{LETTER}){DOTS}(?={LETTER})", lambda found: f"{found[1]}, "),
    (rf"{SPACED}{{{WORD}}}(?={SPACED})", lambda found: f"{found[0]} "),
    (r"^[\s,;:.!?]+|\s+$", ""),
)

MONEY = {"$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "₹": "rupee"}
CENTS = {"$": "cent", "€": "cent", "£": "penny", "₹": "paisa"}
PLURALS = {"penny": "pence", "yen": "yen", "paisa": "paise"}
UNITS = {
    "km": "kilometers", "cm": "centimeters", "mm": "millimeters", "kg": "kilograms", "mg": "milligrams",
    "ml": "milliliters", "km/h": "kilometers per hour", "mph": "miles per hour", "kb": "kilobytes", "mb": "megabytes",
    "gb": "gigabytes", "tb": "terabytes", "ghz": "gigahertz", "mhz": "megahertz", "khz": "kilohertz", "hz": "hertz",
    "kwh": "kilowatt hours", "ms": "milliseconds",
}  # fmt: skip


def _count(number: str, name: str) -> str:
    return f"{number} {name if number == '1' else PLURALS.get(name, name + 's')}"


def _money(found: re.Match[str]) -> str:
    sign, whole, part, scale = found.groups()
    if scale:
        return f"{whole}{'.' + part if part else ''} {scale} {PLURALS.get(MONEY[sign], MONEY[sign] + 's')}"
    said = _count(whole, MONEY[sign])
    if part and len(part) == 2 and sign in CENTS:
        return said if part == "00" else f"{said} and {_count(part.lstrip('0'), CENTS[sign])}"
    return f"{whole}.{part} {PLURALS.get(MONEY[sign], MONEY[sign] + 's')}" if part else said


def _range(found: re.Match[str]) -> str:
    low, high = re.split("[-–]", found[0])
    return f"{low} to {high}" if int(low) < int(high) else found[0]


ENGLISH = _rules(
    (r"\bDr\.(?=\s+[A-Z])", "Doctor"),
    (r"\bMr\.(?=\s)", "Mister"),
    (r"\bMrs\.(?=\s)", "Missus"),
    (r"\bMs\.(?=\s)", "Miz"),
    (r"\bProf\.(?=\s)", "Professor"),
    (r"\bSt\.(?=\s+[A-Z])", "Saint"),
    (r"\bvs\.?(?=\s)", "versus"),
    (r"\be\.g\.,?", "for example,"),
    (r"\bi\.e\.,?", "that is,"),
    (r"\betc\.(?=\s+[^A-Z\s])", "et cetera"),
    (r"\bapprox\.", "approximately"),
    (r"\b([AaPp])\.m\.", lambda found: f"{found[1]}m"),
    (r"\bNo\.\s*(?=\d)", "number "),
    (r"#(?=\d)", "number "),
    (r"([$€£¥₹])\s?(\d[\d,]*)(?:\.(\d+))?(?:\s(thousand|million|billion|trillion))?\b", _money),
    (
        rf"(?<=\d)\s?((?i:{'|'.join(sorted(map(re.escape, UNITS), key=len, reverse=True))}))\b",
        lambda found: " " + UNITS.get(found[1].lower(), found[1]),
    ),
    (r"(?<![\d-])(?:\d{1,3}[-–]\d{1,3}|\d{4}[-–]\d{4})(?![\d-])", _range),
    (r"\s<=\s|\s?≤\s?", " is at most "),
    (r"\s>=\s|\s?≥\s?", " is at least "),
    (r"\s<\s", " is less than "),
    (r"\s>\s", " is greater than "),
    (r"\s?(?:->|→|⇒|=>)\s?", " to "),
    (r"~(?=\d)", "about "),
    (r"(?<=\d)\s?[×x]\s?(?=\d)", " times "),
    (r"\b(\w+)/(\w+)\b(?!/)", lambda found: f"{found[1]} {found[2]}" if found[1].isalpha() else found[0]),
)


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
        if new and new in found[0]:  # a part of what was there: it stays where it was
            begin = found.start() + found[0].index(new)
            kept += origins[begin : begin + len(new)]
        elif (same := new.rstrip(", ")) and found[0].startswith(same):  # a pause was put in
            kept += origins[found.start() : found.start() + len(same)]
            kept += [origins[found.end() - 1]] * (len(new) - len(same))
        else:
            kept += [origins[found.end() - 1] if found.end() > found.start() else 0] * len(new)
        at = found.end()
    if not at:
        return text, origins
    return "".join(parts) + text[at:], kept + origins[at:]


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
