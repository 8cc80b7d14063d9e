"""Progress of long work, and the signal to stop it."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, TypeVar

Made = TypeVar("Made")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far long work has come; ``total`` is 0 while it is unknown."""

    text: str
    done: int = 0
    total: int = 0


class Stopped(Exception):  # noqa: N818 - a request, not an error
    """Long work was stopped on request."""


def finish(steps: Generator[Any, None, Made]) -> Made:
    """Run work that reports its progress to its end, unseen; returns what it made."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            made: Made = end.value
            return made
