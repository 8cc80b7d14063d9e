"""``loquent telephone``."""

from argparse import ArgumentParser, Namespace

from server.commands import adapters, client, options
from server.commands.failure import Exit, Failure

HELP = "Let callers talk with a server by telephone, through Twilio."
EPILOG = (
    "TWILIO_AUTH_TOKEN is the account's auth token, by which Twilio's signature is checked; without it calls come from "
    "this machine only. Twilio asks for /voice or /voice-relay by HTTP GET, or gets what --twiml prints. See "
    "docs/telephone.md."
)
INSTALL = "For the telephone install: pip install 'loquent[telephony]'"


def add_options(parser: ArgumentParser) -> None:
    """Where to listen, and how calls go."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; beyond loopback it needs the token")
    parser.add_argument("--port", type=int, default=8_710, help="port to listen on, 0 for any free one (8710)")
    parser.add_argument("--public-url", default="", metavar="URL", help="its address for Twilio: https://phone.example")
    parser.add_argument("--greeting", default="", metavar="TEXT", help="what callers hear first")
    parser.add_argument(
        "--language", default="", metavar="CODE", help='of Twilio\'s own voice and ears, such as "en-US"'
    )
    parser.add_argument(
        "--keys", metavar="TEXT", help='the message that pressed keys become ("The caller pressed {keys}.")'
    )
    parser.add_argument("--calls", type=int, default=16, metavar="N", help="calls at a time (16)")
    parser.add_argument("--minutes", type=float, default=30, metavar="N", help="that a call may take (30)")
    parser.add_argument("--twiml", choices=("media", "relay"), help="print the document for a TwiML bin, and end")
    adapters.add_logging(parser)
    options.add_voice(parser)
    options.add_reply(parser)


def run(asked: Namespace) -> int:
    """Take calls until a signal. Raises: Failure."""
    import os

    with adapters.installed(INSTALL):
        from clients.telephony import keys, twiml
        from clients.telephony.adapter import Line, adapter
    greeting = twiml.Greeting(asked.greeting, asked.language)
    if asked.twiml:
        if not asked.public_url:
            raise Failure(Exit.USAGE, "--twiml needs --public-url.")
        print(twiml.document(asked.twiml, asked.public_url.rstrip("/"), greeting), end="")
        return Exit.OK
    with client.explained():
        target = client.replying(asked, spoken=True)
        _ = target.http  # a wrong URL is an error now, not with the first call
        line = Line(
            asked.host,
            asked.port,
            os.environ.get("TWILIO_AUTH_TOKEN", "").strip(),
            asked.public_url,
            asked.calls,
            asked.minutes * 60,
            greeting,
            asked.keys or keys.MESSAGE,
        )
        return adapters.run_until_signal(adapter(target, line), "The telephone", asked.log_level)
