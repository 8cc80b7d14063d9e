"""``POST /v1/chat/completions``: one reply over HTTP, streamed or whole, in OpenAI's format."""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field

from pipelines.events import (
    Event,
    Finished,
    Message,
    Picture,
    Role,
    Sampling,
    Screened,
    StageError,
    TextDelta,
    TokenLogprob,
    Turn,
    Usage,
)
from server.api import requests
from server.auth import TENANT
from server.backend import BACKEND, Backend
from server.errors import ApiError, translate
from server.links import without_links
from server.parameters import (
    LogitBias,
    MinP,
    Penalty,
    RepetitionPenalty,
    Seed,
    StopString,
    StopStrings,
    Temperature,
    TopK,
    TopP,
    biases,
)

log = logging.getLogger(__name__)

FINISH = {"stop": "stop", "length": "length", "cancelled": "stop", "content_filter": "content_filter"}

# OpenAI's parameters that have no effect here, with the values for which that is true ("any": every value).
IGNORED: dict[str, requests.Harmless] = {
    "user": "any",
    "metadata": "any",
    "store": "any",
    "service_tier": "any",
    "safety_identifier": "any",
    "prompt_cache_key": "any",
    "prompt_cache_retention": "any",
    "parallel_tool_calls": "any",
    "n": (1, None),
    "modalities": (["text"], None),
    "response_format": ({"type": "text"}, None),
    "tools": ([], None),
    "tool_choice": ("auto", "none", None),
    "reasoning_effort": ("none", "minimal", None),
}
REFUSED = (
    "audio",
    "prediction",
    "web_search_options",
    "functions",
    "function_call",
    "verbosity",
)


class TextPart(BaseModel):
    """A piece of a message's content."""

    model_config = ConfigDict(frozen=True, strict=True)

    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """A message; other fields are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)]

    def message(self) -> Message:
        """The message in the pipeline's form."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        role: Role = "system" if self.role == "developer" else self.role
        return Message(role, without_links(text) if role == "assistant" else text)


class StreamOptions(BaseModel):
    """How to stream."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    include_usage: bool = False


class LoquentExtension(BaseModel):
    """Parameters that only this server has."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    session: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    verdicts: bool = False
    image: bool | None = None


class ChatRequest(BaseModel):
    """The supported parameters."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    seed: Seed | None = None
    stop: StopString | StopStrings | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: LogitBias | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    # Not OpenAI's; other servers use the same names.
    top_k: TopK | None = None
    min_p: MinP | None = None
    repetition_penalty: RepetitionPenalty | None = None
    ignore_eos: bool | None = None
    loquent: LoquentExtension | None = None

    def turn(self, id: str, tenant: str) -> Turn:
        """The turn that answers this request."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        sampling = Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            seed=self.seed,
            max_tokens=self.max_completion_tokens or self.max_tokens,
            stop=stop,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty or 0.0,
            frequency_penalty=self.frequency_penalty or 0.0,
            logit_bias=biases(self.logit_bias),
            ignore_eos=bool(self.ignore_eos),
            logprobs=(self.top_logprobs or 0) if self.logprobs else None,
        )
        own = self.loquent or LoquentExtension()
        return Turn(
            id,
            tuple(message.message() for message in self.messages),
            sampling,
            tenant,
            session=json.dumps([tenant, own.session]) if own.session else "",
            verdicts=own.verdicts,
            image=own.image,
        )


def read_request(raw: bytes) -> ChatRequest:
    """Read a request's body. Raises: ApiError 400 that names the parameter."""
    asked = requests.read(raw, ChatRequest, ignored=IGNORED, refused=REFUSED)
    if asked.top_logprobs and not asked.logprobs:
        raise ApiError(400, "invalid_value", "top_logprobs: requires logprobs: true", "top_logprobs")
    return asked


async def create(request: web.Request) -> web.StreamResponse:
    """Answer a conversation."""
    backend = request.app[BACKEND]
    asked = read_request(await requests.body(request))
    model = backend.names.resolve(asked.model)
    if asked.loquent and asked.loquent.verdicts and not backend.reports_verdicts:
        raise ApiError(
            400, "unsupported_parameter", "loquent.verdicts: this server does not report verdicts.", "loquent.verdicts"
        )
    if asked.loquent and asked.loquent.image and not backend.draws:
        raise ApiError(400, "unsupported_parameter", "loquent.image: this server does not draw.", "loquent.image")
    backend.check_ready()
    id = f"chatcmpl-{secrets.token_hex(12)}"
    async with backend.flow(asked.turn(id, request[TENANT]), backend.origin(request)) as events:
        if asked.stream:
            return await _Stream(request, backend, id, model, asked).run(events)
        return await _whole(events, id, model, bool(asked.logprobs))


async def _whole(events: AsyncGenerator[Event], id: str, model: str, with_logprobs: bool) -> web.Response:
    text: list[str] = []
    tokens: list[TokenLogprob] = []
    finished = Finished("stop", Usage())
    own: dict[str, Any] = {}
    async for event in events:
        if isinstance(event, TextDelta):
            text.append(event.text)
            tokens.extend(event.logprobs)
        elif isinstance(event, Picture):
            text.append(_link(event))
            own.setdefault("images", []).append(event.to_json())
        elif isinstance(event, Screened):
            own["screening"] = event.to_json()
        elif isinstance(event, Finished):
            finished = event
    message = {"role": "assistant", "content": "".join(text), "refusal": None}
    logprobs = _logprobs(tokens) if with_logprobs else None
    choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": FINISH[finished.reason]}
    body = _object("chat.completion", id, model, [choice])
    return web.json_response(body | {"usage": _usage(finished.usage)} | ({"loquent": own} if own else {}))


class _Stream:
    """A reply as server-sent events."""

    def __init__(self, request: web.Request, backend: Backend, id: str, model: str, asked: ChatRequest) -> None:
        self._request = request
        self._backend = backend
        self._limits = backend.settings.limits
        self._id = id
        self._model = model
        self._with_usage = bool(asked.stream_options and asked.stream_options.include_usage)
        self._with_logprobs = bool(asked.logprobs)
        self._created = int(time.time())
        self._begun = False
        self._own: dict[str, Any] = {}  # fields that only this server has
        self._response = web.StreamResponse(
            headers={
                "Content-Type": "text/event-stream; charset=utf-8",
                "Cache-Control": "no-cache",
                "X-Accel-Buffering": "no",
            }
        )

    async def run(self, events: AsyncGenerator[Event]) -> web.StreamResponse:
        """Send the events as they come. A failure before the first of them still becomes an HTTP status."""
        try:
            async with aclosing(self._with_comments(events)) as commented:
                async for event in commented:
                    await self._send_event(event)
        except (ConnectionError, asyncio.CancelledError):
            raise
        except Exception as error:
            if not self._response.prepared:
                raise
            if not isinstance(error, StageError):
                log.exception("request %s failed", self._id)
            await self._send(json.dumps(translate(error).body()))
        await self._send("[DONE]")
        return self._response

    async def _with_comments(self, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        """The events; in a silence the client gets a keep-alive comment."""
        while True:
            coming = asyncio.ensure_future(anext(events, None))
            try:
                while not (await asyncio.wait([coming], timeout=self._limits.sse_keep_alive))[0]:
                    await self._write(b": keep-alive\n\n")
                event = coming.result()
            finally:
                if not coming.done():
                    coming.cancel()
                    await asyncio.wait([coming])
            if event is None:
                return
            yield event

    async def _send_event(self, event: Event) -> None:
        match event:
            case TextDelta(text, logprobs=tokens):
                await self._begin()
                await self._chunk({"content": text}, None, _logprobs(tokens) if self._with_logprobs else None)
            case Picture():
                await self._begin()
                await self._chunk({"content": _link(event)}, None)
                self._own.setdefault("images", []).append(event.to_json())
            case Screened():
                self._own["screening"] = event.to_json()
            case Finished(reason, usage):
                await self._begin()
                await self._send(self._dump([_choice({}, FINISH[reason], None)], own=self._own))
                if self._with_usage:
                    await self._send(self._dump([], usage=_usage(usage)))

    async def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            await self._chunk({"role": "assistant", "content": "", "refusal": None}, None)

    async def _chunk(self, delta: dict[str, Any], finish: str | None, logprobs: dict[str, Any] | None = None) -> None:
        await self._send(self._dump([_choice(delta, finish, logprobs)]))

    def _dump(
        self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None, own: dict[str, Any] | None = None
    ) -> str:
        chunk = _object("chat.completion.chunk", self._id, self._model, choices, self._created)
        if own:
            chunk["loquent"] = own
        if self._with_usage:
            chunk["usage"] = usage
        return json.dumps(chunk, separators=(",", ":"))

    async def _send(self, data: str) -> None:
        await self._write(f"data: {data}\n\n".encode())

    async def _write(self, data: bytes) -> None:
        await self._backend.deliver(self._request, self._put(data))

    async def _put(self, data: bytes) -> None:
        if not self._response.prepared:
            await self._response.prepare(self._request)
        await self._response.write(data)


def _link(picture: Picture) -> str:
    """A picture's link, as it follows a reply's text."""
    return f"\n\n{picture.link}"


def _choice(delta: dict[str, Any], finish: str | None, logprobs: dict[str, Any] | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}


def _object(
    kind: str, id: str, model: str, choices: list[dict[str, Any]], created: int | None = None
) -> dict[str, Any]:
    return {
        "id": id,
        "object": kind,
        "created": int(time.time()) if created is None else created,
        "model": model,
        "choices": choices,
    }


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    content = [
        _logprob(each.token, each.logprob) | {"top_logprobs": [_logprob(*other) for other in each.likeliest]}
        for each in tokens
    ]
    return {"content": content, "refusal": None}


def _logprob(token: str, logprob: float) -> dict[str, Any]:
    # A token that is only part of a character has no text.
    whole = "\ufffd" not in token
    return {"token": token, "logprob": logprob, "bytes": list(token.encode()) if whole else None}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
