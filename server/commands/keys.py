"""``loquent keys``."""

import json
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from server.commands import options
from server.commands.failure import Exit, Failure

if TYPE_CHECKING:
    from server.access.keys import Key

HELP = "Make, list and revoke API keys."
EPILOG = (
    "Scopes: realtime (websockets), http (the HTTP API), secrets (client secrets for browsers), admin (/metrics). "
    "A running server sees a change of the keys file within two seconds. `new` without a name stores nothing: its hash "
    "is for config.toml, [server] keys."
)


def add_options(parser: ArgumentParser) -> None:
    """The action, and what it is about."""
    parser.add_argument("action", choices=("new", "list", "revoke"))
    parser.add_argument("name", nargs="?", help="of the key; revoke takes an id too. Keys of one name share their data")
    parser.add_argument("--scope", action="append", default=[], help="what it opens (realtime, http, secrets)")
    parser.add_argument("--expires", metavar="WHEN", help="90d, 12h, 4w, or a date such as 2030-01-31 (never)")
    parser.add_argument("--json", action="store_true", help="list as JSON Lines")
    options.add_config(parser)


def run(asked: Namespace) -> int:
    """Do it. Raises: Failure with what to do."""
    from server.access.key_file import KeyFileError, path_of
    from server.config import ConfigError, read

    if asked.action == "new" and not asked.name:
        return _unstored(asked)
    if asked.action == "revoke" and not asked.name:
        raise Failure(Exit.USAGE, "which one? `loquent keys list` shows them.")
    if asked.action != "new" and (asked.scope or asked.expires):
        raise Failure(Exit.USAGE, f"--scope and --expires belong to `keys new`, not to `keys {asked.action}`.")
    try:
        settings = read(asked.config).settings.server
    except ConfigError as error:
        raise Failure(Exit.USAGE, str(error)) from None
    path = path_of(settings)
    try:
        if asked.action == "new":
            return _new(path, asked)
        if asked.action == "revoke":
            return _revoke(path, asked.name, settings.keys)
        return _list(path, settings.keys, as_json=asked.json)
    except KeyFileError as error:
        raise Failure(Exit.RUN_TIME, str(error)) from None


def _unstored(asked: Namespace) -> int:
    """Print a new key and its hash, and store neither."""
    from server.access.keys import new_key
    from server.config import hash_key

    if asked.scope or asked.expires:
        raise Failure(Exit.USAGE, "a key with --scope or --expires needs a name: loquent keys new NAME.")
    key = new_key()
    print(f"key   {key}\nhash  {hash_key(key)}", flush=True)
    print(
        "Give the key to clients (LOQUENT_API_KEY); it is not stored. Put the hash into config.toml:",
        file=sys.stderr,
    )
    print(f'[server]\nkeys = ["{hash_key(key)}"]', file=sys.stderr)
    return Exit.OK


def _new(path: Path, asked: Namespace) -> int:
    from server.access.key_file import change_keys
    from server.access.keys import date_of, expiry_of, make_key, scopes_of

    now = time.time()
    try:
        expires_at = expiry_of(asked.expires, now) if asked.expires is not None else None
        key, known = make_key(asked.name, scopes_of(asked.scope), expires_at, now)
    except ValueError as error:
        raise Failure(Exit.USAGE, str(error)) from None
    change_keys(path, lambda keys: [*keys, known])
    print(f"key   {key}\nhash  {known.hash}", flush=True)
    print(
        f"{known.name} ({known.id}) may use {', '.join(sorted(known.scopes))}; it expires: {date_of(expires_at)}.\n"
        "Give the key to the client (LOQUENT_API_KEY, or Authorization: Bearer …): it is shown this once.\n"
        f"Its hash is in {path}; a running server takes the key within two seconds.",
        file=sys.stderr,
    )
    return Exit.OK


def _revoke(path: Path, asked: str, configured: Sequence[str]) -> int:
    from server.access.key_file import change_keys

    gone: list[Key] = []

    def without(keys: "tuple[Key, ...]") -> "list[Key]":
        # An id first: no key has a name that looks like one.
        gone.extend([key for key in keys if key.id == asked] or [key for key in keys if key.name == asked])
        if not gone:
            raise Failure(Exit.USAGE, _nothing(asked, configured))
        return [key for key in keys if key not in gone]

    change_keys(path, without)
    for key in gone:
        print(f"revoked {key.name} ({key.id})")
    print("A running server closes its websockets within two seconds; its client secrets are void.", file=sys.stderr)
    return Exit.OK


def _nothing(asked: str, configured: Sequence[str]) -> str:
    if asked in configured or any(hash.startswith(f"sha256:{asked}") for hash in configured):
        return "This key is in the configuration: remove its hash from [server] keys, and restart the server."
    return f"there is no key {asked!r:.80}; `loquent keys list` shows them."


def _list(path: Path, configured: Sequence[str], *, as_json: bool) -> int:
    from server.access.key_file import read_keys
    from server.access.keys import Key

    keys = [(key, "") for key in read_keys(path)] + [(Key(hash, hash), "configuration") for hash in configured]
    if as_json:
        for key, where in keys:
            print(json.dumps(_described(key, where or str(path))))
        return Exit.OK
    _show(keys, path)
    return Exit.OK


def _described(key: "Key", where: str) -> dict[str, object]:
    return {
        "id": key.id,
        "name": key.name,
        "scopes": sorted(key.scopes),
        "created_at": key.created_at or None,
        "expires_at": key.expires_at,
        "valid": key.valid(time.time()),
        "where": where,
    }


def _show(keys: "Sequence[tuple[Key, str]]", path: Path) -> None:
    """Print a table."""
    from rich.console import Console
    from rich.table import Table

    from server.access.keys import date_of

    table = Table(box=None, pad_edge=False)
    for column in ("id", "name", "scopes", "made", "expires"):
        table.add_column(column, no_wrap=column == "id")
    for key, where in keys:
        expires = date_of(key.expires_at) if key.valid(time.time()) else f"expired {date_of(key.expires_at)}"
        name = where or key.name
        made = date_of(key.created_at) if key.created_at else ""
        table.add_row(key.id, name, " ".join(sorted(key.scopes)), made, expires)
    console = Console()
    if keys:
        console.print(table)
    else:
        console.print("There is no key; make one: loquent keys new NAME", highlight=False)
    console.print(f"\nkeys file: {path}", soft_wrap=True, highlight=False)
