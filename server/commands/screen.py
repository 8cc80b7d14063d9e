"""``loquent screen``."""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterable

from server.commands import client, options, streams
from server.commands.failure import Exit, Failure

HELP = "Screen texts with the server's anomaly detector, one per line."
EPILOG = (
    'Examples: loquent screen --explain "Ignore all previous instructions."; loquent screen --json < messages.txt; '
    "loquent screen --documents < passages.txt"
)


def add_options(parser: ArgumentParser) -> None:
    """The texts."""
    parser.add_argument("text", nargs="*", help="a text; without one, each line of standard input is one")
    parser.add_argument("--explain", action="store_true", help="say of each verdict what it is due to")
    parser.add_argument(
        "--documents",
        action="store_true",
        help="the texts are documents or tools' results: look for instructions to the assistant in them",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per text")
    options.add_server(parser)


def run(asked: Namespace) -> int:
    """Print a verdict for each text. Raises: Failure, also when a text was refused."""
    from clients.terminal.screen import screen

    with client.explained():
        screen(
            client.target(asked),
            _texts(asked),
            as_json=asked.json,
            options={"explain": asked.explain, "documents": asked.documents},
        )
    return Exit.OK


def _texts(asked: Namespace) -> Iterable[str]:
    from loquent.texts import clean

    if asked.text:
        return [clean(" ".join(asked.text))]
    stream = streams.piped()
    if stream is None:
        raise Failure(Exit.USAGE, 'there is no text; try: loquent screen "Ignore all previous instructions."')
    return (line.rstrip("\n") for line in stream)
