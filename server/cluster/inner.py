"""The server of one replica: that of ``loquent serve``, on a port that only this cluster's bridges can use."""

import asyncio
import gc
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace

from aiohttp.typedefs import Handler

from pipelines.build import Pipeline, build
from pipelines.chat.answering import AnsweringStage
from server import logs
from server.app import listen, serving, url
from server.attending import attend
from server.backend import Backend
from server.cluster.guard import guard
from server.config import Configuration, ServerSettings, stage_settings

log = logging.getLogger(__name__)


class Inner:
    """A server on a free port of ``host``. ``start`` it on the loop that it is to run on, and ``stop`` it there."""

    def __init__(
        self,
        configuration: Configuration,
        host: str,
        pipeline: Pipeline | None = None,
        answers: Mapping[str, Handler] | None = None,
    ) -> None:
        """``pipeline`` is that of the configuration unless another one is given; ``answers``: see ``guard``.

        Raises: StageUnavailableError, OSError.
        """
        self._settings = configuration.settings
        logs.configure(self._settings.server.log_level)
        self.secret = secrets.token_urlsafe(32)
        self.pipeline: Pipeline = pipeline or build(configuration.parts)
        self._answers = answers
        self._listener = listen(host, 0)
        self.url = url(self._listener)
        self.backend: Backend | None = None
        self._stop = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None

    def holds(self, session: str) -> bool:
        """Whether a session is in progress here."""
        return self.backend is not None and session in self.backend.live

    def forget(self, tenants: Sequence[str]) -> None:
        """Drop what is cached of these tenants' prompts."""
        chat = self.pipeline.find(AnsweringStage)
        if chat is not None:
            chat.forget(tenants)

    async def start(self) -> None:
        """Serve; returns once turns are accepted. Raises: what preparing or loading the models raises."""
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._serving = asyncio.create_task(self._serve(ready), name="inner-server")
        await asyncio.wait([ready, self._serving], return_when=asyncio.FIRST_COMPLETED)
        if self._serving.done():
            self._serving.result()
            raise RuntimeError("the server was stopped before it was ready")
        gc.collect()
        gc.freeze()

    async def _serve(self, ready: "asyncio.Future[None]") -> None:
        before = [guard(self.secret, self.holds, self.forget, self._answers)]
        async with serving(self._settings, self.pipeline, self._listener, stop=self._stop, guard=before) as backend:
            self.backend = backend
            await attend(backend, stop=self._stop, show=lambda progress: None, ready=lambda: ready.set_result(None))

    def leave(self) -> None:
        """Take nothing new, and end once what is in progress has ended."""
        self._stop.set()

    async def stop(self) -> None:
        """Leave, and wait until the server has ended: all that was acknowledged is stored then."""
        self.leave()
        if self._serving is not None:
            await asyncio.wait([self._serving])
            if not self._serving.cancelled() and (error := self._serving.exception()) is not None:
                log.error("the server of this replica ended with %s: %s", type(error).__name__, error)

    @property
    def healthy(self) -> bool:
        """Whether it still serves."""
        return self._serving is not None and not self._serving.done()


def gateway_of(configuration: Configuration, *, own: bool) -> Configuration:
    """The same, with the chat model on the cluster's ``own`` engines, whose addresses come later, or where it is."""
    settings = configuration.settings
    chat = settings.chat
    if own:
        upstream = chat.upstream.model_copy(update={"urls": ()})
        chat = chat.model_copy(update={"engine": "openai", "upstream": upstream})
    limits = settings.limits.model_copy(update={"http_connections": 0})  # all come from bridges
    return _changed(configuration, {"chat": chat, "limits": limits, "server": _in_the_clear(configuration)})


def engine_of(configuration: Configuration, host: str) -> Configuration:
    """The same, with the chat stage alone: no history, no limits of clients, no pages, and no keys but the guard's."""
    return only(configuration, host, ("chat",))


def only(configuration: Configuration, host: str, stages: tuple[str, ...]) -> Configuration:
    """The same, with these stages, for other replicas and no clients."""
    settings = configuration.settings
    changes = {
        "pipeline": settings.pipeline.model_copy(update={"stages": stages}),
        "history": settings.history.model_copy(update={"store": "none"}),
        "listening": settings.listening.model_copy(update={"model": ""}),
        "limits": settings.limits.model_copy(update={"rates": "off", "http_connections": 0}),
        "server": _in_the_clear(configuration).model_copy(
            update={"keys": (), "keys_file": "", "host": "127.0.0.1", "allowed_hosts": (host,)}
        ),
        "stages": {},
    }
    return _changed(configuration, changes)


def _in_the_clear(configuration: Configuration) -> ServerSettings:
    """Certificates are for what clients speak to."""
    return configuration.settings.server.model_copy(update={"tls_cert": "", "tls_key": ""})


def _changed(configuration: Configuration, changes: dict[str, object]) -> Configuration:
    settings = configuration.settings.model_copy(update=changes)
    return replace(configuration, settings=settings, stages=stage_settings(settings))
