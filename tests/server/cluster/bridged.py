"""A bridge under uvicorn, before servers of this process."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import uvicorn
from aiohttp import web
from aiohttp.typedefs import Handler
from websockets.asyncio.client import connect

from pipelines.build import Pipeline
from server.app import listen, serving, url
from server.backend import Backend
from server.cluster.bridge import Bridge
from server.cluster.guard import guard
from server.cluster.routes import Routes, Target
from server.config import Settings
from tests.support import Client, realtime


@dataclass
class Bridged:
    """A bridge on a free port of this machine."""

    url: str
    http: aiohttp.ClientSession
    routes: Routes

    @asynccontextmanager
    async def client(self, query: str = "", **options: Any) -> AsyncIterator[Client]:
        async with connect(realtime(self.url) + query, compression=None, max_size=None, **options) as socket:
            yield Client(socket)


@asynccontextmanager
async def bridged(routes: Routes) -> AsyncIterator[Bridged]:
    """A bridge that follows these routes."""
    bridge = Bridge(routes)
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(bridge, log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    config.load()
    running = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        async with aiohttp.ClientSession(auto_decompress=False) as http:
            while not server.started:
                await asyncio.sleep(0.01)
            yield Bridged(url(listener), http, routes)
    finally:
        server.should_exit = True
        await asyncio.wait([running], timeout=10)
        await bridge.close()
        listener.close()


@asynccontextmanager
async def plain(handler: Callable[[web.Request], Any], path: str = "/{path:.*}") -> AsyncIterator[Target]:
    """A server that has one handler for everything."""
    app = web.Application()
    app.router.add_route("*", path, handler)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
    await runner.setup()
    listener = listen("127.0.0.1", 0)
    await web.SockSite(runner, listener).start()
    try:
        yield Target("plain", url(listener), "s")
    finally:
        await runner.cleanup()


@dataclass
class Server:
    """A guarded server of this project."""

    target: Target
    backend: Backend
    forgotten: list[str]  # tenants


@asynccontextmanager
async def guarded(
    pipeline: Pipeline, settings: Settings | None = None, answers: Mapping[str, Handler] | None = None
) -> AsyncIterator[Server]:
    """The real server, behind the guard."""
    secret = secrets.token_urlsafe(8)
    listener = listen("127.0.0.1", 0)
    held: list[Backend] = []
    forgotten: list[str] = []
    before = [guard(secret, lambda id: id in held[0].live, forgotten.extend, answers)]
    async with serving(settings or Settings(), pipeline, listener, guard=before) as backend:
        held.append(backend)
        await pipeline.start(lambda step: None)
        yield Server(Target("server", url(listener), secret), backend, forgotten)


def routes_to(own: Target | None, *others: Target) -> Routes:
    """Routes to these."""
    routes = Routes()
    routes.own, routes.others = own, others
    return routes
