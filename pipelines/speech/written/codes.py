"""Numbers that are read digit by digit: telephone numbers, codes, cards; versions and addresses of machines."""

import re

from pipelines.speech.written.numbers import cardinal, digits
from pipelines.speech.written.rules import Rule, rules

CALLED = (
    r"(?i:call|dial|text|ring|phone|fax|tel(?:ephone)?|pin(?: code)?|pass ?code|code|zip(?: code)?|post ?code|"
    r"extension|ssn|isbn|iban|otp|agent|(?:account|card|order|tracking|serial|phone|telephone|invoice|reference|confirmation|case|"
    r"ticket|policy|routing)(?: number)?|end(?:ing|s) (?:in|with))"
)
NAMED = r"(?i:\s+(?:is|was|are|number)|:|\s+at|\s+us at)?"
SPELLED = r"\d(?:[ .-]?\d)+"
GO_ON = r"(?!\s(?!(?:for|or|now|today|if|to|and|in|when|at|instead|immediately|please|from|then|is|has)\b)[a-z])"


def _called(found: re.Match[str]) -> str:
    numbers = re.split(r"(\s+(?:or|and)\s+)", found[2])
    return found[1] + "".join(digits(each) if number % 2 == 0 else each for number, each in enumerate(numbers))


def _plus(found: re.Match[str]) -> str:
    return f"plus {digits(found[0])}"


def _grouped(found: re.Match[str]) -> str:
    """Few digits are a record of wins and the like: 10-2-1."""
    return digits(found[0]) if sum(map(str.isdigit, found[0])) > 6 else found[0].replace("-", " ")


def _digits(found: re.Match[str]) -> str:
    return digits(found[0])


def _local(found: re.Match[str]) -> str:
    """555-1234 is a telephone number, 100-2000 a range."""
    return found[0] if found[0].endswith("00") and found[0] < found[0].partition("-")[2] else digits(found[0])


def _machine(found: re.Match[str]) -> str:
    parts = found.groups()[:4]
    if max(map(int, parts)) > 255:
        return found[0]
    return " dot ".join(map(_part, parts)) + (f" port {digits(found[5])}" if found[5] else "")


def _version(found: re.Match[str]) -> str:
    said = " point ".join(map(_part, found[2].split(".")))
    return f"{found[1] if len(found[1]) > 1 else 'version '}{said}" if found[1] else said


def _part(number: str) -> str:
    return digits(number) if number[0] == "0" else cardinal(int(number))


CODES: tuple[Rule, ...] = rules(
    (r"(?<![\w+])\+\d(?:[\s().-]{0,2}\d){6,14}(?!\d)", _plus),
    (r"(?<![\w.,(-])(?:1[-. ])?(?:\(\d{3}\)[\s-]?|\d{3}[-. ])\d{3}[-. ]\d{4}(?![\w-]|[.,]\d)", _digits),
    (r"\b1-(8\d\d)-(?=[A-Z])", lambda found: f"one {cardinal(int(found[1]))} "),
    (r"(?<=\b[A-Z]{2} )\d{5}(?:-\d{4})?\b(?!\s[a-z])", _digits),  # a ZIP code
    (r"(?<![\w.,$€£/-])[2-9]\d\d-\d{4}(?![\w/-]|[.,]\d)", _local),
    (
        rf"\b({CALLED}{NAMED}\s+|(?i:code|pin):?\s?)((?:{SPELLED})(?:\s+(?:or|and)\s+\d{{3,}})*)\b(?![.,:/]\d|%){GO_ON}",
        lambda found: _called(found) if len(re.sub(r"\D", "", found[2])) > 2 else found[0],
    ),
    (r"(?<![\w.,-])\d{4}(?:[ -]\d{4}){2,3}(?![\w-]|[.,]\d)", _digits),
    (r"(?<![\w.,/-])\d+(?:-\d+){2,}(?![\w/-]|[.,]\d)", _grouped),
    (r"(?<![\w.,])\d{1,3}(?:[ \u00a0\u202f]000)+(?![\w.,-]?\d)", lambda found: re.sub(r"\s", ",", found[0])),
    (r"(?<![\w.,])\d{1,3}(?:[\u00a0\u202f]\d{3})+(?!\d)", lambda found: re.sub(r"\s", ",", found[0])),
    (r"(?<![\w.,])\d{1,3}(?:\.\d{3}){2,}(?![\w.])", lambda found: found[0].replace(".", ",")),
    (r"(?i:(?<=number )|(?<=number: ))\d{3,}-\d{3,}\b", _digits),
    (r"(?<![\w.,:/-])0\d{2,}(?:[ /-]\d{2,})*(?![\w:/-]|[.,]\d)", _digits),
    (r"(?<![\w.,-])\d{9,}(?<!000)(?![\w-]|[.,]\d)", _digits),
    (r"(?<![\w.-])(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?::(\d{2,5}))?(?![\w-]|\.\d)", _machine),
    (r"(?<![\w.-])([Vv](?:ersion )?)(\d{1,4}(?:\.\d{1,4}){1,3})(?!\w|\.\d)", _version),
    (r"(?<![\w.-])()(\d{1,4}\.\d{1,4}\.\d{1,4})(?![\w-]|\.\d)", _version),
)
