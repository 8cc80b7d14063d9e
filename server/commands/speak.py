"""``loquent speak``."""

from argparse import ArgumentParser, Namespace

from server.commands import client, options, streams
from server.commands.failure import Exit, Failure

HELP = "Speak a text: to a file, a pipe or the sound card."
EPILOG = (
    'Examples: loquent speak "Hello." -o hello.mp3; cat story.txt | loquent speak; '
    "loquent speak Hello -o - --format wav | aplay"
)


def add_options(parser: ArgumentParser) -> None:
    """The text, where the sound goes, and the voice."""
    parser.add_argument("text", nargs="*", help="what to say; standard input is appended to it")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write a sound file, - for standard output (the sound card; piped: -)"
    )
    parser.add_argument(
        "--format", choices=("mp3", "opus", "flac", "wav", "pcm"), help="of the file (by its name; wav when piped)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object when everything is spoken")
    options.add_voice(parser)
    options.add_server(parser)


def run(asked: Namespace) -> int:
    """Speak a text. Raises: Failure."""
    from clients.terminal.speak import Speaking, speak

    text = streams.given(asked.text)
    if not text:
        raise Failure(Exit.USAGE, 'there is nothing to say; try: loquent speak "Hello."')
    file = client.destination(asked.output, as_json=asked.json)
    with client.explained():
        speak(client.target(asked), Speaking(text, asked.voice, asked.speed, file, asked.format), as_json=asked.json)
    return Exit.OK
