"""Times of day and spans of time in English."""

import re

from pipelines.speech.written.numbers import ONES, cardinal, count
from pipelines.speech.written.rules import Rule, rules, stop

NOON = r"[AaPp]\.?\s?[Mm]\b"
CLOCK = r"\d{1,2}:[0-5]\d"
HALF = rf"\s?{NOON}\.?"  # of the day


def clock(hour: int, minute: int, half: str = "") -> str:
    """10:05 is "ten oh five", 9:00 "nine o'clock" and 20:00 "twenty hundred"; with "AM" or "PM" behind it."""
    said = "zero" if hour == 0 else cardinal(hour)
    if minute:
        said += f" {'oh ' if minute < 10 else ''}{cardinal(minute)}"
    elif not half:
        said = "midnight" if hour == 0 else f"{said} o'clock" if hour <= 12 else f"{said} hundred"
    return f"{said} {half}".rstrip()


def _clock(found: re.Match[str]) -> str:
    hour, minute, half = found.groups()
    if int(hour) > 24:
        return found[0]
    said = clock(int(hour), int(minute), _half(half))
    return said + (stop(found) if half else "")


def _half(written: str | None) -> str:
    """In capitals: behind a word espeak-ng takes "am" for the verb."""
    return f"{written.strip()[0].upper()}M" if written else ""


def _hour(found: re.Match[str]) -> str:
    return f"{found[1]} {_half(found[2])}{stop(found)}"


def _span(found: re.Match[str]) -> str:
    parts = zip(found.groups(), ("hour", "minute", "second"), strict=True)
    said = [count(str(int(number)), name) for number, name in parts if int(number)]
    return " and ".join([" ".join(said[:-1]), said[-1]]) if len(said) > 1 else said[0] if said else ONES[0]


TIMES: tuple[Rule, ...] = rules(
    (
        rf"(?<![\w:.,])({CLOCK}(?:{HALF})?|\d{{1,2}}{HALF})\s?[-–—]\s?(?={CLOCK}|\d{{1,2}}{HALF})",
        lambda found: f"{found[1]} to ",
    ),
    (rf"(?<![\w:.,])(\d{{1,2}})\s?[-–—]\s?(?=(?:{CLOCK}|\d{{1,2}}){HALF})", lambda found: f"{found[1]} to "),
    (r"(?<![\w:.,])(\d{1,2}):([0-5]\d):([0-5]\d)(?![\w:]|[.,]\d)", _span),
    (
        rf"(?<![\w:.,])(\d{{1,3}}):(\d{{1,3}})[-–](\d{{1,3}})(?![\w:]|{HALF})",
        lambda found: f"{found[1]} {found[2]} to {found[3]}",
    ),
    (rf"(?<![\w:.,])(\d{{1,2}}):([0-5]\d)({HALF})?(?!\w|:\d|[.,]\d)", _clock),
    (r"(?<![\w:.,])(\d{1,2}):([0-5]\d)()(?=[a-z]{3})", _clock),
    (rf"(?<![\w:.,])(\d{{1,2}})({HALF})", _hour),
    (r"\b([AaPp])\.m\.", lambda found: f"{found[1].upper()}M{stop(found)}"),
    (r"(?<![\w:.,])(\d{1,3}):(\d{1,3})(?![\w:]|[.,]\d)", lambda found: f"{found[1]} to {found[2]}"),  # a ratio
)
