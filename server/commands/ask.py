"""``loquent ask``."""

from argparse import ArgumentParser, Namespace

from server.commands import client, options, streams
from server.commands.failure import Exit, Failure

HELP = "Ask one question and stream the answer."
EPILOG = 'Example: cat notes.txt | loquent ask "Sum this up"'


def add_options(parser: ArgumentParser) -> None:
    """The question, and how the server replies."""
    parser.add_argument("question", nargs="*", help="the question; standard input is appended to it")
    parser.add_argument("--json", action="store_true", help="print one JSON object when the answer is complete")
    parser.add_argument("--task", metavar="NAME", help="one of the server's [chat.tasks], such as summarize")
    options.add_reply(parser)


def run(asked: Namespace) -> int:
    """Print one answer. Raises: Failure."""
    import asyncio

    from clients.terminal.ask import ask

    text = streams.given(asked.question)
    if not text:
        raise Failure(Exit.USAGE, 'there is no question; try: loquent ask "Name the capital of France."')
    with client.explained():
        asyncio.run(ask(client.replying(asked, task=asked.task), text, as_json=asked.json))
    return Exit.OK
