"""The command line: ``loquent``.

A command imports what it needs only when it runs, so ``--help`` is fast and the clients work without the server's
packages. argparse stays, because click or typer would cost 20 ms and a dependency, and add nothing.
"""

import argparse
import errno
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from server.commands import (
    ask,
    chat,
    config,
    draw,
    history,
    keys,
    listen,
    models,
    screen,
    serve,
    speak,
    streams,
    telephone,
    train,
    widget,
    wyoming,
)
from server.commands.failure import Exit, Failure

SERVER_HINT = "This command needs the server's packages: pip install 'loquent[server]'"
EPILOG = "Start with `loquent serve`; then, in another terminal, `loquent chat`."
STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO)  # errors of the disk, not bugs


class Command(Protocol):
    """The interface of a command's module; its name is the command's."""

    __name__: str
    HELP: str
    EPILOG: str

    def add_options(self, parser: argparse.ArgumentParser, /) -> None:
        """Add the command's options."""

    def run(self, asked: argparse.Namespace, /) -> int:
        """Do the work; returns the exit code. Raises: Failure."""


COMMANDS: tuple[Command, ...] = (
    serve,
    chat,
    ask,
    speak,
    listen,
    draw,
    screen,
    widget,
    wyoming,
    telephone,
    train,
    models,
    keys,
    history,
    config,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code."""
    streams.guard()
    code = _outcome(partial(_run, arguments))
    return code or _outcome(streams.flush)  # a failed write is not a success


def _run(arguments: Sequence[str] | None) -> int:
    try:
        asked = _parser().parse_args(arguments)
    except SystemExit as done:  # argparse has printed help or an error
        return int(done.code or 0)
    run: Callable[[argparse.Namespace], int] = asked.run
    return run(asked)


def _outcome(work: Callable[[], int]) -> int:
    """The exit code of ``work``; a failure is reported on standard error."""
    try:
        return int(work())
    except Failure as failure:
        return _report(failure.code, str(failure))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("server", "pipelines", "clients", "loquent"):
            raise  # a bug of this project
        return _report(Exit.RUN_TIME, f"there is no module {error.name}. {SERVER_HINT}")
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:  # the reader of standard output has closed it
        streams.discard()
        return Exit.RUN_TIME
    except streams.OutputError as error:
        streams.discard()
        return _report(Exit.RUN_TIME, str(error))
    except OSError as error:
        if error.errno not in STORAGE:
            raise
        return _report(Exit.RUN_TIME, f"{error.filename or 'a file'} can't be used: {error.strerror}.")


def _report(code: Exit, message: str) -> int:
    print(f"loquent: {message}", file=sys.stderr)
    return code


class _Version(argparse.Action):
    """Prints the version, which is looked up only here: that takes as long as the rest of ``--help``."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        print(f"loquent {version('loquent')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="loquent",
        description="A self-hosted backend for chatbots and assistants, and its terminal client.",
        epilog=EPILOG,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show program's version number and exit")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in COMMANDS:
        name = command.__name__.rpartition(".")[2]
        adding = commands.add_parser(name, help=command.HELP, description=command.HELP, epilog=command.EPILOG or None)
        command.add_options(adding)
        adding.set_defaults(run=command.run)
    return parser
