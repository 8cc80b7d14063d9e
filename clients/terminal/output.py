"""Output: lines of JSON, and files."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, TextIO

from loquent import LoquentError, UsageError


def print_json(value: object, file: TextIO) -> None:
    """Write one line of JSON, with escapes where ``file``'s encoding lacks characters."""
    unicode = (file.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(value, ensure_ascii=not unicode), file=file)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for the result.

    Raises: UsageError when it can't be opened, LoquentError when it can't be written to its end, as on a full disk.
    """
    try:
        file = path.open("wb")
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror}.") from None
    try:
        with file:
            yield file
    except OSError as error:
        raise LoquentError(f"{path} can't be written: {error.strerror}.") from None
