"""``loquent ask``: one question, one streamed answer."""

import sys
from contextlib import aclosing

from rich.console import Console

from clients.target import Target, session
from clients.terminal.output import print_json
from clients.terminal.render import MarkdownStream
from loquent import Done, Text


async def ask(target: Target, text: str, *, as_json: bool) -> None:
    """Print the answer: rendered on a terminal, plain when piped, or as one JSON object.

    Raises: LoquentError when the reply fails.
    """
    console = Console()
    pretty = console.is_terminal and not as_json
    errors = Console(stderr=True)
    async with session(target, waiting=errors.print) as opened, aclosing(opened.ask(text)) as reply:
        with MarkdownStream(console) if pretty else _Plain(silent=as_json) as out:
            async for piece in reply:
                if isinstance(piece, Text):
                    out.write(piece.text)
                elif as_json and isinstance(piece, Done):
                    print_json(_summary(piece, opened.model), sys.stdout)
                elif isinstance(piece, Done):
                    for warning in piece.warnings:
                        errors.print(warning, style="yellow", markup=False)


def _summary(done: Done, model: str) -> dict[str, object]:
    own = {"warnings": list(done.warnings)} if done.warnings else {}
    return own | {
        "text": done.text,
        "status": done.status,
        "reason": done.reason,
        "model": model,
        "usage": done.usage,
    }


class _Plain:
    """Prints the text as it comes, and a line end after it."""

    def __init__(self, *, silent: bool) -> None:
        self._silent = silent

    def __enter__(self) -> "_Plain":
        return self

    def __exit__(self, *_: object) -> None:
        self.write("\n")

    def write(self, text: str) -> None:
        if not self._silent:
            sys.stdout.write(text)
            sys.stdout.flush()
