"""A whole server over scripted upstreams: what its clients see of them."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from websockets.asyncio.client import connect

from pipelines.build import build
from pipelines.chat.upstream.client import Client as UpstreamClient
from pipelines.chat.upstream.outcomes import UpstreamError
from pipelines.chat.upstream.settings import UpstreamSettings
from server.app import listen, serving, url
from server.commands import serving as serving_command
from server.commands.main import main
from server.config import ConfigError, Configuration, Settings, read, show, stage_settings
from tests.pipelines.chat.upstream.scripted import (
    DONE,
    ROLE,
    ScriptedUpstream,
    chunk,
    fails,
    says,
    streams,
    upstreams,
)
from tests.pipelines.chat.upstream.support import TEST_LIMITS
from tests.server.test_tls import over, signed
from tests.support import Client, Running, ScriptedModel, eventually, realtime, running, text_of

HI = {"messages": [{"role": "user", "content": "Hi"}]}
KEY = "sk-very-secret"


def settings_over(*scripted: ScriptedUpstream, upstream: dict[str, Any] | None = None, **chat: Any) -> Settings:
    elsewhere = TEST_LIMITS | {"urls": [each.url for each in scripted], "retries": 0} | (upstream or {})
    return Settings.model_validate(
        {
            "pipeline": {"stages": ["tools", "chat"]},
            "chat": {"engine": "openai", "upstream": elsewhere} | chat,
            "models": {"unknown": "error"},
        }
    )


@asynccontextmanager
async def server_over(*scripted: ScriptedUpstream, **options: Any) -> AsyncIterator[Running]:
    async with upstreams(*scripted):
        settings = settings_over(*scripted, **options)
        async with running(build(stage_settings(settings)), settings) as server:
            yield server


async def post(server: Running, **body: Any) -> tuple[int, Any, Any]:
    async with server.http.post(f"{server.url}/v1/chat/completions", json=HI | body) as answer:
        return answer.status, await answer.json(), answer.headers


async def test_a_reply_has_the_models_name_and_the_upstreams_usage() -> None:
    async with server_over(ScriptedUpstream()) as server:
        status, body, _ = await post(server, model="gpt-4o-mini")
        assert (status, body["model"]) == (200, "big-model")
        assert body["choices"][0]["message"]["content"] == "Hello there."
        assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": 5}


async def test_models_are_asked_for_by_the_names_that_are_configured() -> None:
    upstream = ScriptedUpstream()
    async with server_over(upstream, upstream={"models": {"fast": "small-model"}}) as server:
        async with server.http.get(f"{server.url}/v1/models") as answer:
            names = [entry["id"] for entry in (await answer.json())["data"]]
        assert names[:2] == ["big-model", "fast"]
        assert (await post(server, model="fast"))[1]["model"] == "fast"
        assert (await post(server, model="default"))[1]["model"] == "big-model"
        assert (await post(server, model="other"))[0] == 404
        async with server.http.post(f"{server.url}/v1/responses", json={"model": "fast", "input": "Hi"}) as answer:
            assert answer.status == 200
        async with connect(f"{realtime(server.url)}?model=fast") as socket:
            client = Client(socket)
            created, _ = await client.expect("session.created", "conversation.created")
            assert created["session"]["model"] == "fast"
            assert text_of(await client.ask("Hi")) == "Hello there."
        assert [body["model"] for body in upstream.bodies] == ["small-model", "big-model", "small-model", "small-model"]


async def test_an_overloaded_upstreams_retry_after_reaches_the_client() -> None:
    async with server_over(ScriptedUpstream(fails(429, headers={"Retry-After": "7"}))) as server:
        status, body, headers = await post(server)
        assert (status, body["error"]["code"], headers["Retry-After"]) == (503, "server_overloaded", "7")


async def test_what_the_upstream_rejects_is_the_clients_to_mend_and_stands_in_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = fails(422, "tools.0.name: 'my secret text' is wrong", code="invalid_value", param="tools.0.name")
    async with server_over(ScriptedUpstream(wrong)) as server:
        status, body, _ = await post(server)
        assert (status, body["error"]["code"], body["error"]["param"]) == (400, "invalid_value", "tools.0.name")
        assert "my secret text" in body["error"]["message"]
        assert "my secret text" not in caplog.text


async def test_a_failure_in_mid_stream_is_the_streams_last_event_and_the_responses_end() -> None:
    said = streams(ROLE, chunk({"content": "Hel"}), chunk({"content": "lo"}), cut=True)
    async with server_over(ScriptedUpstream(said)) as server:
        async with server.http.post(f"{server.url}/v1/chat/completions", json=HI | {"stream": True}) as answer:
            lines = [line.decode().strip() async for line in answer.content if line.startswith(b"data: ")]
        assert lines[-1] == "data: [DONE]"
        assert json.loads(lines[-2][6:])["error"]["code"] == "upstream_failed"
        deltas = [json.loads(line[6:])["choices"][0]["delta"].get("content") for line in lines[:-2]]
        assert "".join(filter(None, deltas)) == "Hello"
        async with server.client() as client:
            await client.greet()
            events = await client.ask("Hi")
            response = events[-1]["response"]
            assert (response["status"], response["status_details"]["error"]["code"]) == ("failed", "upstream_failed")
            assert text_of(events) == "Hello"


async def test_the_servers_own_functions_run_between_two_requests() -> None:
    async def answer(upstream: ScriptedUpstream, request: web.Request) -> web.StreamResponse:
        last = upstream.bodies[-1]["messages"][-1]
        if last["role"] == "tool":
            return await says(f"It says {last['content']}.")(upstream, request)
        name = upstream.bodies[-1]["tools"][0]["function"]["name"]
        call = {"index": 0, "id": "c1", "type": "function", "function": {"name": name, "arguments": "{}"}}
        return await streams(ROLE, chunk({"tool_calls": [call]}), chunk(finish="tool_calls"), DONE)(upstream, request)

    tool = {"type": "function", "function": {"name": "clock", "description": "The time."}}
    async with server_over(ScriptedUpstream(answer)) as server:
        _, body, _ = await post(server, tools=[tool])
        (call,) = body["choices"][0]["message"]["tool_calls"]
        assert (call["id"], call["function"]) == ("c1", {"name": "clock", "arguments": "{}"})
        assert body["choices"][0]["finish_reason"] == "tool_calls"
        history = [
            *HI["messages"],
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": "noon"},
        ]
        _, body, _ = await post(server, messages=history, tools=[tool])
        assert body["choices"][0]["message"]["content"] == "It says noon."


async def test_readiness_says_why_not_without_addresses() -> None:
    upstream = ScriptedUpstream(key="sk-right")
    async with upstreams(upstream):
        settings = settings_over(upstream)
        pipeline = build(stage_settings(settings))
        listener = listen("127.0.0.1", 0)
        async with serving(settings, pipeline, listener), aiohttp.ClientSession() as http:
            starting = asyncio.create_task(pipeline.start(lambda step: None))
            await eventually(lambda: "KEY" in pipeline.reasons.get("chat", ""), "the probe was refused")
            async with http.get(f"{url(listener)}/readyz") as answer:
                body = await answer.json()
            assert (answer.status, body["waiting_for"]) == (503, ["chat"])
            assert "LOQUENT__CHAT__UPSTREAM__KEY" in body["reasons"]["chat"]
            assert "127.0.0.1" not in json.dumps(body)
            assert "sk-right" not in json.dumps(body)
            upstream.key = ""
            await starting
            async with http.get(f"{url(listener)}/readyz") as answer:
                assert answer.status == 200
            await upstream.kill()
            async with http.post(f"{url(listener)}/v1/chat/completions", json=HI) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (503, "upstream_unavailable")
            async with http.get(f"{url(listener)}/readyz") as answer:
                assert (await answer.json())["reasons"] == {"chat": "no upstream can be reached"}


async def test_outcomes_count_by_upstream() -> None:
    upstream = ScriptedUpstream()
    async with server_over(upstream) as server:
        await post(server)
        upstream.answer = fails(500)
        await post(server)
        async with server.http.get(f"{server.url}/metrics") as answer:
            text = await answer.text()
        for outcome in ("done", "failed"):
            assert f'loquent_upstream_requests_total{{outcome="{outcome}",upstream="{upstream.url}"}} 1.0' in text
        assert f'loquent_upstream_state{{upstream="{upstream.url}"}} 0.0' in text
        assert "loquent_time_to_first_token_seconds_count 1.0" in text
        assert "loquent_prompt_tokens_total 12.0" in text


def test_the_key_comes_from_the_environment_alone_and_is_never_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "config.toml"
    file.write_text('[chat]\nengine = "openai"\n[chat.upstream]\nurls = ["http://127.0.0.1:1"]\n')
    monkeypatch.setenv("LOQUENT__CHAT__UPSTREAM__KEY", KEY)
    configuration = read()
    upstream = configuration.settings.chat.upstream
    assert (upstream.key.get_secret_value(), upstream.urls) == (KEY, ("http://127.0.0.1:1/v1",))
    shown = list(show(configuration))
    assert ("chat.upstream.key", "***", "environment") in shown
    assert KEY not in str(shown) + repr(configuration)
    for wrong in ("urls = [3]", 'urls = ["nowhere"]', "retries = -1", 'modle = "x"'):
        file.write_text(f'[chat]\nengine = "openai"\n[chat.upstream]\n{wrong}\n')
        with pytest.raises(ConfigError) as error:
            read()
        assert KEY not in str(error.value)
        assert "chat.upstream." in str(error.value)
    file.write_text('[chat]\nengine = "openai"\n')
    with pytest.raises(ConfigError, match=r"urls") as error:
        read()
    assert KEY not in str(error.value)
    monkeypatch.delenv("LOQUENT__CHAT__UPSTREAM__KEY")
    file.write_text(f'[chat.upstream]\nkey = "{KEY}"\n')
    with pytest.raises(ConfigError, match="LOQUENT__CHAT__UPSTREAM__KEY") as error:
        read()
    assert KEY not in str(error.value)


def test_a_key_in_the_clear_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    for address, warned in (("http://10.0.0.5:8000/v1", True), ("http://127.0.0.1/v1", False), ("https://a/v1", False)):
        caplog.clear()
        chat = {"engine": "openai", "upstream": {"urls": [address], "key": KEY}}
        build(stage_settings(Settings.model_validate({"chat": chat, "pipeline": {"stages": ["chat"]}})))
        assert ("in the clear" in caplog.text) == warned
        assert KEY not in caplog.text


async def test_a_certificate_that_is_not_trusted_makes_no_upstream(tmp_path: Path) -> None:
    async with running(ScriptedModel(["Hello."]), over(*signed(tmp_path, "one"))) as server:
        client = UpstreamClient(UpstreamSettings(urls=(server.url,)))
        client.start()
        with pytest.raises(UpstreamError, match="CERTIFICATE_VERIFY_FAILED") as error:
            await client.models(f"{server.url}/v1")
        assert error.value.outcome == "unreachable"
        await client.close()


@pytest.mark.parametrize(("engine", "heavy"), [("builtin", True), ("openai", False)])
def test_functions_bring_embeddings_only_where_they_help_the_model_to_choose(engine: str, heavy: bool) -> None:
    chat = {"engine": engine, "upstream": {"urls": ["http://127.0.0.1:9/v1"]}}
    tools = {"mcp": {"files": {"url": "http://127.0.0.1:9/mcp", "allow": ["*"]}}}
    settings = Settings.model_validate({"chat": chat, "tools": tools, "pipeline": {"stages": ["tools", "chat"]}})
    pipeline = build(stage_settings(settings))
    assert [part.name for part in pipeline.parts] == ["tools", "chat"]
    assert ("torch" in {name for part in pipeline.parts for name in part.imports}) == heavy
    assert bool(pipeline.shared.embedders) == heavy


def test_the_command_line_names_a_server_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Configuration] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(serving_command, "serve", given.append)
    assert main(["serve", "--engine", "http://10.0.0.5:8000", "--model", "big"]) == 0
    chat = given[0].settings.chat
    assert (chat.engine, chat.upstream.urls, chat.upstream.model) == ("openai", ("http://10.0.0.5:8000/v1",), "big")
    assert chat.model == Settings().chat.model
