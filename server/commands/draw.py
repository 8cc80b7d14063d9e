"""``loquent draw``."""

from argparse import ArgumentParser, Namespace

from server.commands import client, options, streams
from server.commands.failure import Exit, Failure

HELP = "Draw a small picture: to a file, a pipe or a terminal that shows pictures."
EPILOG = 'Examples: loquent draw "happy cat" -o cat.png; loquent draw "green heart" -n 3 --size 512 -o heart.png'


def add_options(parser: ArgumentParser) -> None:
    """The prompt, where the pictures go, and how they look."""
    parser.add_argument("prompt", nargs="*", help="what to draw; standard input is appended to it")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="write a PNG, - for standard output (the terminal; piped: -)"
    )
    parser.add_argument("-n", type=int, default=1, metavar="N", help="how many, up to 10; the files are numbered (1)")
    parser.add_argument(
        "--size", type=int, metavar="S", help="side length in pixels: 64, 128, 256, 512 or 1024 (the configured one)"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same picture")
    parser.add_argument("--style", choices=("flat", "soft", "3d", "any"), help="the style (the configured one)")
    parser.add_argument("--json", action="store_true", help="print one JSON object about what was drawn, beside -o")
    options.add_server(parser)


def run(asked: Namespace) -> int:
    """Draw pictures. Raises: Failure."""
    from clients.terminal.draw import Drawing, draw

    text = streams.given(asked.prompt)
    if not text:
        raise Failure(Exit.USAGE, 'there is nothing to draw; try: loquent draw "happy cat" -o cat.png')
    file = client.destination(asked.output, as_json=asked.json)
    with client.explained():
        drawing = Drawing(text, asked.n, asked.size, asked.seed, asked.style, file)
        draw(client.target(asked), drawing, as_json=asked.json)
    return Exit.OK
