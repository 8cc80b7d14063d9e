"""An OpenAI-compatible server that does what a test tells it to, on a real socket."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Answer = Callable[["ScriptedUpstream", web.Request], Awaitable[web.StreamResponse]]
Json = dict[str, Any]


class ScriptedUpstream:
    """What it was asked, and how it answers: ``answer`` may be changed at any time."""

    def __init__(
        self,
        answer: Answer | None = None,
        *,
        models: tuple[str, ...] = ("big-model",),
        key: str = "",
        own: Json | None = None,
    ) -> None:
        self.answer = answer or says("Hello", " there", ".")
        self.models = models
        self.key = key
        self.own = own or {}  # what it says of each model besides its name
        self.url = ""
        self.bodies: list[Json] = []
        self.headers: list[dict[str, str]] = []
        self.probes = 0
        self.cut = 0  # requests whose client left
        self.down = False  # the probe fails
        self._runner: web.AppRunner | None = None
        self._port = 0

    async def start(self) -> None:
        """Listen, on the same port as before."""
        app = web.Application()
        app.router.add_get("/v1/models", self._list)
        app.router.add_post("/v1/chat/completions", self._chat)
        runner = self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.0)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        assert site._server is not None
        self._port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
        self.url = f"http://127.0.0.1:{self._port}/v1"

    async def kill(self) -> None:
        """Cut every connection, and listen no more."""
        runner, self._runner = self._runner, None
        if runner is None or runner.server is None:
            return
        for connection in list(runner.server.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await runner.cleanup()

    async def _list(self, request: web.Request) -> web.Response:
        self.probes += 1
        if self.down:
            return web.json_response({"error": "down"}, status=500)
        if self.key and request.headers.get("Authorization") != f"Bearer {self.key}":
            return web.json_response({"error": {"message": "Invalid API key sk-secret"}}, status=401)
        return web.json_response({"object": "list", "data": [{"id": name} | self.own for name in self.models]})

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        try:
            return await self.answer(self, request)
        except (asyncio.CancelledError, ConnectionResetError):
            self.cut += 1
            raise


@asynccontextmanager
async def upstreams(*scripted: ScriptedUpstream) -> AsyncIterator[None]:
    """They run while the block does."""
    for each in scripted:
        await each.start()
    try:
        yield
    finally:
        for each in scripted:
            await each.kill()


def chunk(delta: Json | None = None, finish: str | None = None, **more: Any) -> str:
    """An event of the stream."""
    choice = {"index": 0, "delta": delta or {}, "finish_reason": finish} | more.pop("choice", {})
    body = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}
    return f"data: {json.dumps(body | more)}\n\n"


def usage(prompt: int, completion: int, cached: int = 0) -> str:
    """The event behind the last choice."""
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return chunk(choices=[], usage=counts | {"prompt_tokens_details": {"cached_tokens": cached}})


DONE = "data: [DONE]\n\n"
ROLE = chunk({"role": "assistant", "content": ""})


async def begin(request: web.Request, kind: str = "text/event-stream") -> web.StreamResponse:
    """An answer that streams."""
    response = web.StreamResponse(headers={"Content-Type": kind})
    await response.prepare(request)
    return response


def streams(*pieces: str | bytes, cut: bool = False, hang: bool = False) -> Answer:
    """An answer of these pieces, each a write of its own; behind them the end, a cut connection or silence."""

    async def answer(upstream: ScriptedUpstream, request: web.Request) -> web.StreamResponse:
        response = await begin(request)
        for piece in pieces:
            await response.write(piece.encode() if isinstance(piece, str) else piece)
            await asyncio.sleep(0)
        if hang:
            await asyncio.sleep(60)
        if cut and request.transport is not None:
            await asyncio.sleep(0.02)
            request.transport.abort()
        return response

    return answer


def says(*texts: str, finish: str = "stop") -> Answer:
    """An answer of these texts, and all that belongs to it."""
    return streams(
        ROLE, *(chunk({"content": text}) for text in texts), chunk(finish=finish), usage(12, len(texts), 5), DONE
    )


def fails(status: int, message: str = "", *, headers: dict[str, str] | None = None, **error: Any) -> Answer:
    """An answer that is an error."""

    async def answer(upstream: ScriptedUpstream, request: web.Request) -> web.StreamResponse:
        return web.json_response({"error": {"message": message} | error}, status=status, headers=headers)

    return answer


async def silent(upstream: ScriptedUpstream, request: web.Request) -> web.StreamResponse:
    """It accepts the request, and that is all."""
    await asyncio.sleep(60)
    return web.Response()
