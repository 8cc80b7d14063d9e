"""Fractions in English."""

import re
import unicodedata

from pipelines.speech.written.numbers import cardinal, ordinal, plural
from pipelines.speech.written.rules import Rule, rules

VULGAR = "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞⅐⅑⅒"
BELOW = frozenset([*range(2, 13), 15, 16, 20, 24, 25, 30, 32, 50, 60, 64, 100, 128, 1000])
PAIRS = frozenset({("24", "7"), ("50", "50"), ("20", "20"), ("60", "40"), ("80", "20"), ("70", "30"), ("90", "10")})


def fraction(above: int, below: int) -> str:
    """3/4 is "three quarters"."""
    name = {2: "half", 4: "quarter"}.get(below) or ordinal(below).removeprefix("one ")
    return f"{cardinal(above)} {name if above == 1 else plural(name)}"


def _vulgar(found: re.Match[str]) -> str:
    above, below = unicodedata.normalize("NFKD", found[2]).split("\u2044")
    return _mixed(found[1], int(above), int(below))


def _mixed(whole: str | None, above: int, below: int) -> str:
    part = fraction(above, below)
    if not whole:
        return part
    return f"{cardinal(int(whole))} and {part.replace('one ', 'a ', 1) if above == 1 else part}"


def _written(found: re.Match[str]) -> str:
    whole, above, below = found.groups()
    if (above, below) in PAIRS and not whole:
        return f"{cardinal(int(above))} {cardinal(int(below))}"
    if int(below) == 10 and found.string[: found.start()].endswith(" a "):
        return f"{above} out of ten"
    if int(above) < int(below) and int(below) in BELOW:
        return _mixed(whole, int(above), int(below))
    if above == below or (int(below) in (5, 10, 100) and not whole):
        return f"{above} out of {below}"
    return found[0]


FRACTIONS: tuple[Rule, ...] = rules(
    (rf"(?:(?<![\w.,])(\d{{1,3}})\s?)?([{VULGAR}])", _vulgar),
    (r"\b24/7/365\b", "twenty four seven three sixty five"),
    (r"(?<![\w.,/$-])(?:(\d{1,3})[ -])?(\d{1,3})/(\d{1,4})(?![\w/]|[.,]\d)", _written),
    (r"\ba one (half|quarter|[a-z]+th|third|fifth)\b", lambda found: f"a {found[1]}"),
)
