"""The HTTP interface through the real server: replies whole and streamed, errors, probes, doors."""

import asyncio
import io
import json
import logging
import socket
import threading
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import aiohttp
import openai
import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import TypeAdapter

from pipelines.chat.engine import engine as engine_module
from pipelines.chat.engine.engine import Engine
from pipelines.events import Event, Sampling
from server.app import SEND_BUFFER, listen, serving, url
from server.auth import new_key
from server.config import LimitSettings, ModelsSettings, ServerSettings, Settings, hash_key
from server.logs import JsonFormatter
from tests.support import PATIENCE, Running, ScriptedModel, echo, engine_of, eventually, running, scripted_pipeline

Json = dict[str, Any]
HI = [{"role": "user", "content": "Hi"}]


def sdk(server: Running, key: str = "none") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0)


async def post(server: Running, body: Any, **options: Any) -> tuple[int, Json]:
    data = body if isinstance(body, bytes) else json.dumps(body)
    async with server.http.post(f"{server.url}/v1/chat/completions", data=data, **options) as response:
        assert response.headers["x-request-id"]
        return response.status, await response.json()


async def lines(response: aiohttp.ClientResponse) -> list[str]:
    return [line for line in (await response.text()).split("\n\n") if line]


async def test_a_whole_reply_is_what_the_sdk_knows() -> None:
    async with running(ScriptedModel(["Hel", "lo."])) as server:
        status, body = await post(server, {"model": "gpt-4o-mini", "messages": HI})
    assert status == 200
    reply = TypeAdapter(ChatCompletion).validate_python(body, strict=True)
    assert reply.choices[0].message.content == "Hello."
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens) == (8, 2)


async def test_a_streamed_reply_is_what_the_sdk_knows() -> None:
    asked = {"messages": HI, "stream": True, "stream_options": {"include_usage": True}}
    async with (
        running(ScriptedModel(["Hel", "lo."])) as server,
        server.http.post(f"{server.url}/v1/chat/completions", json=asked) as response,
    ):
        assert response.headers["Content-Type"].startswith("text/event-stream")
        assert response.headers["x-request-id"]
        told = await lines(response)
    assert told[-1] == "data: [DONE]"
    chunks = [
        TypeAdapter(ChatCompletionChunk).validate_python(json.loads(line.removeprefix("data: ")), strict=True)
        for line in told[:-1]
    ]
    assert len({(chunk.id, chunk.created) for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == "Hello."
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 10
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_the_parameters_reach_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ScriptedModel("abcdef")
    asked: list[Sampling] = []
    async with running(model) as server, sdk(server) as client:
        generate = server.engine.generate

        def remembered(id: str, prompt: Sequence[int], sampling: Sampling, *rest: Any) -> AsyncGenerator[Event]:
            asked.append(sampling)
            return generate(id, prompt, sampling, *rest)

        monkeypatch.setattr(server.engine, "generate", remembered)
        reply = await client.chat.completions.create(
            model="default",
            messages=[
                {"role": "developer", "content": "Be kind"},
                {"role": "user", "content": [{"type": "text", "text": "Hi "}, {"type": "text", "text": "there"}]},
                {"role": "assistant", "content": "Yes?"},
                {"role": "user", "content": "Go on"},
            ],
            max_completion_tokens=3,
            temperature=0.5,
            top_p=0.9,
            seed=7,
            stop=["z"],
            n=1,
            user="somebody",
            presence_penalty=0.25,
            frequency_penalty=-0.5,
            logit_bias={"9": -3},
            logprobs=True,
            top_logprobs=2,
            extra_body={"top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1, "ignore_eos": True},
        )
    assert reply.choices[0].finish_reason == "length"
    assert reply.choices[0].message.content == "abc"
    assert model.prompts == ["system: Be kind\nuser: Hi there\nassistant: Yes?\nuser: Go on"]
    assert asked == [
        Sampling(
            temperature=0.5,
            top_p=0.9,
            seed=7,
            max_tokens=3,
            stop=("z",),
            top_k=40,
            min_p=0.1,
            repetition_penalty=1.1,
            presence_penalty=0.25,
            frequency_penalty=-0.5,
            logit_bias=((9, -3.0),),
            ignore_eos=True,
            logprobs=2,
        )
    ]


@pytest.mark.parametrize(("asked", "expected"), [({}, 1.2), ({"repetition_penalty": 1.0}, 1.0)])
async def test_an_explicit_parameter_goes_before_the_configured_one(
    asked: dict[str, float], expected: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached: list[Sampling] = []
    async with running(scripted_pipeline(ScriptedModel("abc"), repetition_penalty=1.2)) as server:
        generate = server.engine.generate

        def remembered(id: str, prompt: Sequence[int], sampling: Sampling, *rest: Any) -> AsyncGenerator[Event]:
            reached.append(sampling)
            return generate(id, prompt, sampling, *rest)

        monkeypatch.setattr(server.engine, "generate", remembered)
        url = f"{server.url}/v1/chat/completions"
        async with server.http.post(url, json={"messages": HI, **asked}) as response:
            assert response.status == 200
        async with server.client() as client:
            await client.greet()
            await client.say("Hi")
            await client.send("response.create", response={"loquent": {"sampling": asked}})
            await client.until("response.done")
    assert [each.repetition_penalty for each in reached] == [expected, expected]


@pytest.mark.parametrize("stream", [False, True])
async def test_logprobs_are_told_of_every_token_in_the_form_that_the_sdk_knows(stream: bool) -> None:
    asked = {"messages": HI, "logprobs": True, "top_logprobs": 2, "stream": stream, "stop": ["END"]}
    async with running(ScriptedModel(["He", "llö", " E", "NE"])) as server:
        data = json.dumps(asked)
        async with server.http.post(f"{server.url}/v1/chat/completions", data=data) as response:
            if stream:
                told = [json.loads(line.removeprefix("data: ")) for line in (await lines(response))[:-1]]
                chunks = [TypeAdapter(ChatCompletionChunk).validate_python(chunk, strict=True) for chunk in told]
                found = [each for chunk in chunks if (own := chunk.choices[0].logprobs) for each in own.content or []]
            else:
                reply = TypeAdapter(ChatCompletion).validate_python(await response.json(), strict=True)
                assert reply.choices[0].message.content == "Hellö ENE"
                assert reply.choices[0].logprobs is not None
                found = list(reply.choices[0].logprobs.content or [])
    assert [each.token for each in found] == ["He", "llö", " E", "NE"]
    assert [each.bytes for each in found] == [list(text.encode()) for text in ("He", "llö", " E", "NE")]
    assert all(each.logprob > -0.01 and len(each.top_logprobs) == 2 for each in found)
    assert [each.top_logprobs[0].token for each in found] == [each.token for each in found]


async def test_logprobs_are_told_of_a_token_that_has_no_text() -> None:
    body = {"messages": HI, "logprobs": True, "max_tokens": 2}
    async with running(ScriptedModel(["a", "\ufffd", "b"])) as server:
        _, reply = await post(server, body)
    assert reply["choices"][0]["message"]["content"] == "a"
    told = reply["choices"][0]["logprobs"]["content"]
    assert [(each["token"], each["bytes"]) for each in told] == [("a", [97]), ("\ufffd", None)]


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"logit_bias": {"5": 101}}, "invalid_value", "logit_bias.5"),
        ({"logit_bias": {"five": 1}}, "invalid_value", None),
        ({"logit_bias": {str(id): 1 for id in range(301)}}, "invalid_value", "logit_bias"),
        ({"logprobs": True, "top_logprobs": 21}, "invalid_value", "top_logprobs"),
        ({"top_logprobs": 3}, "invalid_value", "top_logprobs"),
        ({"top_k": -1}, "invalid_value", "top_k"),
        ({"min_p": 1.5}, "invalid_value", "min_p"),
        ({"repetition_penalty": 0}, "invalid_value", "repetition_penalty"),
        ({"tools": [{"type": "function"}]}, "missing_required_parameter", "tools.0"),
        ({"n": 9}, "invalid_value", "n"),
        ({"functions": [{}]}, "missing_required_parameter", "functions.0.name"),
        ({"web_search_options": {}}, "unsupported_parameter", "web_search_options"),
        ({"frequency_penalty": 2.5}, "invalid_value", "frequency_penalty"),
        ({"max_token": 5}, "unknown_parameter", "max_token"),
        ({"messages": []}, "invalid_value", "messages"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "invalid_value", "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "missing_required_parameter", "messages.0.content"),
        ({"temperature": "hot"}, "invalid_value", "temperature"),
        ({"temperature": 3}, "invalid_value", "temperature"),
        ({"max_tokens": 0}, "invalid_value", "max_tokens"),
        ({"stop": [""]}, "invalid_value", None),
        ({"stream": 1}, "invalid_value", "stream"),
    ],
)
async def test_what_can_not_be_done_is_a_400_that_names_it(change: Json, code: str, param: str | None) -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        status, body = await post(server, {"messages": HI} | change)
    assert (status, body["error"]["code"]) == (400, code)
    assert body["error"]["type"] == "invalid_request_error"
    if param:
        assert body["error"]["param"] == param
        assert param.split(".")[0] in body["error"]["message"]


@pytest.mark.parametrize("raw", [b"{", b"[]", b"\xff", b"", b"[" * 5000])
async def test_what_is_no_json_is_a_400(raw: bytes) -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        status, body = await post(server, raw)
        assert (status, body["error"]["code"]) == (400, "invalid_json")
        assert (await post(server, {"messages": HI}))[0] == 200


async def test_a_body_beyond_the_limit_is_a_413() -> None:
    async with running(ScriptedModel(["Hi"]), Settings(limits=LimitSettings(body_bytes=65_536))) as server:
        status, body = await post(server, {"messages": [{"role": "user", "content": "x" * 70_000}]})
    assert (status, body["error"]["code"]) == (413, "request_too_large")


@pytest.mark.parametrize("stream", [True, False])
async def test_a_prompt_beyond_the_context_is_a_400_with_the_numbers(stream: bool) -> None:
    async with running(ScriptedModel(["Hi"], context=20)) as server, sdk(server) as client:
        with pytest.raises(openai.BadRequestError, match="26 tokens") as error:
            await client.chat.completions.create(
                model="x", messages=[{"role": "user", "content": "x" * 20}], stream=stream
            )
        assert error.value.code == "context_length_exceeded"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_full_server_is_a_503_that_says_when_to_come_back(stream: bool) -> None:
    gate = threading.Semaphore(0)
    pipeline = scripted_pipeline(ScriptedModel("ab", gate=gate), streams=1, waiting=0)
    async with running(pipeline) as server:
        first = asyncio.create_task(post(server, {"messages": HI}))
        await eventually(lambda: server.engine.running == 1, "the only place is taken")
        body = {"messages": HI, "stream": stream}
        async with server.http.post(f"{server.url}/v1/chat/completions", json=body) as response:
            assert response.status == 503
            assert int(response.headers["Retry-After"]) > 0
            assert (await response.json())["error"]["code"] == "server_overloaded"
        gate.release(10)
        assert (await first)[0] == 200


async def test_a_failure_amid_a_stream_is_told_in_it() -> None:
    def reply(prompt: str) -> Any:
        yield "Hel"
        raise ValueError("a secret of the server")

    body = {"messages": HI, "stream": True}
    async with (
        running(ScriptedModel(reply)) as server,
        server.http.post(f"{server.url}/v1/chat/completions", json=body) as response,
    ):
        told = await lines(response)
    assert json.loads(told[-2].removeprefix("data: "))["error"]["code"] == "generation_failed"
    assert told[-1] == "data: [DONE]"
    assert "secret" not in "".join(told)


async def test_a_failure_of_a_whole_reply_is_a_500() -> None:
    def reply(prompt: str) -> list[str]:
        raise ValueError("a secret of the server")

    async with running(ScriptedModel(reply)) as server:
        status, body = await post(server, {"messages": HI})
    assert (status, body["error"]["type"]) == (500, "server_error")
    assert "secret" not in json.dumps(body)


async def test_silence_is_filled_with_comments() -> None:
    gate = threading.Semaphore(0)
    settings = Settings(limits=LimitSettings(sse_keep_alive=0.05))
    async with (
        running(ScriptedModel("ab", gate=gate), settings) as server,
        server.http.post(f"{server.url}/v1/chat/completions", json={"messages": HI, "stream": True}) as response,
    ):
        assert await response.content.readuntil(b"\n\n") == b": keep-alive\n\n"
        gate.release(10)
        told = await lines(response)
    assert told[-1] == "data: [DONE]"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_stops_the_model(stream: bool) -> None:
    gate = threading.Semaphore(1)
    async with running(ScriptedModel("abcdef", gate=gate)) as server:
        asking = asyncio.create_task(post(server, {"messages": HI, "stream": stream}))
        await eventually(lambda: server.engine.steps == 2, "the second token is under way")
        asking.cancel()
        await eventually(lambda: server.backend.requests == 0, "the server noticed")
        gate.release(10)
        await eventually(lambda: server.engine.running == 0, "the stream is gone")
        assert server.engine.steps == 2


async def test_a_streaming_client_that_stops_reading_is_dropped() -> None:
    flood = ["0123456789" * 400] * 2500
    settings = Settings(limits=LimitSettings(send_seconds=0.5))
    pipeline = scripted_pipeline(ScriptedModel(flood), max_tokens=10_000)
    async with running(pipeline, settings) as server:
        host, port = server.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, port, limit=1024)
        body = json.dumps({"messages": HI, "stream": True})
        request = (
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        )
        writer.write(request.encode())
        await eventually(lambda: server.backend.metrics.dropped._value.get() == 1, "it is dropped")
        await eventually(lambda: (server.engine.running, server.backend.requests) == (0, 0), "nothing of it is left")
        writer.close()


async def test_the_kernel_holds_little_for_a_client_that_does_not_read() -> None:
    with listen("127.0.0.1", 0) as listener:
        assert listener.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) in (SEND_BUFFER, 2 * SEND_BUFFER)


async def test_a_body_that_does_not_arrive_is_not_waited_for() -> None:
    settings = Settings(limits=LimitSettings(keep_alive=0.2))
    async with running(ScriptedModel(["Hi"]), settings) as server:
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, port)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 100\r\n\r\n"
        writer.write(head.encode() + b'{"messages"')
        assert (await reader.readline()).startswith(b"HTTP/1.1 408")
        writer.close()


async def test_a_connection_that_says_nothing_is_closed() -> None:
    settings = Settings(limits=LimitSettings(keep_alive=0.2))
    async with running(ScriptedModel(["Hi"]), settings) as server:
        reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))
        writer.write(b"GET /v1/models HT")
        assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        writer.close()


@pytest.mark.parametrize(
    "head",
    [
        "Authorization Bearer lq-a-key-without-a-colon\r\n",
        "Authorization: Bearer lq-a-key\0with-a-nul\r\n",
        "Content-Length: 3\r\n\r\n{}My password is hunter2",
    ],
)
async def test_a_request_that_can_not_be_read_leaves_nothing_of_it_in_the_log(
    head: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    async with running(ScriptedModel(["Hi"])) as server:
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\n{head}\r\n\r\n".encode())
        assert b" 400 " in await reader.readline()
        await asyncio.wait_for(reader.read(), PATIENCE)
        writer.close()
    assert "could not be read" in caplog.text
    assert "lq-" not in caplog.text
    assert "hunter2" not in caplog.text


async def test_a_client_that_left_is_no_error_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        host, port = server.url.removeprefix("http://").split(":")
        for _ in range(10):
            _, writer = await asyncio.open_connection(host, port)
            writer.write(
                f"GET /v1/realtime HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
            )
            writer.transport.abort()
        await post(server, {"messages": HI})
        await eventually(lambda: server.backend.requests == 0, "all of them are gone")
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_key_of_strange_bytes_is_only_wrong() -> None:
    settings = Settings(server=ServerSettings(keys=(hash_key(new_key()),)))
    async with running(ScriptedModel(["Hi"]), settings) as server:
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, port)
        head = f"GET /v1/models HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer ".encode()
        writer.write(head + b"\xff\xfe\r\n\r\n")
        assert b" 401 " in await reader.readline()
        writer.close()


@pytest.mark.parametrize(("name", "value"), [("Host", "[::1"), ("Origin", "http://["), ("Origin", "://"), ("Host", "")])
async def test_a_broken_host_or_origin_is_refused(name: str, value: str) -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        status, body = await post(server, {"messages": HI}, headers={name: value})
    assert (status, body["error"]["type"]) in [(421, "invalid_request_error"), (403, "permission_error")]


async def test_many_requests_at_once_get_their_own_replies() -> None:
    async with running(ScriptedModel(echo)) as server, sdk(server) as client:

        async def ask(number: int) -> None:
            words = f"request {number} says {number * 7}"
            reply = await client.chat.completions.create(model="x", messages=[{"role": "user", "content": words}])
            assert (reply.choices[0].message.content or "").split() == words.split()

        await asyncio.gather(*(ask(number) for number in range(40)))


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
async def test_a_client_may_have_its_texts_gathered(path: str) -> None:
    """With a wait of a second, all that the model says behind its first text comes at its end."""
    gate = threading.Semaphore(0)
    said = [f"{number} " for number in range(20)]
    body = {"stream": True, "loquent": {"gather": 1.0}}
    body |= {"messages": HI} if path == "chat/completions" else {"input": "Hi"}
    async with running(ScriptedModel(said, gate=gate)) as server:
        async with server.http.post(f"{server.url}/v1/{path}", json=body | {"loquent": {"gather": 2}}) as refused:
            assert (refused.status, (await refused.json())["error"]["param"]) == (400, "loquent.gather")
        async with server.http.post(f"{server.url}/v1/{path}", json=body) as response:
            texts: list[str] = []
            gate.release()
            async for line in response.content:
                text = _text_in(line)
                if text and not texts:
                    gate.release(len(said))
                texts += [text] if text else []
    assert texts == [said[0], "".join(said[1:])]


def _text_in(line: bytes) -> str:
    """Of an event of either stream."""
    if not line.startswith(b"data: {"):
        return ""
    event = json.loads(line[6:])
    if event.get("type") == "response.output_text.delta":
        return str(event["delta"])
    return "".join(choice["delta"].get("content") or "" for choice in event.get("choices", []))


# Models


async def test_the_model_and_the_names_that_mean_it_are_listed() -> None:
    async with running(ScriptedModel(["Hi"])) as server, sdk(server) as client:
        names = [model.id async for model in client.models.list()]
        assert names[0] == "smollm2-135m-instruct"
        assert "gpt-4o-mini" in names
        async with server.http.get(f"{server.url}/v1/models") as response:
            first, *others = (await response.json())["data"]
        assert first["loquent"] == {"gather": True}
        assert not any("gather" in other.get("loquent", {}) for other in others)
        assert (await client.models.retrieve("gpt-4o-mini")).id == "gpt-4o-mini"
        with pytest.raises(openai.NotFoundError):
            await client.models.retrieve("nobody")


async def test_an_unknown_model_means_the_default_or_a_404() -> None:
    asked = {"model": "gpt-next", "messages": HI}
    async with running(ScriptedModel(["Hi"])) as server:
        status, body = await post(server, asked)
        assert (status, body["model"]) == (200, "smollm2-135m-instruct")
    async with running(ScriptedModel(["Hi"]), Settings(models=ModelsSettings(unknown="error"))) as server:
        status, body = await post(server, asked)
        assert (status, body["error"]["code"]) == (404, "model_not_found")
        assert (await post(server, asked | {"model": "gpt-4o"}))[0] == 200


# Probes and metrics


async def test_ready_is_false_while_the_model_loads_and_after_it_died() -> None:
    loads = threading.Semaphore(0)

    def load() -> ScriptedModel:
        loads.acquire(timeout=20)
        return ScriptedModel(["Hi"])

    pipeline = scripted_pipeline(ScriptedModel(["Hi"]))
    engine_of(pipeline)._load = load
    async with serving(Settings(), pipeline, listener := listen("127.0.0.1", 0)), aiohttp.ClientSession() as http:
        starting = asyncio.create_task(pipeline.start(lambda step: None))
        await eventually(lambda: engine_of(pipeline).state.value == "loading", "it loads")
        async with http.get(f"{url(listener)}/readyz") as response:
            assert (response.status, await response.json()) == (503, {"status": "loading", "waiting_for": ["chat"]})
        async with http.get(f"{url(listener)}/livez") as response:
            assert response.status == 200
        async with http.post(f"{url(listener)}/v1/chat/completions", json={"messages": HI}) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (503, "model_not_ready")
            assert response.headers["Retry-After"]
        loads.release()
        await starting
        async with http.get(f"{url(listener)}/readyz") as response:
            assert response.status == 200
    assert isinstance(engine_of(pipeline), Engine)


async def test_ready_is_false_from_a_workers_death_until_its_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Health must not lie: transformers#45691."""
    deaths, loads = iter([True]), threading.Semaphore(1)

    def reply(prompt: str) -> list[str]:
        if next(deaths, False):
            raise KeyboardInterrupt  # what no handler of the engine takes for a request's fault
        return ["Hi"]

    monkeypatch.setattr(engine_module, "RESTART_WAIT", 0.01)
    model = ScriptedModel(reply)
    pipeline = scripted_pipeline(model)

    def load() -> ScriptedModel:
        loads.acquire(timeout=PATIENCE)
        return model

    engine_of(pipeline)._load = load
    async with running(pipeline) as server:

        async def ready() -> int:
            async with server.http.get(f"{server.url}/readyz") as response:
                return response.status

        assert await ready() == 200
        status, body = await post(server, {"messages": HI})
        assert (status, body["error"]["code"]) == (500, "engine_failed")
        assert await ready() == 503
        assert (await post(server, {"messages": HI}))[0] == 503
        loads.release()
        await eventually(lambda: server.engine.ready, "the model is loaded again")
        assert await ready() == 200
        status, body = await post(server, {"messages": HI})
        assert (status, body["choices"][0]["message"]["content"]) == (200, "Hi")
        assert (server.engine.restarts, server.engine.queued) == (1, 0)


async def test_a_prompt_that_can_never_fit_holds_up_nobody() -> None:
    """An oversize request must not block the queue: vllm#39734."""
    gate = threading.Semaphore(0)
    pipeline = scripted_pipeline(ScriptedModel("ab", gate=gate, context=100), streams=1, waiting=3, max_tokens=10)
    async with running(pipeline) as server:
        runs = asyncio.create_task(post(server, {"messages": HI}))
        await eventually(lambda: server.engine.running == 1, "one runs")
        status, body = await post(server, {"messages": [{"role": "user", "content": "x" * 300}]})
        assert (status, body["error"]["code"]) == (400, "context_length_exceeded")
        assert "100" in body["error"]["message"]
        waits = asyncio.create_task(post(server, {"messages": HI}))
        await eventually(lambda: server.engine.queued == 1, "the next one waits its turn")
        gate.release(10)
        assert [status for status, _ in await asyncio.gather(runs, waits)] == [200, 200]


async def test_metrics_count_what_happened() -> None:
    async with running(ScriptedModel(["Hel", "lo."])) as server:
        await post(server, {"messages": HI})
        await post(server, {"messages": HI, "n": 9})
        async with server.http.get(f"{server.url}/metrics") as response:
            text = await response.text()
    told = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert told["loquent_ready"] == "1.0"
    assert told['loquent_turns_total{outcome="stop"}'] == "1.0"
    assert told["loquent_prompt_tokens_total"] == "8.0"
    assert told["loquent_generation_tokens_total"] == "2.0"
    assert told["loquent_time_to_first_token_seconds_count"] == "1.0"
    assert told["loquent_requests_running"] == "0.0"


# Access control


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("DELETE", "/v1/models", 405)])
async def test_wrong_paths_and_methods_have_openais_shape(method: str, path: str, status: int) -> None:
    async with running(ScriptedModel(["Hi"])) as server, server.http.request(method, server.url + path) as response:
        assert response.status == status
        assert set((await response.json())["error"]) == {"message", "type", "code", "param"}


async def test_a_key_is_asked_for_everywhere_but_at_the_probes() -> None:
    key = new_key()
    settings = Settings(server=ServerSettings(keys=(hash_key(key),)))
    async with running(ScriptedModel(["Hi"]), settings) as server:
        for path in ("/v1/models", "/metrics", "/nowhere"):
            async with server.http.get(server.url + path) as response:
                assert response.status == 401
                assert response.headers["WWW-Authenticate"] == "Bearer"
        for path in ("/livez", "/readyz"):
            async with server.http.get(server.url + path) as response:
                assert response.status == 200
        async with sdk(server, key) as client:
            assert [model.id async for model in client.models.list()]


async def test_nobody_profits_from_what_another_key_has_said() -> None:
    keys = [new_key(), new_key()]
    settings = Settings(server=ServerSettings(keys=tuple(map(hash_key, keys))))
    async with running(ScriptedModel(["Hi"]), settings) as server:

        async def cached(key: str) -> int:
            headers = {"Authorization": f"Bearer {key}"}
            status, body = await post(server, {"messages": [{"role": "user", "content": "x" * 50}]}, headers=headers)
            assert status == 200
            tokens: int = body["usage"]["prompt_tokens_details"]["cached_tokens"]
            return tokens

        assert [await cached(keys[0]), await cached(keys[1])] == [0, 0]
        assert [await cached(keys[0]) > 40, await cached(keys[1]) > 40] == [True, True]


async def test_one_key_can_not_take_every_place() -> None:
    keys = [new_key(), new_key()]
    settings = Settings(server=ServerSettings(keys=tuple(map(hash_key, keys))))
    gate = threading.Semaphore(0)
    pipeline = scripted_pipeline(ScriptedModel("a", gate=gate), streams=2, waiting=2)
    headers = [{"Authorization": f"Bearer {key}"} for key in keys]
    async with running(pipeline, settings) as server:
        greedy = [asyncio.create_task(post(server, {"messages": HI}, headers=headers[0])) for _ in range(3)]
        await eventually(lambda: server.engine.running + server.engine.queued == 3, "three of four places are taken")
        asked = json.dumps({"messages": HI})
        async with server.http.post(f"{server.url}/v1/chat/completions", data=asked, headers=headers[0]) as refused:
            body = await refused.json()
            assert (refused.status, body["error"]["code"]) == (429, "too_many_requests")
            assert body["error"]["type"] == "rate_limit_error"
            assert int(refused.headers["Retry-After"]) > 0
        other = asyncio.create_task(post(server, {"messages": HI}, headers=headers[1]))
        await eventually(lambda: server.engine.running + server.engine.queued == 4, "the other key has a place")
        gate.release(100)
        assert [status for status, _ in await asyncio.gather(*greedy, other)] == [200] * 4
        async with server.http.get(f"{server.url}/metrics", headers=headers[0]) as response:
            told = await response.text()
        assert 'loquent_rejected_total{code="too_many_requests"} 1.0' in told
        assert "loquent_refusals_total 1.0" in told


async def test_without_keys_any_authorization_is_ignored() -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        assert (await post(server, {"messages": HI}, headers={"Authorization": "Bearer whatever"}))[0] == 200


async def test_pages_may_read_answers_only_from_allowed_origins() -> None:
    settings = Settings(server=ServerSettings(allowed_origins=("https://shop.example",)))
    library = "authorization, content-type, x-stainless-lang"  # as OpenAI's own asks
    question = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": library}
    async with running(ScriptedModel(["Hi"]), settings) as server:
        url = f"{server.url}/v1/chat/completions"
        async with server.http.options(url, headers=question | {"Origin": "https://shop.example"}) as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Origin"] == "https://shop.example"
            assert response.headers["Access-Control-Allow-Headers"] == library
        async with server.http.options(url, headers=question | {"Origin": "https://evil.example"}) as response:
            assert response.status == 403
            assert "Access-Control-Allow-Origin" not in response.headers
        status, _ = await post(server, {"messages": HI}, headers={"Origin": "https://evil.example"})
        assert status == 403
        status, _ = await post(server, {"messages": HI}, headers={"Host": "evil.example"})
        assert status == 421


async def test_requests_are_logged_with_their_id_and_probes_are_not(caplog: pytest.LogCaptureFixture) -> None:
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("server.app")
    logger.addHandler(handler)
    caplog.set_level("INFO")
    try:
        async with running(ScriptedModel(["Hi"])) as server:
            await post(server, {"messages": HI}, headers={"x-request-id": "mine"})
            async with server.http.get(f"{server.url}/readyz"):
                pass
    finally:
        logger.removeHandler(handler)
    (line,) = map(json.loads, written.getvalue().splitlines())
    assert (line["message"], line["request"]) == ("POST /v1/chat/completions: 200", "mine")


async def test_a_request_id_is_taken_over_when_it_is_a_sane_one() -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        for given, taken in [("abc-1", True), ("a b", False), ("x" * 200, False)]:
            async with server.http.get(f"{server.url}/livez", headers={"x-request-id": given}) as response:
                assert (response.headers["x-request-id"] == given) is taken


async def test_a_client_that_does_not_read_its_whole_answer_is_dropped() -> None:
    settings = Settings(limits=LimitSettings(send_seconds=0.2))
    async with asyncio.timeout(PATIENCE), running(ScriptedModel(["x" * 1_000_000] * 20), settings) as server:
        host, _, port = server.url.removeprefix("http://").partition(":")
        raw = socket.socket()
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, (host, int(port)))
        _, writer = await asyncio.open_connection(sock=raw, limit=1024)
        body = json.dumps({"messages": HI}).encode()
        writer.write(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await eventually(lambda: server.backend.requests == 1, "it is asked")
        await eventually(lambda: server.backend.requests == 0, "the answer is given up")
        async with server.http.get(f"{server.url}/metrics") as response:
            assert "loquent_dropped_total 1.0" in await response.text()
        writer.close()


async def test_a_client_that_reads_its_answer_drop_by_drop_is_dropped() -> None:
    settings = Settings(limits=LimitSettings(send_seconds=0.1))
    async with asyncio.timeout(PATIENCE), running(ScriptedModel(["x" * 1_000_000] * 20), settings) as server:
        reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"), limit=1024)
        body = json.dumps({"messages": HI}).encode()
        writer.write(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: {server.url.removeprefix('http://')}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        await eventually(lambda: server.backend.requests == 1, "it is asked")
        while server.backend.requests:
            await reader.read(4096)
            await asyncio.sleep(0.01)
        async with server.http.get(f"{server.url}/metrics") as response:
            assert "loquent_dropped_total 1.0" in await response.text()
        writer.close()


async def test_a_large_answer_arrives_whole() -> None:
    async with running(ScriptedModel(["x" * 1_000_000] * 3)) as server:
        async with server.http.post(f"{server.url}/v1/chat/completions", json={"messages": HI}) as response:
            assert response.headers["Content-Type"] == "application/json; charset=utf-8"
            assert len((await response.json())["choices"][0]["message"]["content"]) == 3_000_000
        async with server.http.get(f"{server.url}/v1/models") as response:
            assert response.status == 200


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_body_that_is_not_what_its_encoding_says_is_the_clients_error(encoding: str) -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        headers = {"Content-Encoding": encoding, "Content-Type": "application/json"}
        async with server.http.post(
            f"{server.url}/v1/chat/completions", data=b"\x1f\x8b no such thing", headers=headers
        ) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (400, "invalid_encoding")


async def test_caches_are_told_that_answers_vary_by_origin_also_without_one() -> None:
    async with running(ScriptedModel(["Hi"])) as server, server.http.get(f"{server.url}/v1/models") as response:
        assert "Origin" in response.headers["Vary"]
