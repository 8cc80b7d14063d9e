"""No text stops the event loop: every route takes 60 KB of each awkward character, and no callback takes long."""

import asyncio
import gc
import json
import threading
import time
from asyncio.events import Handle
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import torch
from websockets.asyncio.client import ClientConnection, connect
from yarl import URL

from pipelines.anomaly.judge import Judge
from pipelines.anomaly.stage import AnomalyStage
from pipelines.chat.model.interface import Segment
from pipelines.embedding.embedder import Embedder
from pipelines.embedding.names import E5, MINILM
from pipelines.image.painter import Painter
from pipelines.image.stage import ImageStage
from pipelines.image.weights import Drawer
from pipelines.speech.timing import even_word_ends
from pipelines.speech.voices.interface import Samples
from server.app import listen
from server.commands.serving import _Process
from server.config import Settings
from server.links import IMAGES
from tests.support import (
    PATIENCE,
    ScriptedModel,
    ScriptedTokenizer,
    ScriptedVoice,
    eventually,
    realtime,
    running,
    scripted_pipeline,
    scripted_speech,
    user,
)

PIECE = 500  # characters of a token, where a reply comes in many
LIMIT = 0.050  # seconds that the event loop's thread may compute in one callback
BYTES = 60_000  # of each text, as JSON
SAMPLES = 160  # of each sentence, when it is spoken

# What each text repeats.
AWKWARD: dict[str, str] = {
    "spaces": " ",
    "no-break spaces": "\u00a0",
    "newlines": "\n",
    "tabs": "\t",
    "carriage returns": "\r\n",
    "lines of spaces": "   \n",
    "picture openings": "![](",
    "picture paths": f"]({IMAGES}",
    "bare picture paths": IMAGES,
    "open pictures": f"![a]({IMAGES}b ",
    "whole pictures": f"![a]({IMAGES}b)",
    "parentheses": "(",
    "brackets": "[",
    "braces": "{",
    "backslashes": "\\",
    "double quotes": '"',
    "single quotes": "'",
    "backticks": "`",
    "fences": "```\n",
    "angles": "<",
    "tags": "<a ",
    "entities": "&amp;",
    "ampersands": "&",
    "percent": "%",
    "percent escapes": "%41",
    "base64": "QUFB",
    "hexadecimal": "4a ",
    "bits": "01010101 ",
    "digits": "7",
    "dots": ".",
    "abbreviations": "A.",
    "thousands": "1,000,",
    "clauses": "a b c d, ",
    "exclamations": "!? ",
    "asterisks": "*",
    "underscores": "_a",
    "rulers": "- ",
    "pipes": "| ",
    "quotations": "> ",
    "hashes": "# ",
    "endings": "'s",
    "money": "$1 ",
    "slashes": "a/",
    "accents": "\u0301",
    "letters with piles of accents": "a" + "\u0301\u0316" * 20,
    "joiners": "\u200d",
    "families": "👩\u200d",
    "right to left": "\u202e",
    "tag characters": "\U000e0041",
    "escaped surrogates": "\\ud83d",
    "lone surrogates": "\ud83d",
    "ideographs": "漢",
    "ideographic stops": "漢。",
    "emoji": "😀",
    "replacements": "\ufffd",
    "NUL": "\x00",
    "ligatures": "\ufdfa",
    "capital i with dot": "İ",
    "one word": "a",
    "alternating case": "aB",
    "words": "word ",
    "addresses": "https://example.com/a?b=c&d ",
    "an address": "https://a.",
    "schemes": "://",
    "nested arrays": "[1,",
    "nested objects": '{"a":',
    "escape sequences": "\x1b[31m",
}


def body(value: Any) -> bytes:
    """Compact JSON, with half characters escaped."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()


def fill(unit: str, size: int = BYTES) -> str:
    """As often the unit as ``size`` bytes of JSON hold."""
    return unit * (size // (len(body(unit)) - 2))


class Stalls:
    """The longest callbacks of one event loop, by the processor time of its thread, whatever else has the cores."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.doing = ""  # what the clients ask for right now
        self.found: dict[str, tuple[float, str]] = {}

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Measure every callback while the block runs."""
        original, here = Handle._run, threading.get_ident()

        def run(handle: Handle) -> None:
            begun = time.thread_time()
            original(handle)
            if threading.get_ident() == here:
                self._note(time.thread_time() - begun, handle)

        debug = self._loop.get_debug()
        self._loop.set_debug(False)  # it formats a traceback for each callback
        gc.collect()
        gc.freeze()  # the objects of this process's other tests are no part of what a text costs
        Handle._run = run  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            Handle._run = original  # type: ignore[method-assign]
            gc.unfreeze()
            self._loop.set_debug(debug)

    def _note(self, seconds: float, handle: Handle) -> None:
        worst = self.found.get(self.doing, (0.0, ""))
        if seconds > worst[0]:
            self.found[self.doing] = seconds, repr(handle)

    def check(self) -> None:
        """Fail with what stalled the loop, and for how long."""
        long = [(seconds, doing, handle) for doing, (seconds, handle) in self.found.items() if seconds > LIMIT]
        shown = "\n".join(
            f"{1000 * seconds:.0f} ms: {doing}: {handle:.300}" for seconds, doing, handle in sorted(long)[::-1]
        )
        assert not long, f"these stopped the event loop for more than {1000 * LIMIT:.0f} ms:\n{shown}"


class Saying(ScriptedModel):
    """A model that says a text which the prompt names: the awkward one whose name stands behind "say", in one piece or
    in many."""

    def __init__(self) -> None:
        super().__init__(self._script)
        self.tokenizer = _Reusing()

    def forward(self, segments: Sequence[Segment]) -> torch.Tensor:
        for seen in (self.segments, self.prompts):
            seen.clear()  # megabytes in lists, which every collection of garbage would read
        return super().forward(segments)

    @staticmethod
    def _script(prompt: str) -> Iterable[str]:
        _, asked, rest = prompt.rpartition("say ")
        name, _, pieces = rest.partition(" in ")
        if not asked or name not in AWKWARD:
            return ["Well."]
        text = (unit := AWKWARD[name]) * (BYTES // len(unit))
        size = BYTES if pieces.startswith("one") else PIECE
        return [text[at : at + size] for at in range(0, len(text), size)]


class Brief(ScriptedVoice):
    """A voice that says a sentence in one piece: what a handover between threads costs is no matter here."""

    def say(self, text: str, speaker: str, speed: float, threads: Callable[[], int]) -> Iterator[Samples | None]:
        ends = even_word_ends(text, SAMPLES)
        yield Samples(np.zeros(SAMPLES, dtype=np.float32), ends)


class _Reusing(ScriptedTokenizer):
    """The same token for the same piece."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[str, int] = {}

    def token(self, piece: str) -> int:
        if piece not in self._known:
            self._known[piece] = super().token(piece)
        return self._known[piece]


async def measure(run: "Run", **stages: Any) -> Stalls:
    """Run clients against a server, on an event loop of their own; returns what they did to the server's."""
    stalls = Stalls(asyncio.get_running_loop())
    pipeline = scripted_pipeline(Saying(), speech=scripted_speech(Brief()), **stages)
    settings = Settings.model_validate({"chat": {"max_tokens": 4000}})
    async with running(pipeline, settings) as server:
        await eventually(lambda: all(stage.ready for stage in stages.values()), "every stage is ready")
        with stalls.watched():
            await asyncio.to_thread(_run_apart, run, server.url, stalls)
    return stalls


Run = Callable[[str, Stalls], Awaitable[None]]


def _run_apart(run: Run, url: str, stalls: Stalls) -> None:
    with asyncio.Runner(debug=False) as runner:
        runner.run(_within(run(url, stalls)))


async def _within(work: Awaitable[None]) -> None:
    await work


def turns(text: str) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Conversations with a text in each place that a message has."""
    for role in ("assistant", "tool", "system"):
        yield role, [{"role": role, "content": text}, {"role": "user", "content": "And?"}]
    yield "user, last", [{"role": "user", "content": text}]
    yield "parts", [{"role": "user", "content": [{"type": "text", "text": text[: BYTES // 2]}] * 2}]


def bodies(text: str) -> Iterator[tuple[str, str, bytes]]:
    """What each POST route takes, with a text in each place of it: the path, what it is, and the body."""
    chat, some = "/v1/chat/completions", [{"role": "user", "content": "Hello."}]
    for place, messages in turns(text):
        yield chat, place, body({"messages": messages})
    streamed = {"stream": True, "messages": [{"role": "assistant", "content": text}, *some]}
    yield chat, "streamed", body(streamed)
    for name in ("model", "stop", "user", "tool_choice", "response_format"):
        yield chat, name, body({"messages": some, name: text})
    yield chat, "stop strings", body({"messages": some, "stop": [text[:256]] * 16, "user": text[: BYTES // 2]})
    yield chat, "a role", body({"messages": [{"role": text, "content": "a"}]})
    yield chat, "a parameter", body({"messages": some, text: 1})
    yield chat, "a session", body({"messages": some, "loquent": {"session": text}})
    yield chat, "logit_bias", body({"messages": some, "logit_bias": {text: 1}})
    for path in ("/v1/audio/speech", "/v1/embeddings", "/v1/moderations"):
        yield path, "model", body({"input": "Hello.", "model": text})
    yield "/v1/audio/speech", "input", body({"input": text, "response_format": "pcm"})
    yield "/v1/audio/speech", "voice", body({"input": "Hello.", "voice": text, "response_format": "wav"})
    yield "/v1/images/generations", "prompt", body({"prompt": text})
    yield "/v1/images/generations", "size", body({"prompt": "cat", "size": text})
    for path in POSTS:
        yield path, "no JSON", text.encode(errors="replace")


POSTS = (
    "/v1/chat/completions",
    "/v1/audio/speech",
    "/v1/images/generations",
    "/v1/moderations",
    "/v1/embeddings",
)

# JSON that is awkward by its structure; each is put where a list, an object or a text is expected.
SHAPES: dict[str, str] = {
    "empty objects": "[" + ",".join(["{}"] * 19_000) + "]",
    "empty lists": "[" + ",".join(["[]"] * 19_000) + "]",
    "empty texts": "[" + ",".join(['""'] * 19_000) + "]",
    "numbers": "[" + ",".join(["1"] * 29_000) + "]",
    "nothings": "[" + ",".join(["null"] * 11_000) + "]",
    "keys": "{" + ",".join(f'"{n}":1' for n in range(6_000)) + "}",
    "one key": "{" + ",".join(['"a":1'] * 9_000) + "}",
    "deep lists": "[" + ",".join(["[" * 150 + "]" * 150] * 190) + "]",
    "deep objects": "[" + ",".join(['{"a":' * 150 + "1" + "}" * 150] * 60) + "]",
    "a long number": "7" * BYTES,
    "a long fraction": "0." + "7" * BYTES,
    "a large number": "1e" + "9" * BYTES,
    "unfinished lists": "[" * BYTES,
    "messages": "[" + ",".join(['{"role":"user","content":"a"}'] * 2_000) + "]",
    "wrong messages": "[" + ",".join(['{"role":"user"}'] * 3_700) + "]",
    "parts": '[{"role":"user","content":[' + ",".join(['{"type":"text","text":"a"}'] * 2_200) + "]}]",
    "wrong parts": '[{"role":"user","content":[' + ",".join(['{"type":"text"}'] * 3_700) + "]}]",
}


def shaped(shape: str) -> Iterator[tuple[str, str, bytes]]:
    """Bodies with a piece of JSON in each place that may hold more than a text."""
    for name in ("messages", "stop", "logit_bias", "metadata", "tools", "loquent", "n", "temperature", "seed"):
        messages = "" if name == "messages" else '"messages":[{"role":"user","content":"a"}],'
        yield "/v1/chat/completions", name, f'{{{messages}"{name}":{shape}}}'.encode()
    for path in POSTS[1:]:
        name = "prompt" if "images" in path else "input"
        yield path, name, f'{{"{name}":{shape}}}'.encode()
        yield path, "the body", shape.encode()


async def post(http: aiohttp.ClientSession, url: str, data: bytes) -> int:
    async with http.post(url, data=data, headers={"Content-Type": "application/json"}) as response:
        await response.read()
        return response.status


async def test_no_text_over_http_stops_the_event_loop() -> None:
    async def run(url: str, stalls: Stalls) -> None:
        async with aiohttp.ClientSession() as http:
            for kind, unit in AWKWARD.items():
                for path, place, data in bodies(fill(unit)):
                    stalls.doing = f"POST {path}, {place}: {kind}"
                    status = await post(http, url + path, data)
                    assert status < 500, stalls.doing
            for kind, shape in SHAPES.items():
                for path, place, data in shaped(shape):
                    stalls.doing = f"POST {path}, {place}: {kind}"
                    assert await post(http, url + path, data) < 500, stalls.doing

    (await measure(run)).check()


async def test_no_reply_stops_the_event_loop() -> None:
    async def run(url: str, stalls: Stalls) -> None:
        async with aiohttp.ClientSession() as http:
            for kind in (kind for kind in AWKWARD if kind != "lone surrogates"):  # no tokenizer decodes to one
                for pieces, stream in (("one", False), ("many", True)):
                    stalls.doing = f"a reply in {pieces}, {stream=}: {kind}"
                    messages = [{"role": "user", "content": f"say {kind} in {pieces}"}]
                    await post(http, f"{url}/v1/chat/completions", body({"messages": messages, "stream": stream}))
                async with connect(realtime(url), max_size=None) as socket:
                    for pieces, modality in (("many", "text"), ("one", "audio")):
                        stalls.doing = f"a Realtime reply in {pieces}, {modality}: {kind}"
                        asked = {"input": [user(f"say {kind} in {pieces}")], "output_modalities": [modality]}
                        await exchange(socket, {"type": "response.create", "response": asked})

    (await measure(run)).check()


ENDS = ("response.done", "error")


async def exchange(socket: ClientConnection, event: dict[str, Any], ends: tuple[str, ...] = ENDS) -> dict[str, Any]:
    """Send an event, and read up to the one that ends what it begins."""
    await socket.send(body(event).decode())
    while True:
        async with asyncio.timeout(PATIENCE):
            got: dict[str, Any] = json.loads(await socket.recv())
        if got["type"] in ends:
            return got


def assistant(text: str) -> dict[str, Any]:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def items(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Items with a text in each place that an item has."""
    yield "user", user(text)
    yield "assistant", assistant(text)
    yield "system", {"type": "message", "role": "system", "content": [{"type": "input_text", "text": text}]}
    yield "spoken", {"type": "message", "role": "user", "content": [{"type": "input_audio", "transcript": text}]}
    yield "call", {"type": "function_call", "name": "a", "arguments": text}
    yield "called", {"type": "function_call_output", "call_id": "a", "output": text}
    yield "id", user("Hello.") | {"id": text}
    yield "name", {"type": "function_call", "name": text, "arguments": "{}"}


def sessions(text: str) -> Iterator[dict[str, Any]]:
    yield {"instructions": text}
    yield {"model": text}
    yield {"audio": {"output": {"voice": text}}}
    yield {"tools": [{"type": "function", "name": "a", "description": text}]}
    yield {"tracing": {text: text[:9]}}
    yield {"loquent": {"sampling": {"stop": [text]}}}
    yield {text: 1}


async def test_no_event_stops_the_event_loop() -> None:
    async def run(url: str, stalls: Stalls) -> None:
        for kind, unit in AWKWARD.items():
            async with connect(realtime(url), max_size=None) as socket:
                await talk(socket, stalls, kind, fill(unit))
        async with connect(realtime(url), max_size=None) as socket:
            for kind, shape in SHAPES.items():
                for place in ("session.update", "conversation.item.create", "response.create"):
                    await structure(socket, stalls, kind, place, shape)

    (await measure(run)).check()


async def talk(socket: ClientConnection, stalls: Stalls, kind: str, text: str) -> None:
    """A text in each place of each event."""

    async def send(what: str, *ends: str, **event: Any) -> dict[str, Any]:
        stalls.doing = f"{what}: {kind}"
        return await exchange(socket, event, (*ends, "error"))

    for place, item in items(text):
        got = await send(f"item, {place}", "conversation.item.done", type="conversation.item.create", item=item)
        if got["type"] == "error":
            continue
        id = got["item"]["id"]
        await send(f"retrieve, {place}", "conversation.item.retrieved", type="conversation.item.retrieve", item_id=id)
        truncate = {"type": "conversation.item.truncate", "item_id": id, "content_index": 0, "audio_end_ms": 1}
        await send(f"truncate, {place}", "conversation.item.truncated", **truncate)
        response = {"input": [{"type": "item_reference", "id": id}] * 34, "conversation": "none"}
        if place in ("user", "assistant", "called"):
            await send(f"references, {place}", "response.done", type="response.create", response=response)
        await send(f"response, {place}", "response.done", type="response.create")
        await send(f"delete, {place}", "conversation.item.deleted", type="conversation.item.delete", item_id=id)
        given = {"input": [item], "conversation": "none"}
        await send(f"input, {place}", "response.done", type="response.create", response=given)
    for session in sessions(text):
        await send(f"session, {next(iter(session))[:20]}", "session.updated", type="session.update", session=session)
    for name in ("conversation.item.retrieve", "conversation.item.delete"):
        await send(name, type=name, item_id=text)
    await send("response.cancel", type="response.cancel", response_id=text)
    await send("previous_item_id", type="conversation.item.create", previous_item_id=text, item=user("a"))
    await send("instructions", "response.done", type="response.create", response={"instructions": text})
    await send("metadata", "response.done", type="response.create", response={"metadata": {"a": text}})
    await send("type", type=text)
    await send("event_id", type="response.cancel", event_id=text)


async def structure(socket: ClientConnection, stalls: Stalls, kind: str, place: str, shape: str) -> None:
    """JSON of an awkward structure in each place of an event that takes more than a text."""
    places = {
        "session.update": ('{"session":%s', '{"session":{"tools":%s}', '{"session":{"tracing":%s}'),
        "conversation.item.create": (
            '{"item":%s',
            '{"item":{"type":"message","role":"user","content":%s}',
        ),
        "response.create": ('{"response":%s', '{"response":{"input":%s}', '{"response":{"metadata":%s}'),
    }
    for template in places[place]:
        stalls.doing = f"{place}, {template}: {kind}"
        await socket.send(f'{template % shape},"type":"{place}"}}')
        while True:
            async with asyncio.timeout(PATIENCE):
                got = json.loads(await socket.recv())
            if got["type"] in ("error", "session.updated", "conversation.item.done", "response.done"):
                break


async def test_no_text_that_is_screened_embedded_or_drawn_stops_the_event_loop(
    minilm: Path, e5: Path, drawer: Drawer
) -> None:
    async def run(url: str, stalls: Stalls) -> None:
        async with aiohttp.ClientSession() as http:
            for kind, unit in list(AWKWARD.items())[::3]:  # what reads them is not on the event loop
                text = fill(unit)
                for path, data in (
                    ("/v1/moderations", {"input": text}),
                    ("/v1/images/generations", {"prompt": text[:4000]}),
                    ("/v1/embeddings", {"input": text[:300], "user": text[:-1000]}),
                ):
                    stalls.doing = f"POST {path}: {kind}"
                    assert await post(http, url + path, body(data)) < 500, stalls.doing
            for path in ("/v1/moderations", "/v1/embeddings"):
                for kind, shape in SHAPES.items():
                    stalls.doing = f"POST {path}: {kind}"
                    assert await post(http, url + path, f'{{"input":{shape}}}'.encode()) < 500, stalls.doing
            for kind in ("spaces", "picture openings", "words", "ideographic stops"):
                stalls.doing = f"a screened reply with a picture: {kind}"
                asked = {"messages": [{"role": "user", "content": f"say {kind} in one"}], "loquent": {"image": True}}
                await post(http, f"{url}/v1/chat/completions", body(asked))

    embedder = Embedder(MINILM, minilm)
    settings = Settings()
    stages = {
        "anomaly": AnomalyStage(Judge(Embedder(E5, e5), settings.anomaly), settings.anomaly),
        "image": ImageStage(embedder, Painter(lambda: drawer, waiting=settings.image.waiting), settings.image),
    }
    (await measure(run, **stages)).check()


async def test_seventeen_hundred_references_are_refused_at_once() -> None:
    async def run(url: str, stalls: Stalls) -> None:
        async with connect(realtime(url), max_size=None) as socket:
            done = "conversation.item.done"
            stalls.doing = "the item"
            await exchange(
                socket, {"type": "conversation.item.create", "item": assistant(" " * BYTES) | {"id": "a"}}, (done,)
            )
            stalls.doing = "the references"
            references = [{"type": "item_reference", "id": "a"}] * 1700
            event = {"type": "response.create", "response": {"input": references}}
            assert len(body(event)) < 64 * 1024
            refused = await exchange(socket, event)
            assert refused["error"]["code"] == "input_too_large"

    (await measure(run)).check()


async def test_what_was_loaded_is_never_read_again_by_a_garbage_collection() -> None:
    pipeline = scripted_pipeline(ScriptedModel(["Well."]))
    process = _Process(Settings(), pipeline, listen("127.0.0.1", 0))
    gc.unfreeze()
    serving = asyncio.create_task(process.main())
    try:
        await eventually(lambda: process.served, "the server is ready")
        assert gc.get_freeze_count() > 10_000
    finally:
        process._stop.set()
        await serving
        gc.unfreeze()


ODD = [
    "GET /v1/models/%00 HTTP/1.1",
    "GET /v1/models/%ff%fe HTTP/1.1",
    "GET /v1/models/%zz% HTTP/1.1",
    "GET /v1/models/%ED%A0%80 HTTP/1.1",
    "GET /v1/models/\x00 HTTP/1.1",
    "GET /v1/models/\x7f HTTP/1.1",
    f"GET /v1/models/{'a' * 8000} HTTP/1.1",
    f"GET /v1/models/{'a' * 100_000} HTTP/1.1",
    f"GET /v1/models/{'%2e%2e%2f' * 800} HTTP/1.1",
    f"GET {IMAGES}%00.png?expires=%00&signature=%00 HTTP/1.1",
    f"GET {IMAGES}a.png?expires=%D9%A1&signature=%ED%A0%80 HTTP/1.1",
    f"GET {IMAGES}a.png?expires={'9' * 7000}&signature=a HTTP/1.1",
    f"GET {IMAGES}{'(' * 7000}.png HTTP/1.1",
    "GET /v1/models/a?%=%&=&&&%00 HTTP/1.1",
    f"GET /v1/models/a?{'a=&' * 2600} HTTP/1.1",
    "GET http://[::1/v1/models/a HTTP/1.1",
    "GET http://a:99999999/v1/models/a HTTP/1.1",
    "GET //v1/models/a HTTP/1.1",
    "GET v1/models HTTP/1.1",
    "GET /v1/models/a HTTP/9.9",
    "GET /v1/realtime HTTP/1.1",
    "GET /v1/realtime?model=%00 HTTP/1.1",
    "GET /v1/chat/completions HTTP/1.1",
    "FOO /v1/models/a HTTP/1.1",
    "\x00 / HTTP/1.1",
    "OPTIONS * HTTP/1.1",
    "CONNECT a:1 HTTP/1.1",
]
ODD_HEADERS = [
    "Host: \x00",
    "Host: [",
    "Host: ]:a",
    f"Host: {'[' * 7000}",
    "Host: \xff",
    "Origin: \xff\x00",
    "Origin: ://",
    f"Origin: {'://' * 2500}",
    f"Authorization: Bearer {'a' * 100_000}",
    f"x-request-id: {'a' * 9000}",
    "Content-Length: -1",
    "Content-Length: a",
    "Content-Length: \u0661",
    f"Content-Length: {'9' * 400}",
    "Content-Length: 2\r\nTransfer-Encoding: chunked",
    "Transfer-Encoding: a",
    "Expect: a",
    "a b: c",
    ": c",
    "\x00: c",
    "a: \x00",
    " folded",
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: a\r\nSec-WebSocket-Key: a",
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \xff",
]
ODD_BODIES = [
    ("Content-Encoding: br", b"{}"),
    ("Content-Encoding: gzip", b"{}"),
    ("Content-Encoding: gzip, deflate", b"{}"),
    ("Content-Encoding: \x01", b"{}"),
    ("Content-Type: application/json; charset=nothing", b"{}"),
    (f"Content-Type: multipart/form-data; boundary={'a' * 7000}", b"--a--"),
    ("Content-Type: \xff", b"\xff"),
    ("Transfer-Encoding: chunked", b"zz\r\n"),
    ("Transfer-Encoding: chunked", b"-1\r\n"),
]


async def status_of(url: URL, line: str, headers: Sequence[str], data: bytes = b"") -> int:
    """The status of an answer to a request that no client library would send; 0 where the connection is just closed."""
    assert url.host is not None
    reader, writer = await asyncio.open_connection(url.host, url.port)
    try:
        writer.write("\r\n".join((line, *headers, "Connection: close", "", "")).encode("latin-1", "replace") + data)
        async with asyncio.timeout(PATIENCE):
            answer = await reader.readline()
        return int(answer.split()[1]) if answer else 0
    except ConnectionError:
        return 0
    finally:
        writer.close()


async def test_odd_requests_are_the_clients_mistake() -> None:
    wrong: list[str] = []

    async def run(url: str, stalls: Stalls) -> None:
        address = URL(url)
        host = f"Host: {address.host}:{address.port}"
        asked = [(line, [host], b"") for line in ODD]
        asked += [
            ("GET /v1/models/a HTTP/1.1", [host, header] if "Host" not in header else [header], b"")
            for header in ODD_HEADERS
        ]
        for header, data in ODD_BODIES:
            length = [] if "Transfer" in header else [f"Content-Length: {len(data)}"]
            asked += [(f"POST {path} HTTP/1.1", [host, header, *length], data) for path in POSTS]
        for line, headers, data in asked:
            stalls.doing = f"{line:.80} {headers!s:.120} {data!r}"
            status = await status_of(address, line, headers, data)
            if not 400 <= status < 500:
                wrong.append(f"{status}: {stalls.doing}")

    (await measure(run)).check()
    assert not wrong, "\n".join(wrong)
