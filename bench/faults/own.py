"""A server of one's own, with its files in a folder that goes with it."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar


class Startable(Protocol):
    """Such a server."""

    def start(self) -> object:
        """Start it, and wait until it answers."""

    def stop(self) -> object:
        """End it."""


Program = TypeVar("Program")
Server = TypeVar("Server", bound=Startable)


@contextmanager
def own(make: Callable[[Program, Path], Server], program: Program | None, name: str) -> Iterator[Server | None]:
    """What is made of the program and a new folder, running; None where the program is not installed."""
    if program is None:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix=f"loquent-{name}-", ignore_cleanup_errors=True) as folder:
        server = make(program, Path(folder))
        server.start()
        try:
            yield server
        finally:
            server.stop()
