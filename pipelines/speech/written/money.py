"""Amounts of money in English."""

import re

from pipelines.speech.written.numbers import count, plural
from pipelines.speech.written.rules import Rule, attributive, one_of, rules

SIGNS = {
    "$": "dollar", "€": "euro", "£": "pound", "¥": "yen", "₹": "rupee", "₩": "won", "₽": "ruble", "₺": "lira",
    "₪": "shekel", "₫": "dong", "₴": "hryvnia", "฿": "baht", "₱": "peso", "₦": "naira", "₿": "bitcoin",
    "US$": "US dollar", "CA$": "Canadian dollar", "C$": "Canadian dollar", "A$": "Australian dollar",
    "AU$": "Australian dollar", "NZ$": "New Zealand dollar", "HK$": "Hong Kong dollar", "S$": "Singapore dollar",
    "R$": "real",
}  # fmt: skip
CODES = {
    "USD": "US dollar", "EUR": "euro", "GBP": "pound", "JPY": "yen", "CHF": "Swiss franc", "CAD": "Canadian dollar",
    "AUD": "Australian dollar", "NZD": "New Zealand dollar", "CNY": "yuan", "INR": "rupee", "KRW": "won",
    "RUB": "ruble", "BRL": "real", "MXN": "Mexican peso", "ZAR": "rand", "PLN": "zloty",
}  # fmt: skip
CENTS = {"dollar": "cent", "euro": "cent", "pound": "penny", "Swiss franc": "centime"}
SCALES = {
    "k": "thousand", "m": "million", "mn": "million", "mm": "million", "mio": "million", "b": "billion",
    "bn": "billion",
    "t": "trillion", "tn": "trillion", "tr": "trillion",
}  # fmt: skip
SPANS = {
    "mo": "month", "yr": "year", "y": "year", "hr": "hour", "h": "hour", "wk": "week", "min": "minute", "sec": "second",
    "d": "day", "pp": "person", "ea": "each", "lb": "pound", "kg": "kilogram", "oz": "ounce", "sqft": "square foot",
    "GB": "gigabyte", "kWh": "kilowatt hour", "l": "liter", "gal": "gallon",
}  # fmt: skip
SIGN = one_of(SIGNS)
AMOUNT = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:[.,]\d+)?(?![\d])|\.\d+"
SCALE = r"\s?(?:thousand|million|billion|trillion)\b|\s?(?:[KkMBTbm]|[Mm]n|[Bb]n|[Tt]n|mm|mio)\b"
DASH = r"\s?[-–—]\s?"


def amount(number: str, scale: str | None, name: str) -> str:
    """What is said of it.

    "1,250" and "dollar" are "1,250 dollars", "3.50" is "3 dollars and 50 cents", "1.2" and "M" "1.2 million dollars".
    """
    number = re.sub(r",(?=\d{1,2}$)", ".", number)
    whole, _, part = number.partition(".")
    if scale:
        scale = scale.strip()
        return f"{number} {SCALES.get(scale.lower(), scale)} {plural(name)}"
    small = CENTS.get(name.split()[-1] if name.endswith("dollar") else name)
    if len(part) != 2 or small is None:
        return count(number, name)
    if part == "00":
        return count(whole, name)
    cents = count(part.lstrip("0"), small)
    return cents if not whole.strip("0") else f"{count(whole, name)} and {cents}"


def _single(found: re.Match[str], said: str, name: str) -> str:
    """It, but "a 5 dollar bill"."""
    many = plural(name)
    return said.removesuffix(many) + name if attributive(found) and said.endswith(many) else said


def _signed(found: re.Match[str]) -> str:
    minus, sign, number, scale, more = found.groups()
    name = SIGNS[sign]
    said = ("minus " if minus else "") + amount(number, scale, name) + (" plus" if more else "")
    return _single(found, said, name)


def _range(found: re.Match[str]) -> str:
    sign, low, scale, again, high, last = found.groups()
    name = SIGNS[sign]
    if again:
        return f"{amount(low, scale, name)} to {amount(high, last, name)}"
    first = f"{low} {SCALES.get(scale.strip().lower(), scale.strip())}" if scale and scale != last else low
    return f"{first} to {amount(high, last, name)}"


def _behind(found: re.Match[str]) -> str:
    number, scale, sign = found.groups()
    return "1 cent" if found[0] == "1¢" else f"{number} cents" if sign == "¢" else amount(number, scale, _name(sign))


def _name(sign: str) -> str:
    return CODES.get(sign) or SIGNS[sign]


def _per(found: re.Match[str]) -> str:
    return f"{found[1]} per {SPANS.get(found[2], found[2])}"


MONEY: tuple[Rule, ...] = rules(
    (rf"(?<![\w$])({SIGN})\s?({AMOUNT})({SCALE})?{DASH}({SIGN})?\s?({AMOUNT})({SCALE})?", _range),
    (
        rf"(?<![\w$])\$\s?({AMOUNT})({SCALE})?\s(USD|CAD|AUD|NZD)\b",
        lambda found: amount(found[1], found[2], CODES[found[3]]),
    ),
    (rf"(?:(?<!\w)([-−]))?(?<![\w$])({SIGN})[-−]?\s?({AMOUNT})({SCALE})?(\+(?!\w))?", _signed),
    (rf"(?<![\w.,])({AMOUNT})({SCALE})?\s?({one_of([*(s for s in SIGNS if len(s) == 1), '¢'])})(?![\d])", _behind),
    (rf"(?<![\w.,])({AMOUNT})({SCALE})?\s({one_of(CODES)})\b", _behind),
    (
        rf"\b({one_of(CODES)})\s?({AMOUNT})({SCALE})?",
        lambda found: amount(found[2], found[3], CODES[found[1]]),
    ),
    (r"\b(dollars?|cents?|euros?|pounds?|yen|pence|penny|rupees?|francs?)\s?/\s?([A-Za-z]+)\b(?!/)", _per),
)
