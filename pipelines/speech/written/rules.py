"""What a rule is: a pattern, and what is said for each of its matches."""

import re
from collections.abc import Callable, Iterable

Replacement = str | Callable[[re.Match[str]], str]
Rule = tuple[re.Pattern[str], Replacement]


def rules(*pairs: tuple[str, Replacement]) -> tuple[Rule, ...]:
    """Patterns, in which ``^`` and ``$`` are a line's ends, with their replacements."""
    return tuple((re.compile(pattern, re.MULTILINE), replacement) for pattern, replacement in pairs)


def stop(found: re.Match[str]) -> str:
    """The full stop of an abbreviation, where it ends the sentence as well."""
    return "." if found[0].endswith(".") and not found.string[found.end() :].strip("\"'”’)]}*_ \n") else ""


NOUN = re.compile(
    r"\s(?!(?:a|an|and|at|by|each|for|from|in|is|of|on|or|per|to|was|were|will|with|long|tall|wide|high|deep)\b)[a-z]{3,}"
)


def attributive(found: re.Match[str]) -> bool:
    """Whether an amount is a noun's attribute: "a 5 m rope", "a $5 bill"."""
    return bool(
        re.search(r"(?:\b[Aa]n?|\w['’]s) $", found.string[: found.start()]) and NOUN.match(found.string, found.end())
    )


def one_of(names: Iterable[str]) -> str:
    """A pattern for any of these strings, the longest first."""
    return "|".join(sorted(map(re.escape, names), key=len, reverse=True))
