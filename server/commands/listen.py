"""``loquent listen``."""

from argparse import ArgumentParser, Namespace

from server.commands import client, options
from server.commands.failure import Exit, Failure

HELP = "Print the words of a sound file, a pipe or the microphone."
EPILOG = (
    "Examples: loquent listen meeting.mp3; loquent listen talk.wav --format srt > talk.srt; loquent listen (the "
    "microphone, until Ctrl-C); arecord -q -t raw -f S16_LE -r 24000 | loquent listen --raw"
)


def add_options(parser: ArgumentParser) -> None:
    """What to listen to, and how the words are printed."""
    parser.add_argument("file", nargs="?", help="a sound file, - for one on standard input (without: the microphone)")
    parser.add_argument(
        "--raw", action="store_true", help="live sound on standard input: PCM, mono, 16 bits, 24,000 samples a second"
    )
    parser.add_argument("--language", metavar="CODE", help='what is spoken, such as "de" (what is heard)')
    parser.add_argument("--prompt", metavar="TEXT", help="names and words that may occur")
    parser.add_argument("--translate", action="store_true", help="into English; of a file")
    parser.add_argument(
        "--format", choices=("text", "srt", "vtt", "verbose_json"), default="text", help="of a file's words (text)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON: a file's segments, or one object a turn")
    options.add_server(parser)


def run(asked: Namespace) -> int:
    """Listen. Raises: Failure."""
    import asyncio
    import sys

    from clients.terminal.listen import Listening, listen_live, listen_to_file

    file = asked.file or (None if asked.raw or sys.stdin.isatty() else "-")
    if asked.raw and asked.file:
        raise Failure(Exit.USAGE, "--raw is for live sound on standard input; leave out the file, or --raw.")
    if file is None and (asked.translate or asked.format != "text"):
        raise Failure(Exit.USAGE, "--translate and --format are for files; name one.")
    listening = Listening(file, asked.raw, asked.language, asked.prompt, asked.translate, asked.format)
    with client.explained():
        target = client.target(asked)
        if file is not None:
            listen_to_file(target, listening, as_json=asked.json)
        else:
            asyncio.run(listen_live(target, listening, as_json=asked.json))
    return Exit.OK
