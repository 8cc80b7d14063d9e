"""Numbers with units in English."""

import re

from pipelines.speech.written.numbers import cardinal, count, plural
from pipelines.speech.written.rules import Rule, attributive, one_of, rules, stop

METRIC = {"m": "meter", "g": "gram", "l": "liter", "L": "liter", "W": "watt", "V": "volt", "Hz": "hertz",
          "Pa": "pascal",
          "J": "joule", "Wh": "watt hour", "eV": "electronvolt"}  # fmt: skip
PREFIXES = {"k": "kilo", "M": "mega", "G": "giga", "T": "tera", "m": "milli", "µ": "micro", "μ": "micro", "n": "nano"}
UNITS = {
    **{prefix + sign: said + name for prefix, said in PREFIXES.items() for sign, name in METRIC.items()},
    **METRIC,
    "cm": "centimeter", "dm": "decimeter", "cl": "centiliter", "dl": "deciliter", "hPa": "hectopascal",
    "mA": "milliamp", "mAh": "milliamp hour", "Ah": "amp hour", "Ω": "ohm", "kΩ": "kiloohm", "dB": "decibel",
    "KM": "kilometer", "Km": "kilometer", "KG": "kilogram", "Kg": "kilogram", "ML": "milliliter", "CM": "centimeter",
    "KB": "kilobyte", "kB": "kilobyte", "kb": "kilobyte", "MB": "megabyte", "mb": "megabyte", "GB": "gigabyte",
    "gb": "gigabyte", "TB": "terabyte", "tb": "terabyte", "PB": "petabyte", "KiB": "kibibyte", "MiB": "mebibyte",
    "GiB": "gibibyte", "Kb": "kilobit", "Kbit": "kilobit", "kbit": "kilobit", "Mb": "megabit", "Mbit": "megabit",
    "Gb": "gigabit", "Gbit": "gigabit", "ghz": "gigahertz", "mhz": "megahertz", "khz": "kilohertz", "hz": "hertz",
    "kwh": "kilowatt hour", "ms": "millisecond", "µs": "microsecond", "μs": "microsecond", "ns": "nanosecond",
    "s": "second", "sec": "second", "secs": "second", "h": "hour", "hr": "hour", "hrs": "hour", "min": "minute",
    "mins": "minute", "wk": "week", "wks": "week", "mo": "month", "mos": "month", "yr": "year", "yrs": "year",
    "mi": "mile", "ft": "foot", "yd": "yard", "yds": "yard", "in": "inch", "lb": "pound", "lbs": "pound",
    "oz": "ounce", "fl oz": "fluid ounce", "fl. oz": "fluid ounce", "gal": "gallon", "tbsp": "tablespoon",
    "tsp": "teaspoon", "kcal": "kilocalorie", "cal": "calorie", "ha": "hectare", "px": "pixel", "K": "kelvin",
    "sq ft": "square foot", "sq. ft": "square foot", "sq mi": "square mile", "sq m": "square meter",
    "sq km": "square kilometer", "cu ft": "cubic foot", "psi": "pound per square inch", "sqft": "square foot",
}  # fmt: skip
# Signs that stand for a rate, and are read without a number too.
RATES = {
    "km/h": "kilometer per hour", "kph": "kilometer per hour", "kmh": "kilometer per hour", "m/s": "meter per second",
    "km/s": "kilometer per second", "mph": "mile per hour", "mpg": "mile per gallon",
    "mbps": "megabit per second", "Mbps": "megabit per second",
    "Gbps": "gigabit per second", "kbps": "kilobit per second", "Kbps": "kilobit per second",
    "kbit/s": "kilobit per second",
    "Mbit/s": "megabit per second", "Gbit/s": "gigabit per second",
    "Mb/s": "megabit per second", "KB/s": "kilobyte per second", "kB/s": "kilobyte per second",
    "MB/s": "megabyte per second", "GB/s": "gigabyte per second", "fps": "frame per second", "ft/s": "foot per second",
    "rpm": "revolution per minute", "bpm": "beat per minute", "dpi": "dot per inch", "g/l": "gram per liter",
    "mg/l": "milligram per liter", "mg/kg": "milligram per kilogram", "g/cm³": "gram per cubic centimeter",
    "m/s²": "meter per second squared", "kg/m³": "kilogram per cubic meter", "L/100km": "liter per 100 kilometers",
}  # fmt: skip
ALONE = one_of(name for name in RATES if "/" in name or name in ("Mbps", "Gbps", "kbps", "mph"))
RAISED = {"²": "square ", "³": "cubic ", "2": "square ", "3": "cubic "}
# What is a word or a name as well is a unit only where nothing follows that makes it one.
IN = r"in(?=\.|[^\w.]*$|[,;:)]|\s(?:by|and|or|x|wide|long|tall|high|deep|thick)\b)"
SIGN = one_of({**UNITS, **RATES}.keys() - {"in", "K"})
NUMBER = r"(?<![\w.,\[])(?<!\w-)(\d[\d,]*(?:\.\d+)?|\.\d+)"
FRACTION = r"(?:a|one) (?:half|quarter|third|fifth|eighth)|(?:two|three|five|seven) [a-z]+(?:ths|ds|ters)"
PLAIN = "mile|meter|kilometer|foot|liter|gallon|gram|kilogram|request|token|word|frame|bit|byte"
NOT_UNIT = r"(?![\w/'’²³])"
HIGH = r"(?=\s(?:[x×]|by|tall|long|wide|high|deep|thick)\b)"
MEASURED = re.compile(r"\d\s?(?:in|ft|lbs?|oz|mi|yd|[cm]m|inch(?:es)?|feet|foot|[x×\"'])(?!\w)")
DEGREES = {"C": "Celsius", "F": "Fahrenheit", "℃": "Celsius", "℉": "Fahrenheit"}


def _named(sign: str) -> str:
    return UNITS.get(sign) or RATES[sign]


def _around(found: re.Match[str]) -> str:
    return f"{found.string[: found.start()]} {found.string[found.end() :]}"


def counted(found: re.Match[str], number: str, name: str) -> str:
    """``count``, but "a 5 meter rope"."""
    return f"{number} {name}" if attributive(found) else count(number, name)


def _unit(found: re.Match[str]) -> str:
    number, sign = found.groups()
    behind = found.string[found.end() :]
    if len(sign) == 1 and sign.isupper() and re.match(r"\s[A-Z\d]", behind):
        return found[0]  # 123 W 4th St
    if sign == "in" and behind.strip() and found[0][-1] != "." and not MEASURED.search(_around(found)):
        return found[0]  # 3 in, 2 out
    return counted(found, number, _named(sign)) + (stop(found) if found[0].endswith(".") else "")


def _scaled(found: re.Match[str]) -> str:
    return f"{found[1]}{found[2]} {plural(_named(found[3]))}"


def _part(found: re.Match[str]) -> str:
    """Behind a fraction: "one half mile", "two and a half miles"."""
    whole, part, sign = found.groups()
    name = _named(sign)
    return f"{whole or ''}{part} {plural(name) if whole else name}" + (stop(found) if found[0].endswith(".") else "")


def _raised(found: re.Match[str]) -> str:
    number, sign, power = found.groups()
    return count(number, RAISED[power] + UNITS[sign])


def _degrees(found: re.Match[str]) -> str:
    number, scale = found.groups()
    return counted(found, number, "degree") + (f" {DEGREES[scale]}" if scale else "")


def _feet(found: re.Match[str]) -> str:
    return f"{cardinal(int(found[1]))} foot {cardinal(int(found[2]))}"


def _inches(found: re.Match[str]) -> str:
    """Not where the mark closes a quotation."""
    if len(re.findall(r'(?<!\d)"', found.string[: found.start()])) % 2 and found[2] == '"':
        return found[0]
    return counted(found, found[1], "inch")


UNITS_RULES: tuple[Rule, ...] = rules(
    (
        rf"{NUMBER}\s?(?:[°º]\s?([CF])\b|([℃℉]))",
        lambda found: f"{count(found[1], 'degree')} {DEGREES[found[2] or found[3]]}",
    ),
    (rf"{NUMBER}\s?[°º]()", _degrees),
    (r"(?<![\w.,])(\d)['’′]\s?(1[01]|\d)(?:[\"”″]|''|\b)(?!\d)", _feet),
    (rf"{NUMBER}([\"”″])(?!\w)", _inches),
    (rf"(?<=[x×] ){NUMBER}['’′]", lambda found: count(found[1], "foot")),
    (rf"{NUMBER}['’′]{HIGH}", lambda found: count(found[1], "foot")),
    (rf"{NUMBER}\s?(km|cm|mm|m|ft|mi|in)([²³])", _raised),
    (rf"{NUMBER}\s?(km|cm|mm|m)([23])(?![\w.])", _raised),
    (rf"{NUMBER}[\s-]?({IN})\.?", _unit),
    (rf"{NUMBER}( (?:hundred|thousand|million|billion))\s?({SIGN}){NOT_UNIT}", _scaled),
    (
        rf"(and )?\b({FRACTION})\s?({SIGN}|in(?=\.|$)){NOT_UNIT}\.?",
        _part,
    ),
    (rf"{NUMBER}\s(K)\b(?!\s?[A-Z]|\s(?:a|per|people|users)\b)", _unit),
    (rf"{NUMBER}[\s-]?({SIGN}){NOT_UNIT}\.?", _unit),
    (
        rf"(?<=\d )((?:{PLAIN})s?)/(?=[a-z])",
        lambda found: f"{found[1]} per ",
    ),
    (
        r"\b([a-z]{3,}s)/(s|sec|second|min|minute|h|hr|hour|d|day|wk|week|mo|month|yr|year)\b(?!/)",
        lambda found: f"{found[1]} per {UNITS.get(found[2], found[2])}",
    ),
    (rf"(?<![\w/])({ALONE})(?![\w/])", lambda found: plural(RATES[found[1]])),
)
