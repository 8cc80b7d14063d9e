"""``loquent speak``: a text, spoken to a file, a pipe or the sound card."""

import http.client
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import DownloadColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from clients.target import Target
from clients.terminal.http import post
from clients.terminal.output import new_file, print_json
from clients.terminal.sound import Player
from loquent import LoquentError, UsageError

FORMATS = ("mp3", "opus", "flac", "wav", "pcm")
SUFFIXES = {"ogg": "opus", "oga": "opus", "wave": "wav", "raw": "pcm"}
PIECE = 16 * 1024  # bytes


@dataclass(frozen=True, slots=True)
class Speaking:
    """What to say, and where to write it."""

    text: str
    voice: str | None = None
    speed: float | None = None
    file: str | None = None  # "-" is standard output; None is the sound card
    format: str | None = None

    @property
    def encoded(self) -> str:
        """The format to ask for. Raises: UsageError when the file's ending says nothing."""
        if self.format:
            return self.format
        if self.file in (None, "-"):
            return "pcm" if self.file is None else "wav"
        suffix = Path(self.file or "").suffix.lstrip(".").lower()
        found = SUFFIXES.get(suffix, suffix)
        if found not in FORMATS:
            raise UsageError(f"{self.file}: what format? Name it .{', .'.join(FORMATS)}, or say --format.")
        return found


def speak(target: Target, asked: Speaking, *, as_json: bool) -> None:
    """Speak. Raises: LoquentError that says what to do."""
    begun = time.monotonic()
    size = 0
    body = {
        "input": asked.text,
        "model": target.model,
        "voice": asked.voice,
        "speed": asked.speed,
        "response_format": asked.encoded,
    }
    with ExitStack() as opened:
        write: Callable[[bytes], object]
        finish: Callable[[], object]
        if asked.file is None:
            player = opened.enter_context(Player())
            write, finish = player.play, player.drain
        pieces = _receive(target, {name: value for name, value in body.items() if value is not None})
        first = next(pieces, b"")  # an existing file is not touched when nothing comes
        if asked.file is not None:
            file = sys.stdout.buffer if asked.file == "-" else opened.enter_context(new_file(Path(asked.file)))
            write, finish = file.write, file.flush
        show = opened.enter_context(_Bar(asked))
        for piece in chain([first], pieces):
            write(piece)
            size += len(piece)
            show.bar.update(show.task, advance=len(piece))
        finish()
    if as_json:
        summary = {
            "file": asked.file,
            "format": asked.encoded,
            "bytes": size,
            "seconds_taken": round(time.monotonic() - begun, 3),
        }
        print_json(summary, sys.stderr if asked.file == "-" else sys.stdout)


class _Bar:
    """Shows the bytes received, on a terminal."""

    def __init__(self, asked: Speaking) -> None:
        console = Console(stderr=True)
        columns = (SpinnerColumn(), TextColumn("speaking"), DownloadColumn(), TimeElapsedColumn())
        hidden = not console.is_terminal or asked.file is None
        self.bar = Progress(*columns, console=console, transient=True, disable=hidden)
        self.task = self.bar.add_task("", total=None)

    def __enter__(self) -> "_Bar":
        self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.stop()


def _receive(target: Target, body: dict[str, Any]) -> Iterator[bytes]:
    with post(target, "/v1/audio/speech", body) as response:
        try:
            while piece := response.read1(PIECE):
                yield piece
        except (OSError, http.client.HTTPException) as error:
            raise LoquentError("The server ended the sound before its end; its log says why.") from error
