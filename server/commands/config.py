"""``loquent config``."""

import json
from argparse import ArgumentParser, Namespace

from server.commands import options
from server.commands.failure import Exit, Failure

HELP = "Print what is configured, and where each value came from."
EPILOG = ""


def add_options(parser: ArgumentParser) -> None:
    """What to do, and with which file."""
    parser.add_argument("action", choices=("check",))
    options.add_config(parser)


def run(asked: Namespace) -> int:
    """Print every key. Raises: Failure where the configuration can't be used."""
    from server.config import ConfigError, read, show

    try:
        configuration = read(asked.config)
    except ConfigError as error:
        raise Failure(Exit.USAGE, str(error)) from None
    print(f"# {configuration.file or 'no configuration file'}")
    for key, value, origin in show(configuration):
        print(f"{key} = {json.dumps(value)}  # {origin}")
    return Exit.OK
