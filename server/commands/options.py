"""Options shared by several commands."""

from argparse import ArgumentParser


def add_config(parser: ArgumentParser) -> None:
    """Which configuration file."""
    parser.add_argument("--config", metavar="FILE", help="configuration (LOQUENT_CONFIG, ./config.toml, the user's)")


def add_server(parser: ArgumentParser) -> None:
    """Which server, and which of its models."""
    parser.add_argument("--url", help="the server (LOQUENT_URL, http://127.0.0.1:8700)")
    parser.add_argument("--ca", metavar="FILE", help="certificates to trust, as PEM, for https (LOQUENT_CA)")
    parser.add_argument("--insecure", action="store_true", help="accept any certificate")
    parser.add_argument("--model", help="the model to ask for")


def add_voice(parser: ArgumentParser) -> None:
    """How a voice speaks."""
    parser.add_argument("--voice", metavar="NAME", help="which voice, or which of its speakers (the configured one)")
    add_speed(parser)


def add_speed(parser: ArgumentParser) -> None:
    """How fast a voice speaks."""
    parser.add_argument("--speed", type=float, metavar="X", help="speed; 1 is the voice's own")


def add_reply(parser: ArgumentParser) -> None:
    """Which server, and how it replies."""
    add_server(parser)
    parser.add_argument("--instructions", help="how the assistant should behave")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="limit of the reply")
    parser.add_argument(
        "--temperature", type=float, metavar="T", help="0 always takes the likeliest token; higher values vary more"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same reply")
