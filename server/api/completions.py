"""``POST /v1/completions``: the endpoint of old, for clients that know no other.

The model is one for chats, and its template frames every prompt. So each prompt is one message of the user's, and the
completion is the assistant's reply; ``echo`` puts the prompt before it.
"""

import json
import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Annotated, Any

from aiohttp import web
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from pipelines.events import Event, Finished, FinishReason, Message, Picture, TextDelta, Turn, Usage
from server.api import requests
from server.api.chat.reply import Form, Json, link, total, usage_of
from server.api.chat.request import CHOICES, StreamOptions
from server.api.formats import IGNORED_FORMATS, FormatFields
from server.api.running import replies
from server.api.sampling import SamplingFields
from server.api.sse import EventStream, failures_in
from server.auth import CALLER, TENANT
from server.backend import BACKEND, Backend
from server.errors import ApiError

PROMPTS = 16  # of one request
ANSWERS = 16  # of one request: prompts times choices
IGNORED: dict[str, requests.Harmless] = {
    "user": "any",
    "best_of": (1, None),
    "logprobs": (None, False),
    "suffix": ("", None),
    **IGNORED_FORMATS,
}
FINISH: dict[FinishReason, str] = {"length": "length", "content_filter": "content_filter"}  # others: "stop"

Prompts = Annotated[list[str], Field(min_length=1, max_length=PROMPTS, fail_fast=True)]


def _as_prompts(given: Any) -> Any:
    prompts = given if isinstance(given, list) else [given]
    if any(isinstance(each, int | list) for each in prompts):
        text = "this server reads prompts as text; it takes no tokens"
        raise PydanticCustomError("unsupported_content", "{text}", {"text": text})
    return prompts


class CompletionRequest(SamplingFields, FormatFields):
    """The supported parameters."""

    prompt: Annotated[Prompts, BeforeValidator(_as_prompts, json_schema_input_type=str | Prompts)]
    model: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    n: Annotated[int, Field(ge=1, le=CHOICES)] | None = None
    echo: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def turns(self, id: str, tenant: str, model: str = "") -> list[Turn]:
        """The turns that answer this request: each prompt's choices are neighbours. Raises: ApiError 400."""
        form, choices = self.format(), self.n or 1
        if len(self.prompt) * choices > ANSWERS:
            raise ApiError(400, "invalid_value", f"n: prompts times n is more than {ANSWERS}", "n")
        return [
            Turn(
                f"{id}-{index * choices + choice}",
                (Message("user", prompt),),
                self.sampling(max_tokens=self.max_tokens, logprobs=None, choice=choice),
                tenant,
                model,
                format=form,
            )
            for index, prompt in enumerate(self.prompt)
            for choice in range(choices)
        ]


async def create(request: web.Request) -> web.StreamResponse:
    """Complete prompts."""
    backend = request.app[BACKEND]
    asked = requests.read(await requests.body(request), CompletionRequest, ignored=IGNORED)
    model = backend.names.resolve(asked.model)
    id = f"cmpl-{secrets.token_hex(12)}"
    turns = asked.turns(id, request[TENANT], model)
    form = Form(id, model, usage=bool(asked.stream_options and asked.stream_options.include_usage))
    backend.check_ready()
    async with aclosing(replies(backend, turns, backend.origin(request), request[CALLER])) as events:
        pieces = _pieces(form, turns, events, echo=bool(asked.echo))
        async with aclosing(pieces):
            return await (_streamed(request, backend, form, pieces) if asked.stream else _whole(form, pieces))


async def _pieces(
    form: Form, turns: list[Turn], events: AsyncGenerator[tuple[int, Event]], *, echo: bool
) -> AsyncGenerator[Json | Usage]:
    """The choices' pieces as they come, then the usage."""
    ends: dict[int, Usage] = {}
    echoed: set[int] = set()
    async for index, event in events:
        if echo and index not in echoed:
            echoed.add(index)
            yield _choice(index, turns[index].messages[0].content)
        match event:
            case TextDelta(text):
                yield _choice(index, text)
            case Picture():
                yield _choice(index, link(event))
            case Finished(reason, usage):
                ends[index] = usage
                yield _choice(index, "", FINISH.get(reason, "stop"))
    prompts: dict[str, list[Usage]] = {}
    for index, usage in sorted(ends.items()):
        prompts.setdefault(turns[index].messages[0].content, []).append(usage)
    each = [total(usages) for usages in prompts.values()]
    yield Usage(
        sum(one.input_tokens for one in each),
        sum(one.cached_tokens for one in each),
        sum(one.output_tokens for one in each),
    )


def _choice(index: int, text: str, finish: str | None = None) -> Json:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish}


async def _whole(form: Form, pieces: AsyncGenerator[Json | Usage]) -> web.Response:
    choices: dict[int, Json] = {}
    usage = Usage()
    async for piece in pieces:
        if isinstance(piece, Usage):
            usage = piece
            continue
        choice = choices.setdefault(piece["index"], _choice(piece["index"], ""))
        choice["text"] += piece["text"]
        choice["finish_reason"] = piece["finish_reason"]
    body = form.object("text_completion", [choices[index] for index in sorted(choices)])
    return web.json_response(body | {"usage": usage_of(usage)})


async def _streamed(
    request: web.Request, backend: Backend, form: Form, pieces: AsyncGenerator[Json | Usage]
) -> web.StreamResponse:
    """Send the pieces as they come. A failure before the first of them still becomes an HTTP status."""
    stream = EventStream(request, backend)
    async with failures_in(stream, form.id), stream.keep_alive():
        async for piece in pieces:
            if isinstance(piece, Usage):
                chunk = form.object("text_completion", []) | {"usage": usage_of(piece)}
            else:
                chunk = form.object("text_completion", [piece]) | ({"usage": None} if form.usage else {})
            if form.usage or not isinstance(piece, Usage):
                await stream.send(json.dumps(chunk, separators=(",", ":")))
    await stream.send("[DONE]")
    return stream.response
