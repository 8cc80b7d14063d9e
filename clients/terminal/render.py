"""Markdown on a terminal while it streams in."""

import re
from types import TracebackType

from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment

FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})(.*)$")
REDRAWS = 12  # times a second


def split_finished(text: str) -> tuple[str, str]:
    """Split ``text`` into its finished blocks and the tail that may still change.

    A blank line finishes a block, except within a fenced code block. A list is finished only by the first line that is
    neither indented nor an item, since other lines may belong to it.
    """
    finished = position = 0
    fence: str | None = None
    blank_before = False
    for line in text.splitlines(keepends=True):
        whole = line.endswith("\n")
        found = FENCE.match(line.rstrip("\n"))
        if fence is None and blank_before and line.strip() and not _continues_list(line):
            finished = position
        if found and fence is None:
            fence = found[1]
        elif found and fence is not None and found[1].startswith(fence) and not found[2].strip() and whole:
            fence = None
        blank_before = fence is None and whole and not line.strip()
        position += len(line)
    return text[:finished], text[finished:]


def _continues_list(line: str) -> bool:
    return line[0] in " \t" or re.match(r"([-*+]|\d+[.)])(\s|$)", line) is not None or line.strip().isdigit()


class _Tail:
    """Markdown that still grows: only those of its last lines that can be erased again.

    Lines that have scrolled off the top can't be erased: each redraw of a taller text would print them again. The whole
    block is printed when it is finished.
    """

    def __init__(self, text: str) -> None:
        self._text = text

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(Markdown(self._text), options, pad=False)
        for line in lines[-max(options.size.height - 1, 1) :]:  # the last row is the cursor's, below the text
            yield from line
            yield Segment.line()


class MarkdownStream:
    """Prints each finished block once; only the tail after them is redrawn."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tail = ""
        self._live = Live(console=console, refresh_per_second=REDRAWS, transient=True)

    def __enter__(self) -> "MarkdownStream":
        self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._live.update(_Tail(""))
        self._live.__exit__(kind, error, traceback)
        if self._tail.strip():
            self._console.print(Markdown(self._tail))

    def write(self, text: str) -> None:
        """Take the next piece."""
        finished, self._tail = split_finished(self._tail + text)
        self._live.update(
            _Tail(self._tail), refresh=bool(finished.strip())
        )  # before the finished blocks, which it would otherwise follow
        if finished.strip():
            self._live.console.print(Markdown(finished))
            self._live.console.print()
