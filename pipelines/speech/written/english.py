"""All rules for English, in the order in which they are applied: what is written longer comes before its parts."""

from pipelines.speech.written.abbreviations import ABBREVIATIONS
from pipelines.speech.written.codes import CODES
from pipelines.speech.written.dates import DATES, NAMES, YEARS
from pipelines.speech.written.fractions import FRACTIONS
from pipelines.speech.written.money import MONEY
from pipelines.speech.written.rules import Rule, rules
from pipelines.speech.written.signs import RANGES, SIGNS
from pipelines.speech.written.times import TIMES
from pipelines.speech.written.units import UNITS_RULES

ADDRESSES: tuple[Rule, ...] = rules(
    (r"(?<=[A-Za-z0-9])_(?=[\w.+-]*@\w)", " underscore "),
    (r"(?<=[A-Za-z0-9])-(?=[\w.+-]*@\w)", " dash "),
)

ENGLISH: tuple[Rule, ...] = (
    *ADDRESSES, *NAMES, *ABBREVIATIONS, *TIMES, *DATES, *MONEY, *CODES, *FRACTIONS, *YEARS, *RANGES, *UNITS_RULES,
    *SIGNS,
)  # fmt: skip
