"""The aiohttp application: routes, access control, life cycle and drain."""

import asyncio
import logging
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext
from typing import Any

from aiohttp import web
from aiohttp.typedefs import Middleware

from pipelines.build import Pipeline
from pipelines.downloads.progress import Progress
from server import bodies, logs, measuring, paths
from server.access.stored import StoredSecrets
from server.api import (
    chat,
    client_secrets,
    completions,
    embeddings,
    images,
    models,
    moderations,
    speech,
    transcriptions,
)
from server.api.responses import conversations, handler, stored
from server.api.responses.state import RESPONSES, responses
from server.attending import attend
from server.auth import CALLER, AccessControl
from server.backend import BACKEND, Backend
from server.config import Settings
from server.errors import RETRY_AFTER, ApiError, translate
from server.history.build import build as build_history
from server.history.store import DatabaseHistory
from server.limits.pace import HANDSHAKE, REQUEST
from server.links import IMAGES
from server.openapi import operations
from server.openapi.handler import described
from server.protocol import Runner, new_request_id, pace
from server.realtime.connection import connect
from server.realtime.refusal import is_refused, refuse
from server.tls import certificate_of
from server.tracing.switch import tracing
from server.web import page, widget

log = logging.getLogger(__name__)

SEND_BUFFER = 64 * 1024  # bytes; with the default, megabytes queue for a client that does not read
BACKLOG = 512
ACCEPTED = 16  # connections at a time, before what others wait for goes on
REALTIME = "/v1/realtime"
WORK = (*bodies.LARGE, *bodies.UPLOADS, "/v1/audio/speech", "/v1/images/generations", REALTIME)
PROBES = ("/livez", "/readyz")
UNLOGGED = (*PROBES, "/metrics")  # monitoring requests these every few seconds
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
REQUEST_ID_KEY = web.RequestKey("request_id", str)
CLEANUP_PATIENCE = 5.0  # seconds that handlers get once every connection is cut

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Stop = asyncio.Event | None
Guard = Sequence[Middleware]  # before everything else


def application(
    settings: Settings, pipeline: Pipeline, history: DatabaseHistory | None = None, guard: Guard = ()
) -> web.Application:
    """The routes over ``pipeline`` and the stored history, which the caller starts and closes, behind a ``guard``."""
    app = web.Application(
        middlewares=[*guard, paced, answer],
        client_max_size=max(settings.limits.body_bytes, settings.limits.message_bytes),
    )
    secrets = None if history is None else history.accompany(StoredSecrets(history))
    app[BACKEND] = Backend(settings, pipeline, AccessControl(settings.server, secrets=secrets), history)
    app.on_startup.append(app[BACKEND].sharing.start)
    app.on_cleanup.append(app[BACKEND].sharing.close)
    app[RESPONSES] = responses(settings.responses, history)
    app.router.add_get(REALTIME, connect)
    app.router.add_post("/v1/realtime/client_secrets", client_secrets.create)
    app.router.add_post("/v1/chat/completions", chat.create)
    app.router.add_post("/v1/completions", completions.create)
    app.router.add_post("/v1/responses", handler.create)
    app.router.add_get("/v1/responses/{id}", stored.retrieve)
    app.router.add_delete("/v1/responses/{id}", stored.delete)
    app.router.add_get("/v1/responses/{id}/input_items", stored.input_items)
    app.router.add_post("/v1/responses/{id}/cancel", stored.cancel)
    app.router.add_post("/v1/conversations", conversations.create)
    app.router.add_get("/v1/conversations", conversations.list_conversations)
    app.router.add_get("/v1/conversations/{id}", conversations.retrieve)
    app.router.add_post("/v1/conversations/{id}", conversations.update)
    app.router.add_delete("/v1/conversations/{id}", conversations.delete)
    app.router.add_get("/v1/conversations/{id}/items", conversations.list_items)
    app.router.add_post("/v1/conversations/{id}/items", conversations.add_items)
    app.router.add_get("/v1/conversations/{id}/items/{item}", conversations.retrieve_item)
    app.router.add_delete("/v1/conversations/{id}/items/{item}", conversations.delete_item)
    app.router.add_post("/v1/audio/speech", speech.create)
    app.router.add_post("/v1/audio/transcriptions", transcriptions.transcribe)
    app.router.add_post("/v1/audio/translations", transcriptions.translate)
    app.router.add_post("/v1/images/generations", images.create)
    app.router.add_get(IMAGES + "{id}.png", images.file)
    app.router.add_post("/v1/moderations", moderations.create)
    app.router.add_post("/v1/embeddings", embeddings.create)
    app.router.add_get("/v1/models", models.list_models)
    app.router.add_get("/v1/models/{name:.+}", models.retrieve_model)
    for path in page.FILES:
        app.router.add_get(path, page.answer)
    app.router.add_get(widget.LATEST, widget.latest)
    app.router.add_get(widget.VERSIONED, widget.versioned)
    app.router.add_get(widget.MICROPHONE, widget.microphone)
    for path in operations.PATHS:
        app.router.add_get(path, described)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    app.router.add_get("/metrics", metrics)
    if widget.served(settings):
        widget.prepare()
    app.on_response_prepare.extend((add_headers, measuring.count))
    return app


@web.middleware
async def paced(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A websocket's handshake waits for its turn. A request that brought the models no work counts; where there are
    many, the connection's next one waits. All are measured here: an idle websocket pays for every middleware."""
    if request.path == REALTIME:
        lane = pace(request).lane
        await lane.wait(lane.take(HANDSHAKE))
    begun = time.monotonic()
    try:
        response = await handler(request)
    finally:
        measuring.ended(request, begun)
    if request.path not in WORK or response.status >= 400:
        await pace(request).turn(REQUEST)
    return response


@web.middleware
async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Apply access control, and turn every failure into a response in OpenAI's format."""
    given = request.headers.get("x-request-id", "")
    request[REQUEST_ID_KEY] = given if REQUEST_ID.fullmatch(given) else new_request_id()
    logs.request_id.set(request[REQUEST_ID_KEY])
    backend = request.app[BACKEND]
    backend.access.meet(request)
    if backend.tracing is not None:
        backend.tracing.meet(request)
    try:
        with backend.in_flight():
            response = await backend.answer(request, await _admit(backend, request, handler))
        level = logging.DEBUG if request.path in UNLOGGED else logging.INFO
        log.log(level, "%s %s: %d", request.method, request.rel_url.raw_path, response.status)
        return response
    except web.HTTPException as error:
        failure = await _from_http(request, error)
    except Exception as error:
        failure = translate(error)
        if failure.code == "internal_error" and not isinstance(error, ConnectionError):
            log.exception("%s %s failed", request.method, request.rel_url.raw_path)
        if request.transport is None or request.transport.is_closing():
            # Without the cause: its traceback may hold what the client sent, and aiohttp logs it.
            raise ConnectionResetError("the client has disconnected") from None
    log.info("%s %s: %d %s", request.method, request.rel_url.raw_path, failure.status, failure.code)
    if failure.status in (401, 403, 421, 429, 503):
        backend.metrics.rejected.labels(failure.code).inc()
    if is_refused(request, failure):
        return await refuse(request, failure)
    answered = web.json_response(failure.body(), status=failure.status, headers=failure.headers())
    return await backend.answer(request, answered)


async def _admit(backend: Backend, request: web.Request, handler: Handler) -> web.StreamResponse:
    if request.path in PROBES:
        return await handler(request)
    if request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers:
        backend.access.check_host(request)
        backend.access.check_origin(request)  # a preflight request carries no key
        return web.Response(status=204)
    if _public(request.path):
        backend.access.check_host(request)
        return await handler(request)
    if request.path.startswith(IMAGES):  # the signed link is the credential
        backend.access.check_host(request)
        backend.access.check_origin(request)
        return await handler(request)
    await backend.access.look_up(request, backend.limiter)
    _identify(backend, request)
    if backend.draining:
        raise ApiError(503, "server_shutting_down", "The server is shutting down.", retry_after=RETRY_AFTER)
    if request.path == REALTIME:  # websockets have limits of their own, besides those of other connections
        caller = request[CALLER]
        with nullcontext() if caller.leash is None else backend.sessions.connected(caller):
            if request.transport is not None:
                backend.gate.leave(request.transport)
            return await handler(request)
    async with bodies.admitted(request, backend):
        return await handler(request)


def _public(path: str) -> bool:
    """Whether anyone may read what is at this path, without a key: it holds no secret."""
    return path in page.FILES or path in operations.PATHS or widget.ADDRESS.fullmatch(path) is not None


def _identify(backend: Backend, request: web.Request) -> None:
    """Find out whose request it is, and count it. Raises: ApiError, RateLimitedError."""
    try:
        backend.access.check(request)
    except ApiError as refused:
        if refused.status == 401:
            backend.limiter.admit(request[CALLER])  # of whom only the address is known
        raise
    backend.limiter.admit(request[CALLER])


async def _from_http(request: web.Request, error: web.HTTPException) -> ApiError:
    codes = {404: "not_found", 405: "method_not_allowed", 413: "request_too_large"}
    allow = ""
    if isinstance(error, web.HTTPNotFound):
        text = await paths.missing(request)
    elif isinstance(error, web.HTTPMethodNotAllowed):
        allow = ", ".join(sorted(error.allowed_methods))
        text = f"This path does not take {error.method:.20}; it takes {allow}."
    else:
        text = error.text or error.reason
    return ApiError(error.status, codes.get(error.status, "bad_request"), text, allow=allow)


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add the request's id, and the CORS headers that let allowed pages read the response."""
    if REQUEST_ID_KEY in request:
        response.headers["x-request-id"] = request[REQUEST_ID_KEY]
    response.headers["Server"] = "loquent"  # aiohttp's default lists its versions
    backend = request.app[BACKEND]
    if "Access-Control-Allow-Origin" not in response.headers:  # what every page may read says so itself
        response.headers.update(backend.access.cors(request))
    if backend.limiter.on and CALLER in request and request[CALLER].scopes:  # else no key admits it, and nothing limits
        response.headers.update(backend.limiter.headers(request[CALLER]))


async def livez(request: web.Request) -> web.Response:
    """Liveness: the process responds."""
    return web.json_response({"status": "ok"})


async def readyz(request: web.Request) -> web.Response:
    """Readiness: every required model is loaded and running, and the server is not draining."""
    backend = request.app[BACKEND]
    if backend.ready:
        return web.json_response({"status": "ok"})
    body: dict[str, Any] = {"status": "draining" if backend.draining else "loading", "waiting_for": backend.waiting_for}
    if reasons := backend.pipeline.reasons:
        body["reasons"] = reasons
    return web.json_response(body, status=503, headers={"Retry-After": str(RETRY_AFTER)})


async def metrics(request: web.Request) -> web.Response:
    """Counters for Prometheus."""
    body = request.app[BACKEND].metrics.render()
    return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises: OSError when the address is in use or is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    address = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)[0][4]
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)  # accepted sockets inherit it
        listener.bind(address)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


@asynccontextmanager
async def serving(
    settings: Settings, pipeline: Pipeline, listener: socket.socket, *, stop: Stop = None, guard: Guard = ()
) -> AsyncIterator[Backend]:
    """Serve on ``listener`` while the block runs; leaving it drains, then closes.

    The caller starts the pipeline. It is closed here, because only here has every handler that uses it ended. Where
    ``stop`` is set while the history's database is waited for, the block runs without being served.

    Raises: Refusal when the certificate can't be used; SetupError, HistoryError when the history can't be.
    """
    logs.redact()
    certificate = certificate_of(settings.server)
    history = build_history(settings.history)
    app = application(settings, pipeline, history, guard)
    backend = app[BACKEND]
    backend.tracing = tracing()
    runner = Runner(
        app,
        backend.gate,
        backend.lane,
        access_log=None,
        handle_signals=False,
        handler_cancellation=True,  # a disconnect cancels the request
        keepalive_timeout=settings.limits.keep_alive,
        shutdown_timeout=CLEANUP_PATIENCE,
    )
    try:
        if history is not None and not await _opened(history, stop or asyncio.Event()):
            yield backend
            return
        await runner.setup()
        tls = certificate.context if certificate else None
        site = web.SockSite(runner, listener, backlog=ACCEPTED, ssl_context=tls)  # asyncio accepts so many in a row
        await site.start()
        listener.listen(BACKLOG)  # and has made the kernel's queue as short
        yield backend
        await drain(backend, site)
    finally:
        await backend.live.close()
        await pipeline.close()  # ends what the drain left running, so that no handler waits for the engine
        await runner.cleanup()
        if history is not None:
            await history.close()  # behind the handlers: what they record while they end is written
        if backend.tracing is not None:
            await backend.tracing.close()
        listener.close()  # which nothing serves where the history could not be opened


async def _opened(history: DatabaseHistory, stop: asyncio.Event) -> bool:
    """Open the history; False where ``stop`` was set first."""
    starting = asyncio.create_task(history.start(), name="history-start")
    stopping = asyncio.create_task(stop.wait(), name="history-stop")
    try:
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
        return starting.done()
    finally:
        for task in (starting, stopping):
            task.cancel()
        await asyncio.gather(starting, stopping, return_exceptions=True)


async def drain(backend: Backend, site: web.BaseSite) -> None:
    """Refuse new requests, let replies in flight finish until the deadline, close idle connections at once."""
    backend.draining = True
    await site.stop()
    backend.live.drain()
    try:
        async with asyncio.timeout(backend.settings.server.drain):
            await backend.idle.wait()
            await backend.live.settled()
    except TimeoutError:
        log.warning(
            "%d requests did not finish within %.0f s and are cancelled",
            backend.requests,
            backend.settings.server.drain,
        )


async def run(
    settings: Settings,
    pipeline: Pipeline,
    listener: socket.socket,
    *,
    stop: asyncio.Event,
    show: Callable[[Progress], None],
    ready: Callable[[str], Any],
) -> None:
    """Serve until ``stop`` is set. ``ready`` is called with the server's URL once turns are accepted.

    Raises: what preparing or loading the models raises.
    """
    async with serving(settings, pipeline, listener, stop=stop) as backend:
        await attend(backend, stop=stop, show=show, ready=lambda: ready(url(listener, tls=settings.server.tls)))


def url(listener: socket.socket, *, tls: bool = False) -> str:
    """The address that clients use."""
    host, port = listener.getsockname()[:2]
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
