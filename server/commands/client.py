"""Shared by the commands that connect to a server."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from server.commands.failure import Exit, Failure

if TYPE_CHECKING:
    from clients.target import Target


@contextmanager
def explained() -> Iterator[None]:
    """Turn a client's exceptions into a message and an exit code. Raises: Failure, KeyboardInterrupt."""
    import asyncio

    from loquent import ConnectionFailedError, LoquentError, UsageError

    try:
        yield
    except asyncio.CancelledError:  # by a second Ctrl-C
        raise KeyboardInterrupt from None
    except ConnectionFailedError as error:
        raise Failure(Exit.CONNECTION, str(error)) from None
    except LoquentError as error:
        raise Failure(Exit.USAGE if isinstance(error, UsageError) else Exit.RUN_TIME, str(error)) from None


def replying(asked: argparse.Namespace, *, spoken: bool = False, task: str | None = None) -> "Target":
    """The server and how it should reply, for ``options.add_reply`` and, if ``spoken``, ``options.add_voice``.

    Raises: LoquentError when an option is invalid.
    """
    from clients.target import Target

    names = (
        "url",
        "model",
        "ca",
        "insecure",
        "instructions",
        "max_tokens",
        "temperature",
        "seed",
        *(("voice", "speed") if spoken else ()),
    )
    return Target.of(**{name: getattr(asked, name) for name in names}, spoken=spoken, task=task)


def target(asked: argparse.Namespace) -> "Target":
    """The server, for ``options.add_server``. Raises: LoquentError when its key is invalid."""
    from clients.target import Target

    return Target.of(url=asked.url, model=asked.model, ca=asked.ca, insecure=asked.insecure)


def destination(file: str | None, *, as_json: bool) -> str | None:
    """Where the result goes: a file, "-" for a piped standard output, or ``None`` for the terminal or sound card."""
    import sys

    return file or (None if as_json or sys.stdout.isatty() else "-")
