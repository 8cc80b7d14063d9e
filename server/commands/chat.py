"""``loquent chat``."""

from argparse import ArgumentParser, Namespace

from server.commands import client, options
from server.commands.failure import Exit

HELP = "Chat with a server in the terminal."
EPILOG = "Ctrl-C cancels a reply; a second one leaves."


def add_options(parser: ArgumentParser) -> None:
    """How the server replies, and whether aloud."""
    parser.add_argument("--speak", action="store_true", help="play the replies on the sound card too")
    options.add_voice(parser)
    options.add_reply(parser)


def run(asked: Namespace) -> int:
    """Chat until the user leaves. Raises: Failure."""
    import asyncio

    from clients.terminal.chat import chat

    with client.explained():
        asyncio.run(chat(client.replying(asked, spoken=asked.speak), spoken=asked.speak))
    return Exit.OK
