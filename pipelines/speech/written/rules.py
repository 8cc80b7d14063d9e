"""What a rule is: a pattern, and what is said for each of its matches."""

import re
from collections.abc import Callable

Replacement = str | Callable[[re.Match[str]], str]
Rule = tuple[re.Pattern[str], Replacement]


def rules(*pairs: tuple[str, Replacement]) -> tuple[Rule, ...]:
    """Patterns, in which ``^`` and ``$`` are a line's ends, with their replacements."""
    return tuple((re.compile(pattern, re.MULTILINE), replacement) for pattern, replacement in pairs)


def stop(found: re.Match[str]) -> str:
    """The full stop of an abbreviation, where it ends the sentence as well."""
    return "." if found[0].endswith(".") and not found.string[found.end() :].strip("\"'”’)]}*_ \n") else ""


def one_of(names: object) -> str:
    """A pattern for any of these strings, the longest first."""
    return "|".join(sorted(map(re.escape, map(str, names)), key=len, reverse=True))  # type: ignore[call-overload]
