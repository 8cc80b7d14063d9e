"""``loquent widget``."""

import re
from argparse import ArgumentParser, Namespace

from server.commands.failure import Exit, Failure

HELP = "Print the tag that puts the chat widget on a web page."
EPILOG = (
    "The tag names the version that is installed here, and a browser runs no other: print it anew after an update of "
    "the server. docs/internet.md says what the server must be set to."
)
SERVER = "https://your-server"
SECRET_URL = "/chat-secret"  # noqa: S105 - an address
EXPLAINED = (
    "<!-- secret-url: an address of your own site, whose backend asks the server for a client secret "
    "(POST /v1/realtime/client_secrets, with its key) and answers with what it gets. -->"
)
ADDRESS = re.compile(r"https?://[^/\s?#@\"'<>]+(?:/[^\s?#\"'<>]*)?")


def add_options(parser: ArgumentParser) -> None:
    """Where the server is."""
    parser.add_argument("--url", default=SERVER, help=f"the server, as visitors reach it ({SERVER})")


def run(asked: Namespace) -> int:
    """Print it. Raises: Failure where the address is none."""
    from server.web.file import WidgetFile

    if not ADDRESS.fullmatch(asked.url):
        raise Failure(Exit.USAGE, f"--url {asked.url!r:.200} is no address such as {SERVER}.")
    print(WidgetFile.read().tag(asked.url.rstrip("/"), SECRET_URL))
    print(EXPLAINED)
    return Exit.OK
