"""Shared by the commands that let other systems talk to a server, until a signal."""

from argparse import ArgumentParser
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager, contextmanager

from server.commands import streams
from server.commands.failure import Exit, Failure


def add_logging(parser: ArgumentParser) -> None:
    """How much is logged."""
    levels = ("debug", "info", "warning", "error")
    parser.add_argument("--log-level", choices=levels, default="info", help="log level (info)")


@contextmanager
def installed(how: str) -> Iterator[None]:
    """Around the import of an adapter: ``how`` says what to install where a package is missing. Raises: Failure."""
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("server", "pipelines", "clients", "loquent"):
            raise  # a bug of this project
        raise Failure(Exit.RUN_TIME, f"there is no module {error.name}. {how}") from None


def run_until_signal(adapter: AbstractAsyncContextManager[str], name: str, log_level: str) -> int:
    """Run an adapter, which yields its address, until SIGTERM or SIGINT; returns the exit code."""
    import asyncio
    import logging

    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(message)s")
    for library in ("asyncio", "websockets"):
        logging.getLogger(library).setLevel(logging.WARNING)
    asyncio.run(_run(adapter, name))
    return Exit.OK


async def _run(adapter: AbstractAsyncContextManager[str], name: str) -> None:
    import asyncio
    import signal

    stop = asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    async with adapter as address:
        streams.announce(f"{name} listens on {address}")
        await stop.wait()
