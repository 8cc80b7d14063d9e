"""Ranges, scores, mathematics, comparisons and slashes in English."""

import re

from pipelines.speech.written.money import SCALES
from pipelines.speech.written.numbers import cardinal, digits, ordinal, roman
from pipelines.speech.written.rules import Rule, rules

NUMBER = r"\d[\d,]*(?:\.\d+)?"
TERM = r"(?:\d[\d,.]*|[A-Za-zα-ω])"  # of a sum: a number or a letter
BEFORE, BEHIND = r"(?<=[\w)²³%])", r"(?=[\w(√$€£.-])"
POWERS = {"²": " squared", "³": " cubed"}
COUNTED = (
    "World War|Chapter|Part|Act|Scene|Book|Volume|Section|Phase|Type|Title|Article|Appendix|Episode|Level|Stage|Class|"
    "Figure|Table|Unit|Lesson|Super Bowl|Division|Vatican|Rocky|Final Fantasy|Mark|Grade|Tier|Apollo"
)
RULERS = (
    "Henry|Louis|Elizabeth|George|Edward|Charles|William|James|Richard|Philip|Napoleon|Benedict|Pius|Leo|Gregory|Paul|"
    "Innocent|Clement|Catherine|Alexander|Nicholas|Frederick|Ferdinand|Leopold|Otto|Peter|Urban|Ramses|Ptolemy|"
    "Francis|Victoria|Margaret|Gustav|Wilhelm|Friedrich|Ludwig|Felipe|Albert|Harald|Harold|Abdullah"
)


SCORED = re.compile(
    r"\b(?:won|wins?|lost|loses?|leads?|led|beat\w*|scored?|tied|ahead|defeat\w*|victory|loss)\b|\b(?:from|between)\s$"
)


def _value(number: str) -> float:
    return float(number.replace(",", ""))


def _range(found: re.Match[str]) -> str:
    """From a lower number to a higher; a subtraction where its result follows, and a score behind what says so."""
    low, high = found.groups()
    if found.string[found.end() :].lstrip()[:1] == "=":
        return f"{low} minus {high}"
    climbs = _value(low) < _value(high) or SCORED.search(found.string, max(found.start() - 40, 0), found.start())
    return f"{low} to {high}" if climbs else f"{low} {high}"


def _power(found: re.Match[str]) -> str:
    minus, number = found.groups()
    return f"{'minus ' if minus else ''}{cardinal(int(number))}"


def _ten(found: re.Match[str]) -> str:
    return f"{found[1]} times ten to the {'minus ' if found[2] == '-' else ''}{cardinal(int(found[3]))}"


def _counted(found: re.Match[str]) -> str:
    value = roman(found[2])
    return f"{found[1]} {cardinal(value)}" if value else found[0]


def _ruler(found: re.Match[str]) -> str:
    value = roman(found[2])
    return f"{found[1]} the {ordinal(value)}" if value else found[0]


def _nth(found: re.Match[str]) -> str:
    value = int(found[1].replace(",", ""))
    return ordinal(value) if value >= 100 else found[0]


def _scaled(found: re.Match[str]) -> str:
    return f"{found[1]} {SCALES[found[2].lower()]}"


def _times(found: re.Match[str]) -> str:
    return " times " if re.match(r"[\d,.]*\s*=", found.string[found.end() :]) or "×" in found[0] else " by "


RANGES: tuple[Rule, ...] = rules(
    (rf"(?<![\w.,/$-])({NUMBER})(?:-|\s?[–—]\s?)({NUMBER})(?!\d|-|[.,/:]\d)", _range),
    (r"(?<=\d)\s?×\s?(?=\d)|(?<=\d)\s?x\s?(?=\d)", _times),
    (rf"(?<![\w.,])({NUMBER}%)\s?[-–—]\s?(?=\d)", lambda found: f"{found[1]} to "),
)

SIGNS: tuple[Rule, ...] = rules(
    (r"\b(\d+(?:\.\d+)?)[eE]([-+]?)(\d{1,3})\b", _ten),
    (
        r"(?<![\w.])(?<!\w-)(\d+(?:\.\d+)?)(k|K(?<=\d\dK)|M|bn|tn)\b(?=\s+[a-z])(?!\s(?:run|race|walk|video|tv)\b)",
        _scaled,
    ),
    (r"(?<![\w.])(?<!\w-)(\d+(?:\.\d+)?)(bn|tn)\b", _scaled),
    (r"\b(\d[\d,]*)(?:st|nd|rd|th)\b", _nth),
    (rf"\b({COUNTED}) ([IVXLC]+)\b(?!['’])", _counted),
    (rf"\b({RULERS}) ([IVX]+)\b(?!['’])", _ruler),
    (r"\b([A-Z][a-z]+) ([IVX]{2,6})\b", _counted),
    (r"(?<!\w)<3(?!\w)", "love"),
    (r"\s?(?:<=|≤)\s?", " is at most "),
    (r"\s?(?:>=|≥)\s?", " is at least "),
    (r"\s?(?:!=|≠)\s?", " is not equal to "),
    (r"\s?(?:->|→|⇒|=>)\s?", " to "),
    (r"(?<=[\w)])\s?≈\s?", " is about "),
    (r"≈\s?", "about "),
    (r"(?<![\w)<]\s)(?<![\w)<])<(?=\d)", "less than "),
    (r"(?<![\w)>-]\s)(?<![\w)>-])>(?=\d)", "more than "),
    (r"\s?&&\s?", " and "),
    (r"\s?±\s?", " plus or minus "),
    (rf"{BEFORE}\s?<\s?{BEHIND}", " is less than "),
    (rf"{BEFORE}\s?>\s?{BEHIND}", " is greater than "),
    (rf"{BEFORE}\s?={{1,3}}\s?{BEHIND}", " equals "),
    (r"√\s?", "the square root of "),
    (r"(?<=[\w)])[²³]", lambda found: POWERS[found[0]]),
    (r"(?<=[\w)])(?:\^|\*\*)(-?)(\d{1,3})\b", lambda found: f" to the {_power(found)}"),
    (r"~(?=\d)", "about "),
    (r"\b(\d+)x/(?=[a-z])", lambda found: f"{found[1]} times per "),
    (r"(?<![\w.])(?<!\w-)(\d+(?:\.\d+)?)x\b", lambda found: f"{found[1]} times"),
    (r"(?<=\d)\s?÷\s?(?=\d)|(?<=\d) / (?=\d)", " divided by "),
    (r"(?<=\d)\s\*\s(?=\d)|(?<=\d)\*(?=\d)", " times "),
    (rf"\b({TERM})\s?\+\s?(?=(?:{TERM})(?!\w))", lambda found: f"{found[1]} plus "),
    (r"(?<=[²³a-z]) \+ (?=\w)", " plus "),
    (r"(?<=\d)\+(?!\w)", " plus"),
    (rf"\b({TERM}) [-−–] (?=(?:{TERM})(?!\w))", lambda found: f"{found[1]} minus "),
    (r"(?<=\d)−(?=\d)|(?<=\d)-(?=\d+\s*=)", " minus "),
    (r"(?<![\w)])[-−](?=[.\d])", "minus "),
    (r"(?<=\d)\s+%", "%"),
    (r"(?<![\w.,])\.(\d+)\b(?!\.)", lambda found: f"point {digits(found[1])}"),
    (r"(?<![\w/.@-])([^\W\d_]\w*)/(?=[^\W\d_]\w*(?![\w/]))", lambda found: f"{found[1]} "),
)
