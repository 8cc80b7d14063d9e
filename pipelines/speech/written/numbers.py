"""Numbers in words, as Americans say them."""

ONES = (  # noqa: SIM905
    "zero one two three four five six seven eight nine ten "
    "eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
TENS = ["zero", "ten", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
SCALES = ((10**12, "trillion"), (10**9, "billion"), (10**6, "million"), (1000, "thousand"), (100, "hundred"))
ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip
ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}
PLURALS = {"penny": "pence", "foot": "feet", "inch": "inches", "century": "centuries", "half": "halves"}
UNCHANGED = frozenset("yen yuan baht won rand hertz lux siemens kelvin zloty Celsius Fahrenheit".split())  # noqa: SIM905


def cardinal(value: int) -> str:
    """``value``, below 10¹⁵, in words: 42 is "forty two"."""
    for scale, name in SCALES:
        if value >= scale:
            return f"{cardinal(value // scale)} {name} {cardinal(value % scale) if value % scale else ''}".rstrip()
    if value >= 20:
        return f"{TENS[value // 10]} {ONES[value % 10] if value % 10 else ''}".rstrip()
    return ONES[value]


def ordinal(value: int) -> str:
    """42 is "forty second"."""
    *first, last = cardinal(value).split()
    last = ORDINALS.get(last, f"{last[:-1]}ieth" if last.endswith("y") else f"{last}th")
    return " ".join([*first, last])


def year(value: int) -> str:
    """1905 is "nineteen oh five", 2005 "two thousand five" and 2026 "twenty twenty six"."""
    century, rest = divmod(value, 100)
    if value < 1000 or (century % 10 == 0 and rest < 10) or value >= 10_000:
        return cardinal(value)
    if not rest:
        return f"{cardinal(century)} hundred"
    return f"{cardinal(century)} {'oh ' if rest < 10 else ''}{cardinal(rest)}"


def decade(value: int) -> str:
    """1990 is "nineteen nineties", 90 "nineties" and 1800 "eighteen hundreds"."""
    *first, last = year(value).split()
    return " ".join([*first, f"{last[:-1]}ies" if last.endswith("y") else f"{last}s"])


def digits(text: str) -> str:
    """Digit by digit, with a pause where other characters stand between them: "55-12" is "five five, one two"."""
    groups = "".join(character if character.isdigit() else " " for character in text).split()
    return ", ".join(" ".join(ONES[int(digit)] for digit in group) for group in groups)


def roman(numeral: str) -> int:
    """XIV is 14; 0 for what is no numeral that people write."""
    values = [ROMAN[letter] for letter in numeral]
    total = sum(-one if one < two else one for one, two in zip(values, [*values[1:], 0], strict=True))
    return total if _written(total) == numeral else 0


def _written(value: int) -> str:
    parts = ((100, "C"), (90, "XC"), (50, "L"), (40, "XL"), (10, "X"), (9, "IX"), (5, "V"), (4, "IV"), (1, "I"))
    numeral = ""
    for worth, letters in parts:
        numeral += letters * (value // worth)
        value %= worth
    return numeral


def plural(name: str) -> str:
    """Of a unit, whose first word counts: "kilometers per hour"."""
    first, per, rest = name.partition(" per ")
    *before, last = first.split(" ")
    if last not in UNCHANGED and not last.endswith("hertz"):
        last = PLURALS.get(last, f"{last}s")
    return " ".join([*before, last]) + per + rest


def count(number: str, name: str) -> str:
    """``number`` of what one is called ``name``: "1 mile", "0.5 miles"."""
    return f"{number} {name if number == '1' else plural(name)}"
