"""A server without PyTorch in front of one that has it: what clients see is the same as from that one alone."""

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from openai import AsyncOpenAI
from websockets.asyncio.client import connect

from bench import peers
from bench.servers import Server, serving
from pipelines.downloads.cache import cache_folder
from tests.support import Client, realtime, run, sound_of, started, text_of, transcript_of

pytestmark = pytest.mark.e2e

HEAVY = (
    "torch",
    "transformers",
    "accelerate",
    "sentence_transformers",
    "gguf",
    "llguidance",
    "safetensors",
    "tokenizers",
    "huggingface_hub",
    "jinja2",
    "psutil",
)
# An environment without these packages, as the extra `gateway` makes one.
WITHOUT = f"""
import sys
class Without:
    def __init__(self, finder):
        self._finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {HEAVY!r} else self._finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self._finder, name)
sys.meta_path[:] = map(Without, sys.meta_path)
from server.commands.main import main
sys.exit(main())
"""
LIGHT = [sys.executable, "-c", WITHOUT]
EVERY = '["speech", "anomaly", "image", "tools", "chat"]'
STORY = "Tell me a story about a lighthouse."
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]},
}
SECONDS = 1.5  # that a start may take on an idle machine; this one may not be, so it is printed, and given much more
# This model was not trained for functions, and its own template has none. llama.cpp's server requires a call only of a
# template that has them; vLLM's arguments are any JSON unless it is asked to hold them to their schema.
TEMPLATE = str(Path(__file__).with_name("functions.jinja"))
STRICT = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes", "--tool-strict-level", "parameter")
# Which the bench installs, and no test: the folder, the server, and what it is started with for functions.
PEERS: dict[str, tuple[str, Callable[[], Server], tuple[str, ...]]] = {
    "llama.cpp": ("llama", peers.llama, ("--chat-template-file", TEMPLATE)),
    "vllm": ("vllm", peers.vllm, ("--chat-template", TEMPLATE, *STRICT)),
}


@pytest.fixture(scope="module")
def deaf(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a server that does not listen."""
    file = tmp_path_factory.mktemp("gateway") / "config.toml"
    file.write_text('[listening]\nmodel = ""\n')
    return {"LOQUENT_CONFIG": str(file)}


@pytest.fixture(scope="module")
def upstream(loquent: str, deaf: dict[str, str]) -> Iterator[str]:
    """A real Loquent with the model alone."""
    with started([loquent], deaf | {"LOQUENT__PIPELINE__STAGES": '["chat"]'}) as address:
        yield address


@pytest.fixture(scope="module")
def gateway(upstream: str, deaf: dict[str, str]) -> Iterator[str]:
    """A real one before it, that has no PyTorch."""
    with started(LIGHT, deaf | elsewhere(upstream, '["tools", "chat"]')) as address:
        yield address


def elsewhere(upstream: str, stages: str) -> dict[str, str]:
    return {
        "LOQUENT__PIPELINE__STAGES": stages,
        "LOQUENT__CHAT__ENGINE": "openai",
        "LOQUENT__CHAT__UPSTREAM__URLS": json.dumps([f"{upstream}/v1"]),
    }


@asynccontextmanager
async def socket_to(address: str) -> AsyncIterator[Client]:
    async with connect(realtime(address), max_size=None) as socket:
        client = Client(socket)
        await client.greet()
        yield client


async def metric(address: str, name: str) -> float:
    async with aiohttp.ClientSession() as http, http.get(f"{address}/metrics") as answer:
        found = re.search(rf"^{re.escape(name)} (\S+)$", await answer.text(), re.MULTILINE)
    assert found, name
    return float(found[1])


@pytest.mark.parametrize("stages", ['["chat"]', '["tools", "chat"]', '["speech", "chat"]'])
def test_it_starts_without_pytorch_in_about_a_second(upstream: str, deaf: dict[str, str], stages: str) -> None:
    begun = time.monotonic()
    with started(LIGHT, deaf | elsewhere(upstream, stages)):
        seconds = time.monotonic() - begun
    print(f"{stages}: started in {seconds:.2f} s")
    assert seconds < 10 * SECONDS


async def test_a_greedy_reply_is_the_same_as_without_it(upstream: str, gateway: str) -> None:
    texts = []
    for address in (upstream, gateway):
        client = AsyncOpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        stream = await client.chat.completions.create(
            model="default",
            messages=[{"role": "user", "content": STORY}],
            stream=True,
            stream_options={"include_usage": True},
            max_tokens=40,
            temperature=0,
            logprobs=True,
            top_logprobs=2,
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        tokens = [
            each
            for chunk in chunks
            if chunk.choices and chunk.choices[0].logprobs
            for each in chunk.choices[0].logprobs.content or ()
        ]
        finish = [
            chunk.choices[0].finish_reason for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason
        ]
        usage = chunks[-1].usage
        assert usage is not None
        texts.append(
            (
                text,
                "".join(each.token for each in tokens),
                len(tokens),
                finish,
                usage.prompt_tokens,
                usage.completion_tokens,
            )
        )
        assert {chunk.model for chunk in chunks} == {"smollm2-135m-instruct"}
        await client.close()
    assert texts[0] == texts[1]
    assert texts[0][0] == texts[0][1]
    assert len(texts[0][0]) > 50


async def test_an_error_of_the_upstream_is_the_clients(upstream: str, gateway: str) -> None:
    body = {"messages": [{"role": "user", "content": "x " * 4000}]}
    errors = []
    async with aiohttp.ClientSession() as http:
        for address in (upstream, gateway):
            async with http.post(f"{address}/v1/chat/completions", json=body) as answer:
                errors.append((answer.status, (await answer.json())["error"]["code"]))
    assert errors == [(400, "context_length_exceeded")] * 2


@pytest.mark.timeout(600)  # vLLM takes minutes to start
@pytest.mark.parametrize("engine", ["built-in", "Loquent", *PEERS])
async def test_the_same_conversation_passes_over_each_engine(
    engine: str, loquent: str, upstream: str, deaf: dict[str, str], tmp_path: Path
) -> None:
    """A function, text, speech, a picture, screening, a cancel, a lost connection, and an object of a schema."""
    async with AsyncExitStack() as stack:
        settings = deaf | {"LOQUENT__PIPELINE__STAGES": EVERY, "LOQUENT__ANOMALY__VERDICTS": "true"}
        if engine == "Loquent":
            settings |= elsewhere(upstream, EVERY)
        if engine in PEERS:
            folder, made, further = PEERS[engine]
            if not (cache_folder() / "peers" / folder / "packages").is_file():
                pytest.skip(f"{engine} is not installed; python -m bench.streams --servers {engine} does it")
            server = made()
            server = replace(server, command=[*server.command, *further])
            peer = await stack.enter_async_context(serving(server, tmp_path / "log"))
            settings |= elsewhere(peer.server.url, EVERY) | {"LOQUENT__CHAT__TEMPERATURE": "0"}
        address = stack.enter_context(started([loquent], settings))
        for name in ("loquent_anomaly_ready", "loquent_image_ready"):
            while not await metric(address, name):
                await asyncio.sleep(0.1)
        async with socket_to(address) as client:
            await client.send("session.update", session={"type": "realtime", "output_modalities": ["text"]})
            await client.expect("session.updated")
            await with_a_function(client)  # first: behind an answer in words this model would give another
            await in_words(client)
            await aloud(client)
            await with_a_picture(client)
            await cancelled(client)
        await over_two_connections(address)
        await of_a_schema(address)


async def in_words(client: Client) -> None:
    events = await client.ask("Name the capital of France.")
    assert "Paris" in text_of(events)
    usage = events[-1]["response"]["usage"]
    assert usage["input_tokens"] > 10
    assert usage["output_tokens"] > 1


async def with_a_function(client: Client) -> None:
    await client.say("What is the weather in Rome?")
    await client.send("response.create", response={"tools": [WEATHER], "tool_choice": "required"})
    events = await client.until("response.done")
    call = next(item for item in events[-1]["response"]["output"] if item["type"] == "function_call")
    assert call["name"] == "weather"
    assert "city" in json.loads(call["arguments"])
    deltas = [event["delta"] for event in events if event["type"] == "response.function_call_arguments.delta"]
    assert "".join(deltas).startswith(call["arguments"])
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny, 24 degrees"}
    await client.send("conversation.item.create", item=output)
    await client.expect("conversation.item.added", "conversation.item.done")
    await client.send("response.create")
    events = await client.until("response.done")
    assert events[-1]["response"]["status"] == "completed"
    assert text_of(events)


async def aloud(client: Client) -> None:
    await client.say("Name the capital of France.")
    await client.send("response.create", response={"output_modalities": ["audio"]})
    events = await client.until("response.done")
    assert events[-1]["response"]["status"] == "completed", events[-1]
    assert "Paris" in transcript_of(events)
    assert len(sound_of(events)) > 24_000, "half a second at least"


async def with_a_picture(client: Client) -> None:
    """And the screening's verdict on what was asked."""
    await client.say("Draw me a smiling cat.")
    await client.send("response.create", response={"loquent": {"verdicts": True}})
    notes = (await client.until("response.done"))[-1]["loquent"]
    assert notes["screening"]["verdicts"]
    async with aiohttp.ClientSession() as http, http.get(notes["images"][0]["url"]) as picture:
        assert (picture.status, picture.content_type) == (200, "image/png")


async def over_two_connections(address: str) -> None:
    async with connect(realtime(address), max_size=None) as socket:
        client = Client(socket)
        created, _ = await client.expect("session.created", "conversation.created")
        await client.say("Tell me a story about the sea.")
        await client.send("response.create", response={"output_modalities": ["text"], "max_output_tokens": 60})
        before = await client.until("response.output_text.delta")
        socket.transport.abort()
    query = f"session={created['loquent']['resume_token']}&after={client.seen[-1]['event_id']}"
    async with connect(f"{realtime(address)}?{query}", max_size=None) as socket:
        events = await Client(socket).until("response.done")
        (item,) = events[-1]["response"]["output"]
        assert item["content"][0]["text"] == text_of([*before, *events])


async def cancelled(client: Client) -> None:
    await client.say("Tell me a very long story about the sea.")
    await client.send("response.create", response={"max_output_tokens": 1200})
    await client.until("response.output_text.delta")
    await client.send("response.cancel")
    assert (await client.until("response.done"))[-1]["response"]["status"] == "cancelled"


async def of_a_schema(gateway: str) -> None:
    client = AsyncOpenAI(base_url=f"{gateway}/v1", api_key="none", max_retries=0)
    answer = await client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": "Invent a sailor."}],
        response_format={"type": "json_schema", "json_schema": {"name": "sailor", "schema": SCHEMA, "strict": True}},
        max_tokens=80,
    )
    assert isinstance(json.loads(answer.choices[0].message.content or "")["age"], int)
    await client.close()


async def test_a_cancel_ends_the_upstreams_work(upstream: str, gateway: str) -> None:
    before = await metric(upstream, "loquent_aborted_total")
    async with socket_to(gateway) as client:
        await cancelled(client)
    for _ in range(200):
        if await metric(upstream, "loquent_aborted_total") == before + 1:
            break
        await asyncio.sleep(0.05)
    assert await metric(upstream, "loquent_aborted_total") == before + 1
    assert await metric(upstream, "loquent_requests_running") == 0
    assert await metric(gateway, "loquent_aborted_total") == 1


async def test_a_spoken_reply_without_pytorch(upstream: str, deaf: dict[str, str]) -> None:
    with started(LIGHT, deaf | elsewhere(upstream, '["speech", "chat"]')) as address:
        async with socket_to(address) as client:
            await aloud(client)


@pytest.mark.parametrize(
    ("stages", "environment"),
    [
        ('["chat"]', {"LOQUENT__CHAT__ENGINE": "builtin"}),
        ('["chat"]', {"LOQUENT__CHAT__TOOLS": "guided"}),
        ('["anomaly", "chat"]', {}),
        ('["image", "chat"]', {}),
    ],
)
def test_it_says_what_needs_pytorch(deaf: dict[str, str], stages: str, environment: dict[str, str]) -> None:
    settings = deaf | elsewhere("http://127.0.0.1:9", stages) | environment
    outcome = run(*LIGHT, "serve", "--port", "0", env=settings)
    assert outcome.returncode == 2, outcome.stderr
    assert "loquent[server]" in outcome.stderr
    assert "Traceback" not in outcome.stderr
