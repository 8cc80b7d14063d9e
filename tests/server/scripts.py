"""A scripted innermost stage in the model's place, and strict eyes on what the server says of its events over HTTP."""

import json
from collections.abc import AsyncGenerator, Callable, Iterable
from functools import partial
from typing import Any, TypeVar

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import BaseModel, TypeAdapter

from pipelines.build import Pipeline
from pipelines.events import (
    CallDelta,
    CallDone,
    CallStarted,
    Event,
    Finished,
    FinishReason,
    Started,
    TextDelta,
    TextDone,
    ToolCall,
    Turn,
    Usage,
)
from pipelines.flow import Next
from pipelines.part import Part, Shared
from tests.support import Running

Known = TypeVar("Known")
Json = dict[str, Any]
HI = [{"role": "user", "content": "Hi"}]
Script = Callable[[Turn], AsyncGenerator[Event]]


class Scripted:
    """An innermost stage that follows ``script`` and remembers its turns, and how many of them are open."""

    def __init__(self, script: Script | Iterable[Event]) -> None:
        self.turns: list[Turn] = []
        self.open = 0
        self.follow(script)

    def follow(self, script: Script | Iterable[Event]) -> None:
        """From now on."""
        self._script: Script = script if callable(script) else partial(_said, tuple(script))

    async def __call__(self, turn: Turn, next: Next) -> AsyncGenerator[Event]:
        self.turns.append(turn)
        self.open += 1
        events = self._script(turn)
        try:
            async for event in events:
                yield event
        finally:
            self.open -= 1
            await events.aclose()

    @property
    def pipeline(self) -> Pipeline:
        return Pipeline([Part("chat", self)], Shared())


async def _said(events: Iterable[Event], turn: Turn) -> AsyncGenerator[Event]:
    for event in events:
        yield event


def text(*pieces: str, reason: FinishReason = "stop", prompt: int = 7) -> list[Event]:
    """The events of a reply in text."""
    return [
        Started(prompt, 2),
        *(TextDelta(piece) for piece in pieces),
        TextDone(),
        Finished(reason, Usage(prompt, 2, len(pieces))),
    ]


def call(id: str, name: str, *pieces: str) -> list[Event]:
    """The events of one call, whose arguments come in these pieces."""
    done = CallDone(ToolCall(id, name, "".join(pieces)))
    return [CallStarted(id, name), *(CallDelta(id, piece) for piece in pieces), done]


def calls(*parts: list[Event], said: str = "", reason: FinishReason = "tool_calls") -> list[Event]:
    """The events of a reply that ends with calls."""
    spoken: list[Event] = [TextDelta(said)] if said else []
    tokens = sum(isinstance(event, CallDelta | TextDelta) for part in [spoken, *parts] for event in part)
    ends = [TextDone(), *(event for part in parts for event in part), Finished(reason, Usage(7, 2, tokens))]
    return [Started(7, 2), *spoken, *ends]


WEATHER = call("call_1", "weather", '{"city": ', '"Paris"}')


async def post(server: Running, **body: Any) -> tuple[int, Json]:
    async with server.http.post(f"{server.url}/v1/chat/completions", json={"messages": HI} | body) as response:
        return response.status, await response.json()


async def streamed(server: Running, **body: Any) -> list[Json]:
    """Every chunk, checked; an error instead of one is returned as it is."""
    asked = {"messages": HI, "stream": True} | body
    async with server.http.post(f"{server.url}/v1/chat/completions", json=asked) as response:
        assert response.status == 200
        sent = [line.removeprefix("data: ") for line in (await response.text()).split("\n\n") if line]
    assert sent[-1] == "[DONE]"
    chunks: list[Json] = [json.loads(line) for line in sent[:-1]]
    for each in chunks:
        if "error" not in each:
            chunk(each)
    return chunks


def sdk(server: Running) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


async def respond(server: Running, **body: Any) -> tuple[int, Json]:
    async with server.http.post(f"{server.url}/v1/responses", json={"input": "Hi"} | body) as answer:
        return answer.status, await answer.json()


async def responded(server: Running, **body: Any) -> list[Json]:
    """Every event: each one is checked, and so are the numbers and the line that names it."""
    asked = {"input": "Hi", "stream": True} | body
    async with server.http.post(f"{server.url}/v1/responses", json=asked) as answer:
        assert answer.status == 200
        sent = [block for block in (await answer.text()).split("\n\n") if block and not block.startswith(":")]
    events: list[Json] = []
    for number, block in enumerate(sent):
        first, second = block.split("\n")
        event = json.loads(second.removeprefix("data: "))
        assert first == f"event: {event['type']}"
        assert event["sequence_number"] == number
        stream_event(event)
        events.append(event)
    return events


_COMPLETION = TypeAdapter(ChatCompletion)
_CHUNK = TypeAdapter(ChatCompletionChunk)
_RESPONSE = TypeAdapter(Response)
_EVENT: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def completion(body: Any) -> ChatCompletion:
    """The body as the openai package reads it, strictly."""
    return _known(_COMPLETION.validate_python(body, strict=True))


def chunk(body: Any) -> ChatCompletionChunk:
    """A chunk as the openai package reads it, strictly."""
    return _known(_CHUNK.validate_python(body, strict=True))


def response(body: Any) -> Response:
    """A response as the openai package reads it, strictly."""
    return _known(_RESPONSE.validate_python(body, strict=True))


def stream_event(body: Any) -> Any:
    """An event of a response as the openai package reads it, strictly."""
    return _known(_EVENT.validate_python(body, strict=True))


def _known(value: Known, path: str = "") -> Known:
    """Fail where something is that clients don't know."""
    if isinstance(value, BaseModel):
        unknown = set(value.model_extra or ()) - {"loquent"}
        assert not unknown, f"{type(value).__name__}{path} has fields that clients do not know: {unknown}"
        for name in type(value).model_fields:
            _known(getattr(value, name), f"{path}.{name}")
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            _known(entry, f"{path}[{index}]")
    return value
