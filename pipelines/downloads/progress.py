"""How far long work has come, and that somebody stopped it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """How far long work has come; ``total`` is 0 while nobody knows."""

    text: str
    done: int = 0
    total: int = 0


class Stopped(Exception):  # noqa: N818 - not an error: somebody asked for it
    """Long work was told to stop."""
