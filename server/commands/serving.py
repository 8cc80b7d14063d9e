"""``loquent serve``: from a configuration to a running server, and its exit."""

import asyncio
import errno
import logging
import signal
import time
from contextlib import ExitStack

from pipelines.build import build
from pipelines.downloads.fetch import PackageError
from pipelines.speech.voices.interface import VoiceError
from server import logs
from server.app import listen, run
from server.auth import Refusal, check_exposure
from server.commands import streams
from server.commands.failure import Exit, Failure
from server.commands.progress import display
from server.config import Configuration

log = logging.getLogger(__name__)


def serve(configuration: Configuration) -> bool:
    """Serve until SIGTERM or SIGINT. Returns whether somebody interrupted it before it was ready.

    Raises: Failure with what to do.
    """
    settings = configuration.settings
    logs.configure(settings.server.log_level)
    try:
        check_exposure(settings.server)
    except Refusal as refusal:
        raise Failure(Exit.USAGE, str(refusal)) from None
    try:
        listener = listen(settings.server.host, settings.server.port)
    except OSError as error:
        raise Failure(Exit.RUN_TIME, _why_not(error, settings.server.host, settings.server.port)) from None
    pipeline = build(settings.pipeline.stages, settings.chat, settings.speech, settings.anomaly, settings.image)
    started = time.monotonic()
    served = interrupted = False

    async def main() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def asked_to_stop(by: signal.Signals) -> None:
            nonlocal interrupted
            interrupted = by is signal.SIGINT and not served
            stop.set()
            for name in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(name)  # a second one ends the process at once

        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, asked_to_stop, name)

        with ExitStack() as loading:
            progress = loading.enter_context(display())

            def ready(address: str) -> None:
                nonlocal served
                served = True
                loading.close()
                seconds = time.monotonic() - started
                speaks = pipeline.speech is not None and pipeline.speech.ready
                parts = [settings.chat.model, *([f"voice {settings.speech.voice}"] if speaks else [])]
                streams.announce(f"Loquent listens on {address} ({', '.join(parts)}, ready in {seconds:.1f} s)")

            await run(settings, pipeline, listener, stop=stop, show=progress, ready=ready)

    try:
        asyncio.run(main())
    except (PackageError, VoiceError) as error:
        raise Failure(Exit.RUN_TIME, str(error)) from None
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        if served:
            raise
        log.debug("the model could not be loaded", exc_info=True)
        raise Failure(Exit.RUN_TIME, f"The model {settings.chat.model!r} could not be loaded: {error}") from None
    return interrupted


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} on {host} is taken: stop what uses it, or choose another with --port (0 takes any free one)."
        )
    if error.errno == errno.EACCES:
        return f"Port {port} is not for everybody: choose one above 1023 with --port."
    return f"The server can't listen on {host}: {error.strerror or error}."
