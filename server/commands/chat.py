"""``loquent chat``."""

from argparse import ArgumentParser, Namespace

from server.commands import client, options
from server.commands.failure import Exit

HELP = "Chat with a server in the terminal."
EPILOG = "Ctrl-C cancels a reply; a second one leaves. `loquent chat --voice` talks; headphones spare it its own echo."


def add_options(parser: ArgumentParser) -> None:
    """How the server replies, and whether aloud."""
    parser.add_argument("--speak", action="store_true", help="play the replies on the sound card too")
    parser.add_argument(
        "--voice",
        metavar="NAME",
        nargs="?",
        const="",
        help="talk, with the microphone and the sound card; NAME is which voice replies, also with --speak",
    )
    parser.add_argument("--push", action="store_true", help="talk, with a microphone that Enter opens and closes")
    options.add_speed(parser)
    options.add_reply(parser)


def run(asked: Namespace) -> int:
    """Chat until the user leaves. Raises: Failure."""
    import asyncio

    from clients.terminal.chat import chat
    from clients.terminal.voice import talk

    talks = asked.push or (asked.voice is not None and not asked.speak)
    asked.voice = asked.voice or None
    with client.explained():
        if talks:
            asyncio.run(talk(client.replying(asked, spoken=True), push=asked.push))
        else:
            asyncio.run(chat(client.replying(asked, spoken=asked.speak), spoken=asked.speak))
    return Exit.OK
