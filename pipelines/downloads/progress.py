"""Progress of long work, and the signal to stop it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far long work has come; ``total`` is 0 while it is unknown."""

    text: str
    done: int = 0
    total: int = 0


class Stopped(Exception):  # noqa: N818 - a request, not an error
    """Long work was stopped on request."""
