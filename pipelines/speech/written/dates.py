"""Dates, years and decades in English."""

import re

from pipelines.speech.written.numbers import decade, ordinal, year
from pipelines.speech.written.rules import Rule, one_of, rules, stop
from pipelines.speech.written.times import clock

MONTHS = ("January February March April May June July August September October November December").split()  # noqa: SIM905
SHORT_MONTHS = {name[:3]: name for name in MONTHS if name != "May"} | {"Sept": "September"}
DAYS = {
    "Mon": "Monday", "Tue": "Tuesday", "Tues": "Tuesday", "Wed": "Wednesday", "Thu": "Thursday", "Thur": "Thursday",
    "Thurs": "Thursday", "Fri": "Friday", "Sat": "Saturday", "Sun": "Sunday",
}  # fmt: skip
SHORT = SHORT_MONTHS | DAYS
YEAR = r"(?:1\d{3}|20\d\d)"
NTH = r"(?:st|nd|rd|th)"
# In any case, but "may" and "march" in small letters are months only where day and year are there too.
MONTH = (
    "|".join(MONTHS)
    + f"|(?i:{'|'.join(name for name in MONTHS if name not in ('May', 'March'))})"
    + rf"|(?:may|march)(?=\s\d{{1,2}}{NTH}?,?\s{YEAR}\b)|(?<=\d\s)(?:may|march)(?=,?\s{YEAR}\b)"
)
SHORT_NAMES = one_of(SHORT)
FULL = one_of([*MONTHS, *set(DAYS.values())])
NAME = one_of([*MONTHS, *SHORT_MONTHS, *DAYS, *set(DAYS.values())])
DASH = r"\s?[-–—]\s?"
IN = r"[Ii]n|[Ss]ince|[Bb]y|[Uu]ntil|[Bb]efore|[Aa]fter|[Yy]ear|[Cc]irca|and"


def _day(month: int, day: int, written_year: str = "") -> str:
    said = f"{MONTHS[month - 1]} {ordinal(day)}"
    if not written_year:
        return said
    value = int(written_year)
    return f"{said}, {year(value if value > 99 else 2000 + value if value < 70 else 1900 + value)}"


def _iso(found: re.Match[str]) -> str:
    y, _, month, day, hour, minute, zone = found.groups()
    if not (1 <= int(month) <= 12 and 1 <= int(day) <= 31):
        return found[0]
    at = f" at {clock(int(hour), int(minute))}" if hour else ""
    return _day(int(month), int(day), y) + at + (" UTC" if zone == "Z" else "")


def _parted(found: re.Match[str]) -> str:
    """Month first where "/" stands between them, day first with "." and "-", unless the numbers say otherwise."""
    one, mark, two, y = int(found[1]), found[2], int(found[3]), found[4]
    month, day = (two, one) if mark != "/" else (one, two)
    if month > 12:
        month, day = day, month
    return _day(month, day, y) if 1 <= month <= 12 and 1 <= day <= 31 else found[0]


def _slashed(found: re.Match[str]) -> str:
    month, day = int(found[2]), int(found[3])
    return f"{found[1]} {_day(month, day)}" if 1 <= month <= 12 and 1 <= day <= 31 else found[0]


def _month_first(found: re.Match[str]) -> str:
    month, day, last, y = found.groups()
    month = month.capitalize()
    if not 1 <= int(day) <= 31 or int(last or 1) > 31:
        return found[0]
    until = f" to {ordinal(int(last))}" if last else ""
    return f"{month} {ordinal(int(day))}{until}{', ' + year(int(y)) if y else ''}"


def _day_first(found: re.Match[str]) -> str:
    the, first, day, month, y = found.groups()
    month = month.capitalize()
    if not 1 <= int(day) <= 31:
        return found[0]
    since = f"{ordinal(int(first))} to the " if first else ""
    return f"{the or 'the '}{since}{ordinal(int(day))} of {month}{', ' + year(int(y)) if y else ''}"


def _years(found: re.Match[str]) -> str:
    return f"{year(int(found[1]))} to {year(int(found[2]))}"


def _season(found: re.Match[str]) -> str:
    value, last = int(found[1]), int(found[2])
    return (
        f"{year(value)} to {year(last)}" if value % 100 < last and (last > 12 or last == value % 100 + 1) else found[0]
    )


def _short(found: re.Match[str]) -> str:
    return SHORT[found[1].capitalize()] + stop(found)


def _bare(found: re.Match[str]) -> str:
    return year(int(found[1]))


NAMES: tuple[Rule, ...] = rules(
    (rf"\b((?!Sat|Sun)(?:{SHORT_NAMES}))\.", _short),
    (r"\b(Sat|Sun)\.(?=,|\s+\d|\s*[-–]|\s+(?:and|at|to|through)\b)", _short),
    (rf"\b((?i:{one_of(SHORT_MONTHS)}))(?:\.(?=\s+\d)|(?=\s+\d))", _short),
    (rf"(?:(?<=\d )|(?<=\d(?:st|nd|rd|th) ))((?i:{one_of(SHORT_MONTHS)}))\b\.?", _short),
    (rf"\b({one_of(SHORT_MONTHS)})-(?=\d\d?(?:-{YEAR})?\b)", lambda found: f"{SHORT[found[1]]} "),
    (rf"\b({SHORT_NAMES})(?=,\s+(?:{NAME})\b|{DASH}(?:{NAME})\b)", _short),
    (rf"(?<=y[-–])({SHORT_NAMES})\b|(?<=[a-z] [-–] )({SHORT_NAMES})\b", lambda found: SHORT[found[1] or found[2]]),
    (rf"\b({FULL}){DASH}(?=(?:{FULL})\b)", lambda found: f"{found[1]} to "),
    (r"\b([A-Z])[-–](?=[A-Z]\b(?![-–]))", lambda found: f"{found[1]} to "),
)

DATES: tuple[Rule, ...] = rules(
    (r"\b(\d{4})([-/])(\d\d)\2(\d\d)(?:[T ](\d\d):(\d\d)(?::\d\d(?:\.\d+)?)?(Z|[+-]\d\d:?\d\d)?)?(?![\w-])", _iso),
    (r"(?<![\w./-])(\d{1,2})(/)(\d{1,2})/(\d{4}|\d\d)(?![\w/-])", _parted),
    (r"(?<![\w./-])(\d{1,2})([.-])(\d{1,2})[.-](\d{4})(?![\w/-]|\.\d)", _parted),
    (
        r"\b([Oo]n|[Dd]ue|[Uu]ntil|[Tt]ill|[Ss]ince|[Bb]efore|[Aa]fter|[Dd]ated) (\d{1,2})/(\d{1,2})(?![\w/]|\s+of\b)",
        _slashed,
    ),
    (
        rf"\b({MONTH})\s+(\d{{1,2}}){NTH}?(?:{DASH}(\d{{1,2}}){NTH}?)?(?![\w:/%]|[.,]\d|-\d{{1,2}}\b|\s?%)(?:(?:,?\s+|-)({YEAR})\b)?",
        _month_first,
    ),
    (
        rf"(?<![\w:.,/$-])([Tt]he\s+)?(?:(\d{{1,2}}){NTH}?{DASH})?(\d{{1,2}}){NTH}?\s+(?:of\s+)?({MONTH})\b(?:,?\s+({YEAR})\b)?",
        _day_first,
    ),
    (rf"(?<=(?:st|nd|rd|th)) [-–] (?=(?:the )?(?:{FULL}|[a-z]+ of)\b)", " to "),
)

YEARS: tuple[Rule, ...] = rules(
    (rf"(?<![\w./$€£#-])({YEAR})\s?[-–]\s?({YEAR})(?![\w/-]|[.,]\d)", _years),
    (rf"(?<![\w./$€£#-])({YEAR})[-–/](\d\d)(?![\w/-]|[.,]\d)", _season),
    (r"\b(1\d\d0|20\d0)s[-–]((?:1\d|20)?\d0)s\b", lambda found: f"{decade(int(found[1]))} to {decade(int(found[2]))}"),
    (r"(?<![\w$€£.,])(1\d\d0|20\d0)['’]?s\b", lambda found: decade(int(found[1]))),
    (r"(?<!\w)['’](\d0)s\b", lambda found: decade(int(found[1]))),
    (
        r"\b([Tt]he|[Hh]er|[Hh]is|[Tt]heir|[Mm]y|[Ee]arly|[Ll]ate|[Mm]id)([ -])([2-9]0)s\b",
        lambda found: f"{found[1]}{found[2]}{decade(int(found[3]))}",
    ),
    (r"\b(of|in|In|since|Since) ['’](\d\d)\b(?!['’\"])", lambda found: f"{found[1]} {year(int(found[2]))}"),
    (rf"\b({MONTH}) ({YEAR})\b(?![,.]?\d)", lambda found: f"{found[1]} {year(int(found[2]))}"),
    (rf"\bFY\s?({YEAR})\b", lambda found: f"FY {year(int(found[1]))}"),
    (
        rf"\b({IN}|{MONTH}) (10\d\d|200[1-9])\b(?![,.]?\d|\s[a-z]+s\b)",
        lambda found: f"{found[1]} {year(int(found[2]))}",
    ),
    (r"(?<![\w$€£¥₹#.,:/-])(1[1-9]\d\d|20[1-9]\d)(?![\w%]|[.,:/–-]\d|\s[a-z]+s\b|\s?[€£°×x+*/=^])", _bare),
)
