"""``loquent config``."""

import json
from argparse import ArgumentParser, Namespace

from server.commands import options
from server.commands.failure import Exit, Failure

HELP = "Print the configuration, and the origin of each value."
EPILOG = ""


def add_options(parser: ArgumentParser) -> None:
    """The action and the file."""
    parser.add_argument("action", choices=("check",))
    options.add_config(parser)


def run(asked: Namespace) -> int:
    """Print every key. Raises: Failure where the configuration is invalid."""
    from server.config import ConfigError, read, show

    try:
        configuration = read(asked.config)
    except ConfigError as error:
        raise Failure(Exit.USAGE, str(error)) from None
    print(f"# {configuration.file or 'no configuration file'}")
    for key, value, origin in show(configuration):
        print(f"{key} = {json.dumps(value)}  # {origin}")
    return Exit.OK
