"""Replicas of parts on this machine: real ones behind the guard, and such as misbehave."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from pipelines.speech.workers import Workers
from server.backend import Backend
from server.cluster.members import Kind, Member, View
from server.cluster.parts.elsewhere import Elsewhere
from server.cluster.parts.here import Here, speaking
from server.cluster.parts.wire import CONTENT_TYPE, DESCRIBE, END, FORMAT, FORMAT_HEADER, PATH, Frame
from server.cluster.routes import Target
from server.cluster.settings import PartKind
from tests.server.cluster.bridged import guarded, plain
from tests.support import ScriptedVoice, eventually

VOICED = Frame({"rate": ScriptedVoice.rate, "language": "en-us", "speakers": (), "casts": False})


@dataclass
class Replica:
    """One that serves."""

    member: Member
    backend: Backend
    here: Here


@asynccontextmanager
async def replica(kind: Kind, here: Here) -> AsyncIterator[Replica]:
    """A real one."""
    async with guarded(here.pipeline, answers={PATH: here.answering}) as server:
        yield Replica(member(kind, server.target), server.backend, here)


def member(kind: Kind, target: Target) -> Member:
    """What the directory knows of it."""
    return Member(target.url, kind, target.url, target.secret)


@asynccontextmanager
async def connected(
    elsewhere: Elsewhere, kind: PartKind, *members: Member, start: bool = True, seconds: float = 10.0
) -> AsyncIterator[None]:
    """While the block runs, these are the replicas; with ``start`` it begins once all of them answer, for
    which the first has so many ``seconds``."""
    replicas = elsewhere._replicas[kind]
    elsewhere.learn(View(members))
    try:
        if start:
            async with asyncio.timeout(seconds):
                await replicas.start()
            await eventually(lambda: replicas.balancer.available == len(members), "all answer")
        yield
    finally:
        await replicas.close()


def with_voice(voice: ScriptedVoice) -> Here:
    """Speech with a scripted voice."""
    return speaking(Workers(lambda: voice))


Handling = Callable[[web.Request], Any]


@asynccontextmanager
async def misbehaving(
    *handlers: Handling, kind: Kind = "speech", description: Frame = VOICED
) -> AsyncIterator[list[Member]]:
    """One replica for each handler, which says properly what it is, and then does what its handler does."""
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(_one(each, kind, description)) for each in handlers]


@asynccontextmanager
async def _one(handler: Handling, kind: Kind, description: Frame) -> AsyncIterator[Member]:
    async def handle(request: web.Request) -> Any:
        if request.path.endswith(DESCRIBE):
            return answered(description, END)
        return await handler(request)

    async with plain(handle) as target:
        yield member(kind, target)


def answered(*frames: Frame, status: int = 200, format: str = FORMAT) -> web.Response:
    """A whole answer."""
    body = b"".join(each.packed() for each in frames)
    return web.Response(body=body, status=status, headers={FORMAT_HEADER: format, "Content-Type": CONTENT_TYPE})


async def begun(request: web.Request, *frames: Frame) -> web.StreamResponse:
    """An answer that begins with these frames."""
    response = web.StreamResponse(headers={FORMAT_HEADER: FORMAT, "Content-Type": CONTENT_TYPE})
    await response.prepare(request)
    for each in frames:
        await response.write(each.packed())
    return response
