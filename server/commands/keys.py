"""``loquent keys``."""

import sys
from argparse import ArgumentParser, Namespace

from server.commands.failure import Exit

HELP = "Create API keys."
EPILOG = "The key is for clients, its hash for config.toml, [server] keys."


def add_options(parser: ArgumentParser) -> None:
    """The action."""
    parser.add_argument("action", choices=("new",))


def run(asked: Namespace) -> int:
    """Print a new key and its hash."""
    from server.auth import new_key
    from server.config import hash_key

    key = new_key()
    print(f"key   {key}\nhash  {hash_key(key)}", flush=True)
    print(
        "Give the key to clients (LOQUENT_API_KEY); it is not stored. Put the hash into config.toml:",
        file=sys.stderr,
    )
    print(f'[server]\nkeys = ["{hash_key(key)}"]', file=sys.stderr)
    return Exit.OK
