"""``loquent serve``."""

from argparse import ArgumentParser, Namespace

from server.commands import options
from server.commands.failure import Exit, Failure

HELP = "Run the server."
EPILOG = "Every other setting: config.toml; `loquent config check` shows it."


def add_options(parser: ArgumentParser) -> None:
    """The address, the model, what answers with it, and the log level."""
    options.add_config(parser)
    parser.add_argument("--host", help="address to listen on; any but loopback requires a key (127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on, 0 for any free one (8700)")
    parser.add_argument(
        "--model", help="language model: a name from `loquent models list`, a folder, a .gguf, a hub name"
    )
    parser.add_argument(
        "--engine",
        metavar="URL",
        help="answer with an OpenAI-compatible server elsewhere, such as http://10.0.0.5:8000/v1",
    )
    parser.add_argument("--on", choices=("ray",), help="serve with gateways and engines on Ray Serve (docs/ray.md)")
    parser.add_argument(
        "--address", help="with --on ray: an existing cluster, such as auto (one of this machine's own)"
    )
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"), help="log level (info)")


def run(asked: Namespace) -> int:
    """Serve until a signal. Raises: Failure."""
    from server.commands.serving import serve
    from server.config import ConfigError, read

    overrides = {
        "server.host": asked.host,
        "server.port": asked.port,
        "server.log_level": asked.log_level,
        "chat.model": asked.model if asked.engine is None else None,
    }
    if asked.engine is not None:
        overrides |= {"chat.engine": "openai", "chat.upstream.urls": [asked.engine], "chat.upstream.model": asked.model}
    if asked.on == "ray":
        from server.commands.on_ray import serve_on_ray

        return Exit.INTERRUPTED if serve_on_ray(asked.config, overrides, asked.address) else Exit.OK
    if asked.address is not None:
        raise Failure(Exit.USAGE, "--address is that of a Ray cluster: --on ray")
    try:
        configuration = read(asked.config, overrides)
    except ConfigError as error:
        raise Failure(Exit.USAGE, str(error)) from None
    return Exit.INTERRUPTED if serve(configuration) else Exit.OK
