"""Shows the progress of long work: a bar on a terminal, lines elsewhere."""

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from pipelines.downloads.progress import Progress

Made = TypeVar("Made")


def shown(steps: Generator[Progress, None, Made], show: Callable[[Progress], None]) -> Made:
    """Run work that reports its progress; returns its result."""
    while True:
        try:
            show(next(steps))
        except StopIteration as end:
            made: Made = end.value
            return made


@contextmanager
def display() -> Iterator[Callable[[Progress], None]]:
    """Yields a function that shows progress reports on standard error while the block runs."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task("starting", total=None)
        shown = ""

        def show(step: Progress) -> None:
            nonlocal shown, task
            if step.text != shown:  # a new step has a new clock
                bars.remove_task(task)
                task, shown = bars.add_task(step.text, total=None), step.text
            bars.update(task, completed=step.done, total=step.total or None)

        yield show


class _Lines:
    """One line for each step, none for its parts."""

    def __init__(self) -> None:
        self._shown = ""

    def __call__(self, step: Progress) -> None:
        if step.text != self._shown:
            self._shown = step.text
            print(f"loquent: {step.text}", file=sys.stderr, flush=True)
