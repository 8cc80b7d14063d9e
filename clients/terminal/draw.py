"""``loquent draw``: a small picture, to a file, a pipe or a terminal that shows pictures."""

import base64
import http.client
import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clients.target import Target
from clients.terminal.http import post
from clients.terminal.output import new_file, print_json
from loquent import LoquentError, UsageError

CHUNK = 4096  # characters of one piece; kitty's limit
COLUMNS = 24  # of the terminal, the width of a picture


@dataclass(frozen=True, slots=True)
class Drawing:
    """What to draw, and where to write it."""

    prompt: str
    count: int = 1
    size: int | None = None
    seed: int | None = None
    style: str | None = None
    file: str | None = None  # "-" is standard output; None is the terminal


def draw(target: Target, asked: Drawing, *, as_json: bool) -> None:
    """Draw. Raises: LoquentError that says what to do."""
    show = None if asked.file is not None else shows_pictures(os.environ)
    if asked.file is None and as_json:
        raise UsageError("With --json the picture needs a file: -o picture.png")
    if asked.file is None and show is None:
        raise UsageError("This terminal shows no pictures; name a file: -o picture.png")
    if asked.file == "-" and asked.count > 1:
        raise UsageError("Several pictures need files of their own: -o picture.png")
    paths = _paths(asked)
    answer = _ask(target, asked)
    drawn = []
    for path, entry in zip(paths, answer["data"], strict=False):
        png = entry["png"]
        if asked.file == "-":
            sys.stdout.buffer.write(png)
            sys.stdout.buffer.flush()
        elif path is not None:
            with new_file(path) as file:
                file.write(png)
        elif show is not None:
            sys.stdout.write("".join(PROTOCOLS[show](png)) + "\n")
        own = entry.get("loquent", {})
        drawn.append({"file": str(path) if path else asked.file, "caption": entry.get("revised_prompt"), **own})
        if path is not None and not as_json and sys.stdout.isatty():
            print(f"{path}: {entry.get('revised_prompt')}, seed {own.get('seed')}")
    if as_json:
        print_json({"images": drawn}, sys.stderr if asked.file == "-" else sys.stdout)


def _ask(target: Target, asked: Drawing) -> dict[str, Any]:
    body = {
        "prompt": asked.prompt,
        "model": target.model,
        "n": asked.count,
        "size": f"{asked.size}x{asked.size}" if asked.size is not None else None,
        "seed": asked.seed,
        "response_format": "b64_json",
        "loquent": {"style": asked.style} if asked.style else None,
    }
    with post(
        target, "/v1/images/generations", {key: value for key, value in body.items() if value is not None}
    ) as got:
        try:
            answer: dict[str, Any] = json.load(got)
            for entry in answer["data"]:
                entry["png"] = base64.b64decode(entry["b64_json"])
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
            raise LoquentError("The server's answer did not arrive whole, or is invalid; try again.") from error
    return answer


def _paths(asked: Drawing) -> list[Path | None]:
    """Where each picture goes."""
    if asked.file in (None, "-"):
        return [None] * asked.count
    path = Path(asked.file or "")
    if path.suffix.lower() != ".png":
        raise UsageError(f"{path}: pictures are PNG files; name it {path.with_suffix('.png')}")
    if not path.parent.is_dir():
        raise UsageError(f"{path} can't be written: there is no folder {path.parent}.")
    if asked.count == 1:
        return [path]
    return [path.with_stem(f"{path.stem}-{n}") for n in range(1, asked.count + 1)]


def shows_pictures(environment: Mapping[str, str]) -> str | None:
    """The graphics protocol that this terminal announces, if any."""
    program, kind = environment.get("TERM_PROGRAM", ""), environment.get("TERM", "")
    if "KITTY_WINDOW_ID" in environment or kind in ("xterm-kitty", "xterm-ghostty") or program == "ghostty":
        return "kitty"
    if program in ("iTerm.app", "WezTerm", "mintty", "vscode"):
        return "iterm"
    return None


def _kitty(png: bytes) -> Iterator[str]:
    """Kitty's graphics protocol: the file in pieces, shown where the cursor is."""
    text = base64.b64encode(png).decode()
    pieces = [text[n : n + CHUNK] for n in range(0, len(text), CHUNK)]
    for n, piece in enumerate(pieces):
        head = f"a=T,f=100,c={COLUMNS}," if n == 0 else ""
        yield f"\x1b_G{head}m={int(n + 1 < len(pieces))};{piece}\x1b\\"


def _iterm(png: bytes) -> Iterator[str]:
    """iTerm2's inline images."""
    yield f"\x1b]1337;File=inline=1;size={len(png)};width={COLUMNS}:{base64.b64encode(png).decode()}\x07"


PROTOCOLS = {"kitty": _kitty, "iterm": _iterm}
