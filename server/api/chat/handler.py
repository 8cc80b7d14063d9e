"""Answers a chat completion's request."""

import json
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing

from aiohttp import web

from pipelines.events import Event, Finished, Usage
from server.api import requests
from server.api.chat.reply import Form, Json, Own, StreamedChoice, WholeChoice, total, usage_of
from server.api.chat.request import ChatRequest, read_request
from server.api.running import replies
from server.api.sse import EventStream, failures_in
from server.auth import CALLER, TENANT
from server.backend import BACKEND, Backend

Replies = AsyncGenerator[tuple[int, Event]]


async def create(request: web.Request) -> web.StreamResponse:
    """Answer a conversation."""
    backend = request.app[BACKEND]
    asked = read_request(await requests.body(request))
    model = backend.names.resolve(asked.model)
    if asked.loquent:
        asked.loquent.check(backend)
    offered = asked.offer()
    id = f"chatcmpl-{secrets.token_hex(12)}"
    turns = asked.turns(id, request[TENANT], offered, model)
    with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
    form = Form(id, model, asked.legacy, bool(asked.logprobs), with_usage, offered.warnings)
    backend.check_ready()
    async with aclosing(replies(backend, turns, backend.origin(request), request[CALLER])) as events:
        if asked.stream:
            return await _streamed(request, backend, form, asked, events)
        return await _whole(form, asked, events)


async def _whole(form: Form, asked: ChatRequest, events: Replies) -> web.Response:
    choices = [WholeChoice(index, form) for index in range(asked.choices)]
    own = Own(form.warnings)
    async for index, event in events:
        choices[index].add(event)
        own.note(event)
    body = form.object("chat.completion", [choice.choice() for choice in choices])
    body["usage"] = usage_of(total([choice.finished.usage for choice in choices]))
    return web.json_response(body | ({"loquent": own.fields} if own.fields else {}))


async def _streamed(
    request: web.Request, backend: Backend, form: Form, asked: ChatRequest, events: Replies
) -> web.StreamResponse:
    """Send the events as they come. A failure before the first of them still becomes an HTTP status."""
    stream = EventStream(request, backend)
    async with (
        failures_in(stream, form.id),
        aclosing(_chunks(form, asked, events)) as chunks,
        stream.keep_alive(),
    ):
        async for chunk in chunks:
            await stream.send(json.dumps(chunk, separators=(",", ":")))
    await stream.send("[DONE]")
    return stream.response


async def _chunks(form: Form, asked: ChatRequest, events: Replies) -> AsyncGenerator[Json]:
    choices = [StreamedChoice(index, form) for index in range(asked.choices)]
    own = Own(form.warnings)
    usages: list[Usage] = []
    async for index, event in events:
        own.note(event)
        if isinstance(event, Finished):
            usages.append(event.usage)
        for choice in choices[index].choices(event):
            chunk = form.object("chat.completion.chunk", [choice]) | ({"usage": None} if form.usage else {})
            if own.fields and len(usages) == len(choices) and choice["finish_reason"]:
                chunk["loquent"] = own.fields
            yield chunk
    if form.usage:
        yield form.object("chat.completion.chunk", []) | {"usage": usage_of(total(usages))}
