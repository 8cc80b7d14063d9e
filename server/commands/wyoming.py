"""``loquent wyoming``."""

from argparse import ArgumentParser, Namespace

from server.commands import adapters, client, options

HELP = "Let Home Assistant and other Wyoming clients listen, answer and speak with a server."
EPILOG = (
    "Examples: loquent wyoming; loquent wyoming --host 0.0.0.0 --allow 192.168.1.0/24 (then Home Assistant finds it). "
    "`loquent serve` does the same itself with [wyoming] port."
)
INSTALL = "To speak Wyoming install: pip install 'loquent[wyoming]'"


def add_options(parser: ArgumentParser) -> None:
    """Where to listen, and who may connect."""
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; any but loopback requires --allow")
    parser.add_argument("--port", type=int, default=10_700, help="port to listen on, 0 for any free one (10700)")
    parser.add_argument(
        "--allow",
        metavar="NETWORK",
        action="append",
        default=[],
        help="a network whose machines may connect, such as 192.168.1.0/24; repeat it for more (this machine)",
    )
    parser.add_argument("--no-announce", action="store_true", help="do not announce it in the local network")
    parser.add_argument("--instructions", help="how the assistant should behave")
    adapters.add_logging(parser)
    options.add_server(parser)


def run(asked: Namespace) -> int:
    """Serve until a signal. Raises: Failure."""
    with adapters.installed(INSTALL):
        from clients.wyoming.adapter import Exposure, adapter, bind
    from clients.target import Target

    with client.explained():
        target = Target.of(
            url=asked.url, model=asked.model, ca=asked.ca, insecure=asked.insecure, instructions=asked.instructions
        )
        _ = target.http  # a wrong URL is an error now, not with the first peer
        exposure = Exposure.of(asked.host, asked.port, asked.allow)
        serving = adapter(target, exposure, bind(exposure), announce=not asked.no_announce)
        return adapters.run_until_signal(serving, "Wyoming", asked.log_level)
