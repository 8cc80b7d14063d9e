"""The process's standard streams: input may be any bytes, and output may be closed or full."""

import codecs
import errno
import io
import os
import sys
from collections.abc import Sequence
from typing import cast

BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
ODD = "\N{REPLACEMENT CHARACTER}"
REPLACING = "loquent.replace"  # the name of the error handler for undecodable bytes


class OutputError(Exception):
    """Standard output can't be written; the message says why."""


class _Output(io.FileIO):
    """Standard output, whose failures are distinguished from those of any other file."""

    def write(self, data: object, /) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type]  # bytes, as its buffer calls it
        except BrokenPipeError:
            raise
        except OSError as error:
            reason = "it is closed" if error.errno == errno.EBADF else error.strerror
            raise OutputError(f"standard output can't be written: {reason}.") from None


def guard() -> None:
    """Make the standard streams safe to use, also those that the parent process has closed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:  # closed: without this the next socket would become standard output
            os.open(os.devnull, os.O_RDONLY if descriptor == 1 else os.O_RDWR)  # writing to 1 fails, as it should
    if sys.stdin is None:
        sys.stdin = open(0, closefd=False)  # noqa: SIM115 - until the process ends
    if sys.stderr is None:
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115 - until the process ends
    before = sys.stdout
    if before is not sys.__stdout__:
        return  # a test or another program has replaced it
    raw = _Output(1, "w", closefd=False)
    errors = "replace" if before is None or before.errors == "strict" else before.errors
    encoding = "utf-8" if before is None else before.encoding
    through = before is not None and before.write_through
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(raw), encoding, errors, line_buffering=raw.isatty(), write_through=through
    )


def flush() -> int:
    """Flush standard output. Raises: OutputError, BrokenPipeError."""
    sys.stdout.flush()
    return 0


def announce(text: str) -> None:
    """Print a line; a failure is ignored, because a server does not depend on its output."""
    try:
        print(text, flush=True)
    except (OutputError, BrokenPipeError):
        discard()


def discard() -> None:
    """Discard buffered and further output."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.close(null)
    sys.stdout.flush()


def piped() -> io.TextIOWrapper | None:
    """Standard input as text, or ``None`` where it is a terminal.

    Undecodable bytes become U+FFFD, with one warning on standard error.

    Raises: OSError when it can't be read.
    """
    if sys.stdin.isatty():
        return None
    buffer = cast(io.BufferedReader, sys.stdin.buffer)
    head = buffer.peek(4)
    encoding = next((name for bom, name in BOMS.items() if head.startswith(bom)), sys.stdin.encoding)
    codecs.register_error(REPLACING, _Replacing(encoding))
    return io.TextIOWrapper(buffer, encoding, REPLACING)


def given(words: Sequence[str]) -> str:
    """The words of the command line, followed by standard input."""
    from loquent.texts import clean

    stream = piped()
    parts = (clean(" ".join(words)), "" if stream is None else stream.read())
    return "\n\n".join(part.strip() for part in parts if part.strip())


class _Replacing:
    """Decodes undecodable bytes as U+FFFD, and warns of the first."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding.upper().removesuffix("-SIG")
        self._warned = False

    def __call__(self, error: UnicodeError) -> tuple[str, int]:
        if not isinstance(error, UnicodeDecodeError):
            raise error
        if not self._warned:
            self._warned = True
            print(f"loquent: standard input is not all {self._encoding}; odd bytes became {ODD}", file=sys.stderr)
        return ODD, error.end
