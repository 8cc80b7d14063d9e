"""What the commands that train have in common."""

import signal
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path


def foreign(target: Path, parts: Collection[str]) -> str:
    """A file that would be lost if a result of these ``parts`` replaced this folder; "" where there is none."""
    if not target.exists():
        return ""
    if not target.is_dir():
        return "a file"
    return next((path.name for path in sorted(target.iterdir()) if path.name not in parts), "")


@contextmanager
def interruptible(stop: threading.Event) -> Iterator[list[int]]:
    """Let the first SIGINT or SIGTERM stop the work cleanly; a second one kills it. Yields the signals received."""
    came: list[int] = []

    def asked_to_stop(by: int, _: object) -> None:
        came.append(by)
        stop.set()
        for name, handler in before.items():
            signal.signal(name, handler)

    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    for name in before:
        signal.signal(name, asked_to_stop)
    try:
        yield came
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
