"""``loquent history``."""

import json
import sys
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from server.commands import options
from server.commands.failure import Exit, Failure

if TYPE_CHECKING:
    from server.history.administration import Selected
    from server.history.store import DatabaseHistory

PATIENCE = 5.0  # seconds to wait for the database
SCRUB_SECONDS = 20.0  # to wait until deleted bytes are overwritten, which a server that reads holds up for a moment

HELP = "List, export and delete the conversations that are stored."
EPILOG = """Which database: config.toml, [history] store. An owner is the name of the key whose conversations they are
("" without keys). A running server need not be stopped; it forgets within seconds what is deleted here.
Examples: `loquent history export --owner anna > anna.jsonl`, `loquent history delete --owner anna`,
`loquent history delete --before 2026-01-31 --yes`."""


def add_options(parser: ArgumentParser) -> None:
    """The action, and which conversations."""
    parser.add_argument(
        "action",
        choices=("list", "export", "delete"),
        help="list: a line for each conversation; export: JSON Lines, with every item; delete: them and the stored "
        "responses, without a trace",
    )
    options.add_config(parser)
    parser.add_argument("--owner", metavar="NAME", help="only the conversations of this owner")
    parser.add_argument("--conversation", metavar="ID", help="only this conversation")
    parser.add_argument("--before", metavar="DATE", help="only those that were last used before this date (UTC)")
    parser.add_argument("--all", action="store_true", help="delete: every conversation of every owner")
    parser.add_argument("--yes", action="store_true", help="delete without being asked")


def run(asked: Namespace) -> int:
    """Do what is asked. Raises: Failure."""
    import asyncio

    from server.history.administration import Selected
    from server.history.database import SetupError
    from server.history.interface import HistoryError

    try:
        selected = Selected.of(asked.owner, asked.conversation, asked.before)
    except ValueError as error:
        raise Failure(Exit.USAGE, str(error)) from None
    if asked.action == "delete":
        _check(asked, selected)
    history = _history(asked.config)
    if history is None:
        return Exit.OK
    try:
        asyncio.run(_do(asked, history, selected))
    except SetupError as error:
        raise Failure(Exit.USAGE if error.usage else Exit.RUN_TIME, str(error)) from None
    except HistoryError as error:
        named = "" if history.where in error.message else f"{history.where}: "
        raise Failure(Exit.RUN_TIME, named + error.message) from None
    return Exit.OK


def _check(asked: Namespace, selected: "Selected") -> None:
    """Raises: Failure where it is not clear what is to be deleted, or whether."""
    if asked.all == selected.narrow:
        text = "say what to delete: --owner, --conversation, --before (they can be combined), or else --all."
        raise Failure(Exit.USAGE, text)
    if not asked.yes and not sys.stdin.isatty():
        raise Failure(Exit.USAGE, "standard input is no terminal to ask on: add --yes to delete.")


def _history(config: str | None) -> "DatabaseHistory | None":
    """The configured history; None where its file does not exist yet. Raises: Failure."""
    from server.config import ConfigError, read
    from server.history.build import build
    from server.history.database import SetupError
    from server.history.location import file_of

    try:
        settings = read(config).settings.history.model_copy(update={"days": 0.0, "patience": PATIENCE})
        history = build(settings)
    except ConfigError as error:
        raise Failure(Exit.USAGE, str(error)) from None
    except SetupError as error:
        raise Failure(Exit.USAGE, str(error)) from None
    if history is None:
        text = 'conversations are not stored: config.toml, [history] store is "none".'
        raise Failure(Exit.USAGE, text)
    file = file_of(settings.store)
    if file is not None and not file.exists():
        print(f"Nothing is stored: there is no {file} yet.", file=sys.stderr)
        return None
    return history


async def _do(asked: Namespace, history: "DatabaseHistory", selected: "Selected") -> None:
    await history.start()
    try:
        if asked.action == "list":
            await _list(history, selected)
        elif asked.action == "export":
            await _export(history, selected)
        else:
            await _delete(asked, history, selected)
    finally:
        await history.close()


async def _list(history: "DatabaseHistory", selected: "Selected") -> None:
    from server.history.administration import overview

    async for line in overview(history, selected):
        print(line)


async def _export(history: "DatabaseHistory", selected: "Selected") -> None:
    from server.history.administration import exported

    async for record in exported(history, selected):
        print(json.dumps(record))


async def _delete(asked: Namespace, history: "DatabaseHistory", selected: "Selected") -> None:
    """Delete, and see that nothing is left. Raises: Failure."""
    import asyncio

    from server.history.administration import count, said

    found = await count(history, selected)
    if not asked.yes and any(found) and not _agreed(f"Delete {said(*found)} from {history.where}? [y/N] "):
        raise Failure(Exit.RUN_TIME, "nothing was deleted.")
    deleted = await history.purge(selected.owner, conversation=selected.conversation, before=selected.before)
    print(f"Deleted {said(len(deleted.conversations), deleted.responses)} from {history.where}.")
    left = await count(history, selected)
    if any(left):
        raise Failure(Exit.RUN_TIME, f"{said(*left)} came meanwhile; call the command again.")
    try:
        await asyncio.wait_for(history.writer.scrubbed(), SCRUB_SECONDS)
    except TimeoutError:
        text = f"the rows are deleted, yet {history.where} is in use and their bytes could not be overwritten."
        raise Failure(Exit.RUN_TIME, f"{text} Call the command again with --yes.") from None


def _agreed(question: str) -> bool:
    print(question, end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
