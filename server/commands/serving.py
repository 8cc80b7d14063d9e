"""``loquent serve``: from a configuration to a running server, and its exit."""

import asyncio
import errno
import gc
import logging
import signal
import socket
import time
from contextlib import ExitStack

from pipelines.build import Pipeline, build
from pipelines.chat.answering import AnsweringStage
from pipelines.downloads.fetch import PackageError
from pipelines.part import Part
from pipelines.speech.stage import SpeechStage
from pipelines.speech.voices.interface import VoiceError
from pipelines.stages import StageUnavailableError
from server import logs
from server.app import listen, run
from server.auth import Refusal, check_exposure
from server.commands import streams
from server.commands.beside import Beside
from server.commands.failure import Exit, Failure
from server.commands.notify import notify
from server.commands.progress import display
from server.config import Configuration, Settings
from server.history.database import SetupError
from server.history.interface import HistoryError
from server.tls import certificate_of
from server.web import page

log = logging.getLogger(__name__)

YOUNG, *OLDER = gc.get_threshold()
# Importing PyTorch and transformers makes a million objects that stay, which collections read again and again: a fifth
# of a start.
YOUNG_WHILE_LOADING = 200 * YOUNG


def serve(configuration: Configuration) -> bool:
    """Serve until SIGTERM or SIGINT. Returns whether the user interrupted it before it was ready.

    Raises: Failure with what to do.
    """
    settings = configuration.settings
    logs.configure(settings.server.log_level)
    try:
        check_exposure(settings.server)
        certificate_of(settings.server)  # before anything is loaded
    except Refusal as refusal:
        raise Failure(Exit.USAGE, str(refusal)) from None
    try:
        pipeline = build(configuration.parts)
    except StageUnavailableError as error:
        raise Failure(Exit.USAGE, str(error)) from None
    try:
        listener = listen(settings.server.host, settings.server.port)
    except OSError as error:
        raise Failure(Exit.RUN_TIME, _why_not(error, settings.server.host, settings.server.port)) from None
    try:
        beside = Beside(settings)
    except Failure:
        listener.close()
        raise
    process = _Process(settings, pipeline, listener, beside)
    gc.set_threshold(YOUNG_WHILE_LOADING)
    try:
        asyncio.run(process.main())
    except (PackageError, VoiceError, HistoryError) as error:
        raise Failure(Exit.RUN_TIME, str(error)) from None
    except SetupError as error:
        raise Failure(Exit.USAGE if error.usage else Exit.RUN_TIME, str(error)) from None
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        if process.served:
            raise
        log.debug("the model could not be loaded", exc_info=True)
        raise Failure(Exit.RUN_TIME, f"The model {settings.chat.model!r} could not be loaded: {error}") from None
    finally:
        gc.set_threshold(YOUNG, *OLDER)
    return process.interrupted


class _Process:
    """A server process: it handles signals and announces on standard output what is ready."""

    def __init__(
        self, settings: Settings, pipeline: Pipeline, listener: socket.socket, beside: Beside | None = None
    ) -> None:
        self.served = False  # it has been ready
        self.interrupted = False  # by SIGINT, before it was ready
        self._settings = settings
        self._pipeline = pipeline
        self._listener = listener
        self._beside = beside or Beside(settings)
        self._stop = asyncio.Event()
        self._started = time.monotonic()

    async def main(self) -> None:
        """Load, serve and drain."""
        loop = asyncio.get_running_loop()
        for name in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(name, self._asked_to_stop, name)
        self._pipeline.on_ready = self._part_ready
        with ExitStack() as loading:
            progress = loading.enter_context(display())

            def ready(address: str) -> None:
                loading.close()
                self._ready(address)
                self._beside.start(address)

            settings = self._beside.settings
            try:
                await run(settings, self._pipeline, self._listener, stop=self._stop, show=progress, ready=ready)
            finally:
                await self._beside.stop()

    def _asked_to_stop(self, by: signal.Signals) -> None:
        self.interrupted = by is signal.SIGINT and not self.served
        notify("STOPPING=1", "STATUS=finishing the replies in flight")
        self._stop.set()
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().remove_signal_handler(name)  # a second one ends the process at once

    def _ready(self, address: str) -> None:
        self.served = True
        _freeze()
        gc.set_threshold(YOUNG, *OLDER)
        seconds = time.monotonic() - self._started
        speech = self._pipeline.find(SpeechStage)
        speaks = speech is not None and speech.ready
        parts = [self._model, *([f"voice {self._settings.speech.voice}"] if speaks else [])]
        notify("READY=1", f"STATUS=listens on {address}")
        streams.announce(f"Loquent listens on {address} ({', '.join(parts)}, ready in {seconds:.1f} s)")
        if page.served(self._settings):
            streams.announce(f"Open {page.address(self._settings, address)} in a browser")

    @property
    def _model(self) -> str:
        """What answers, in words."""
        chat = self._settings.chat
        if chat.engine == "builtin":
            return chat.model
        stage = self._pipeline.find(AnsweringStage)
        return f"{stage.model_name if stage is not None else chat.upstream.model} at {', '.join(chat.upstream.urls)}"

    def _part_ready(self, part: Part, seconds: float) -> None:
        _freeze()
        streams.announce(f"{part.name} is ready ({seconds:.1f} s later)")


def _freeze() -> None:
    """Exempt what was loaded from garbage collection: a full one reads every object, which stops the event loop for
    0.2 s where PyTorch is loaded."""
    gc.freeze()


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {port} on {host} is taken: stop what uses it, or choose another with --port (0 takes any free one)."
        )
    if error.errno == errno.EACCES:
        return f"Port {port} needs privileges: choose one above 1023 with --port."
    return f"The server can't listen on {host}: {error.strerror or error}."
