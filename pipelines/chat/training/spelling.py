"""Numbers and dates as people write them in digits, and as they say them in English."""

import calendar
import datetime
import random
from collections.abc import Iterator
from hashlib import blake2b

TASKS = {"number": "number: ", "date": "date: "}  # the tasks and their prefixes
LARGEST = 999_999
FIRST_YEAR, LAST_YEAR = 1500, 2199
RECENT_YEARS, RECENT = (1980, 2039), 0.3  # and the share of dates that are among them at least
ALWAYS_SEEN = 100  # numbers below are too few to hold some out
HELD_OUT = 10  # one in so many values is for judging alone

Pair = tuple[str, str]  # the input with its prefix, and what is said

_UNITS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
_TEENS = ["thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"]
_ONES = [*_UNITS, *_TEENS]
_TENS = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_ORDINALS = {
    "one": "first",
    "two": "second",
    "three": "third",
    "five": "fifth",
    "eight": "eighth",
    "nine": "ninth",
    "twelve": "twelfth",
}


def cardinal(value: int) -> str:
    """A number up to ``LARGEST`` in words."""
    if value < 20:
        return _ONES[value]
    if value < 100:
        return _TENS[value // 10] + (f"-{_ONES[value % 10]}" if value % 10 else "")
    if value < 1000:
        return f"{_ONES[value // 100]} hundred" + (f" and {cardinal(value % 100)}" if value % 100 else "")
    rest = value % 1000
    joined = "" if not rest else f" and {cardinal(rest)}" if rest < 100 else f" {cardinal(rest)}"
    return f"{cardinal(value // 1000)} thousand{joined}"


def ordinal(value: int) -> str:
    """A day of a month in words."""
    begin, dash, last = cardinal(value).rpartition("-")
    return begin + dash + (f"{last[:-1]}ieth" if last.endswith("y") else _ORDINALS.get(last, f"{last}th"))


def year(value: int) -> str:
    """A year as it is said."""
    century, rest = divmod(value, 100)
    if value % 1000 < 10:
        return cardinal(value)
    if not rest:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {f'oh {cardinal(rest)}' if rest < 10 else cardinal(rest)}"


def spoken(date: datetime.date) -> str:
    """A date as it is said."""
    return f"the {ordinal(date.day)} of {calendar.month_name[date.month].lower()} {year(date.year)}"


def pairs(seed: int, *, held_out: bool) -> Iterator[Pair]:
    """Endless pairs by chance, numbers and dates by turns: those for training, or those that are held out."""
    chance = random.Random(f"{seed} {held_out}")  # noqa: S311 - not for secrets
    while True:
        for made in (_number, _date):
            pair = made(chance)
            while _held_out(pair[1]) != held_out:
                pair = made(chance)
            yield pair


def _held_out(text: str) -> bool:
    small = text in _SMALL
    return not small and blake2b(text.encode(), digest_size=4).digest()[0] % HELD_OUT == 0


_SMALL = {cardinal(value) for value in range(ALWAYS_SEEN)}


def _number(chance: random.Random) -> Pair:
    digits = chance.randint(1, len(str(LARGEST)))
    value = chance.randrange(10**digits)
    written = f"{value:,}" if chance.random() < 0.3 else str(value)
    return TASKS["number"] + written, cardinal(value)


def _date(chance: random.Random) -> Pair:
    years = RECENT_YEARS if chance.random() < RECENT else (FIRST_YEAR, LAST_YEAR)
    first, last = (datetime.date(year, 1, 1).toordinal() for year in (years[0], years[1] + 1))
    date = datetime.date.fromordinal(chance.randrange(first, last))
    month = calendar.month_name[date.month]
    forms = (f"{date.day} {month} {date.year}", f"{month} {date.day}, {date.year}", date.isoformat())
    return TASKS["date"] + chance.choice(forms), spoken(date)
