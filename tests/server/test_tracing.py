"""Traces of turns, by a real collector: what the spans say, what they never say, and what happens without it."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pipelines.build import Pipeline
from pipelines.events import Event, StageError, TextDone, Turn
from pipelines.image.weights import Drawer
from pipelines.part import Part, Shared
from pipelines.tools import part as tools_part
from pipelines.tools.functions import Functions
from pipelines.tools.settings import ToolsSettings
from pipelines.tools.stage import ToolsStage
from server.tracing.switch import tracing
from tests.server.collector import Collector, collecting
from tests.server.scripts import HI, Scripted, call, calls, text
from tests.support import (
    PATIENCE,
    Running,
    ScriptedModel,
    ScriptedVoice,
    drawing,
    eventually,
    running,
    screening,
    scripted_pipeline,
    scripted_speech,
    started,
)

MARKER = "xyzzy-marker"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Collector]:
    async with collecting() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        yield found


async def chat(server: Running, headers: dict[str, str] | None = None, **body: Any) -> int:
    address = f"{server.url}/v1/chat/completions"
    async with server.http.post(address, json={"messages": HI} | body, headers=headers or {}) as answer:
        await answer.read()
        return answer.status


async def test_a_turn_is_a_span_with_prefill_and_decode_as_children(collector: Collector) -> None:
    async with running(ScriptedModel(["One ", "two."])) as server:
        assert await chat(server, temperature=0.5, seed=7, max_tokens=20) == 200
    (turn,) = collector.turns()
    assert turn.attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "loquent",
        "gen_ai.request.model": "smollm2-135m-instruct",
        "gen_ai.response.model": "smollm2-135m-instruct",
        "gen_ai.output.type": "text",
        "gen_ai.request.max_tokens": 20,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 7,
        "gen_ai.response.id": turn.attributes["gen_ai.response.id"],
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 8,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.output_tokens": 2,
        "loquent.request_id": turn.attributes["loquent.request_id"],
    }
    assert (turn.failed, turn.parent) == (False, "")
    prefill, decode = collector.children(turn)
    assert (prefill.name, decode.name) == ("prefill", "decode")
    assert prefill.attributes["gen_ai.usage.input_tokens"] == 8
    assert decode.attributes == {"gen_ai.usage.output_tokens": 2}
    assert turn.begun <= prefill.begun <= prefill.ended == decode.begun <= decode.ended <= turn.ended
    ((event, at),) = turn.events
    assert event == "first_token"
    assert prefill.begun <= at <= decode.ended
    assert collector.resources[0]["service.name"] == "loquent"


async def test_a_spoken_turn_with_a_picture_has_a_span_for_each_stage(
    collector: Collector, minilm: Path, drawer: Drawer
) -> None:
    pipeline = scripted_pipeline(
        ScriptedModel(["I am a happy cat. ", "So very happy."]),
        speech=scripted_speech(ScriptedVoice()),
        anomaly=screening(mode="enforce"),
        image=drawing(minilm, drawer, mood_similarity=0.0, when="mood"),
    )
    async with running(pipeline) as server:
        await pipeline.wait_until(lambda: all(part.ready() for part in pipeline.parts))
        async with server.client(additional_headers=TRACEPARENT) as client:
            await client.greet()
            await client.send("session.update", session={"type": "realtime", "output_modalities": ["audio"]})
            await client.until("session.updated")
            await client.ask("Say something")
    (turn,) = collector.turns()
    names = [span.name for span in collector.children(turn)]
    assert sorted(names) == sorted(
        ["screening", "prefill", "decode", "sentence", "synthesis", "sentence", "synthesis", "picture"]
    )
    assert [event for event, _ in turn.events] == ["first_token", "first_audio"]
    assert turn.attributes["gen_ai.output.type"] == "speech"
    assert (turn.trace, turn.parent) == (TRACE, PARENT)


async def test_the_call_of_a_function_is_a_span_with_its_name_and_not_its_arguments(collector: Collector) -> None:
    async def weather(city: str) -> str:
        """The weather of a city."""
        return f"Sunny {MARKER}"

    rounds = [calls(call("call_1", "weather", f'{{"city": "{MARKER}"}}')), text("Sunny.")]
    script = Scripted(lambda turn: _events(rounds.pop(0)))
    stage = ToolsStage([Functions({"weather": weather})], ToolsSettings())
    pipeline = Pipeline([tools_part.assemble(stage), Part("chat", script)], Shared())
    async with running(pipeline) as server:
        assert await chat(server) == 200
    (turn,) = collector.turns()
    (span,) = collector.children(turn)
    assert span.name == "execute_tool weather"
    assert span.attributes["gen_ai.tool.name"] == "weather"
    assert span.attributes["gen_ai.operation.name"] == "execute_tool"
    assert not any(MARKER.encode() in raw for raw in collector.raw)


async def _events(events: list[Event]) -> AsyncGenerator[Event]:
    for event in events:
        yield event


async def test_no_text_of_a_turn_is_in_its_spans(collector: Collector, minilm: Path, drawer: Drawer) -> None:
    pipeline = scripted_pipeline(
        ScriptedModel([f"{MARKER} is ", "the answer."]),
        speech=scripted_speech(ScriptedVoice()),
        anomaly=screening(),
        image=drawing(minilm, drawer),
    )
    async with running(pipeline) as server:
        own = {"session": MARKER}
        schema = {"type": "json_schema", "json_schema": {"name": MARKER, "schema": {"title": MARKER}}}
        tool = {"type": "function", "function": {"name": f"f-{MARKER}", "description": MARKER}}
        said = [{"role": role, "content": f"{MARKER} {role}"} for role in ("system", "user")]
        assert await chat(server, messages=said, loquent=own, stop=[f"no-{MARKER}"], user=MARKER, tools=[tool]) == 200
        await chat(server, messages=said, response_format=schema, model=f"model-{MARKER}")
        await chat(server, messages=[{"role": "user", "content": MARKER * 20_000}])
        async with server.http.post(f"{server.url}/v1/responses", json={"input": MARKER}) as answer:
            assert answer.status == 200
        async with server.client() as client:
            await client.greet()
            await client.send("session.update", session={"type": "realtime", "instructions": MARKER})
            await client.until("session.updated")
            await client.ask(MARKER)
    assert len(collector.turns()) >= 4
    assert not any(MARKER.encode() in raw for raw in collector.raw)


async def test_what_ends_a_turn_is_on_its_span_as_a_code_without_a_message(collector: Collector) -> None:
    async def broken(turn: Turn) -> AsyncGenerator[Event]:
        raise StageError("internal", "voice_broke", f"the message has {MARKER}")
        yield TextDone()

    async with running(Scripted(broken).pipeline) as server:
        assert await chat(server) == 500
    (turn,) = collector.turns()
    assert (turn.failed, turn.message, turn.attributes["error.type"]) == (True, "", "voice_broke")
    assert not any(MARKER.encode() in raw for raw in collector.raw)


async def test_a_turn_that_is_cancelled_is_no_error(collector: Collector) -> None:
    never = asyncio.Event()

    async def waits(turn: Turn) -> AsyncGenerator[Event]:
        await never.wait()
        yield TextDone()

    script = Scripted(waits)
    async with running(script.pipeline) as server:
        asking = asyncio.create_task(chat(server))
        await eventually(lambda: script.open == 1, "the turn runs")
        asking.cancel()
        await asyncio.wait([asking])
        await eventually(lambda: script.open == 0, "the turn has ended")
    (turn,) = collector.turns()
    assert (turn.failed, turn.attributes["gen_ai.response.finish_reasons"]) == (False, ["cancelled"])


async def test_the_trace_of_a_request_goes_on_and_does_not_leak_into_the_next_one(collector: Collector) -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        assert await chat(server, TRACEPARENT, n=2) == 200
        assert await chat(server) == 200  # on the same connection
        assert await chat(server, {"traceparent": "00-nonsense"}) == 200
    first, second, third, fourth = collector.turns()
    assert {(span.trace, span.parent) for span in (first, second)} == {(TRACE, PARENT)}
    assert {third.parent, fourth.parent} == {""}
    assert TRACE not in (third.trace, fourth.trace)


async def test_what_the_client_does_not_sample_is_not_traced(collector: Collector) -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        assert await chat(server, {"traceparent": f"00-{TRACE}-{PARENT}-00"}) == 200
    assert collector.spans == []


async def test_a_long_reply_has_as_many_spans_and_events_as_a_short_one(collector: Collector) -> None:
    async with running(ScriptedModel(["word "] * 500)) as server:
        assert await chat(server, max_tokens=400) == 200
    (turn,) = collector.turns()
    assert len(collector.spans) == 3
    assert len(turn.events) == 1


@pytest.mark.parametrize("status", [404, 500])
async def test_an_endpoint_that_refuses_loses_spans_and_nothing_else(
    status: int, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    collector.status = status
    async with running(ScriptedModel(["Hi"])) as server:
        for _ in range(5):
            assert await chat(server) == 200
    assert collector.spans == []
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_an_endpoint_that_is_away_delays_neither_replies_nor_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("server.tracing.export.PATIENCE", 0.5)
    async with silent() as url:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
        monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "16")
        monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
        async with asyncio.timeout(PATIENCE):
            async with running(ScriptedModel(["Hi"])) as server:
                for _ in range(30):
                    assert await chat(server) == 200
    assert "the last spans are lost: the endpoint for traces does not answer" in caplog.text


@asynccontextmanager
async def silent() -> AsyncIterator[str]:
    """An address that accepts connections, and never answers."""
    connected: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda reader, writer: connected.append(writer), "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for writer in connected:
            writer.close()


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"},
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"},
    ],
)
def test_without_an_endpoint_or_switched_off_nothing_traces(environment: dict[str, str]) -> None:
    assert tracing(environment) is None


def test_without_an_endpoint_the_sdk_is_not_even_imported() -> None:
    code = (
        "import sys, server.app; from server.tracing.switch import tracing; assert tracing({}) is None; "
        "print([name for name in sys.modules if name.startswith(('opentelemetry.sdk', 'server.tracing.export'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=100)
    assert done.stdout.strip() == "[]"


def test_an_endpoint_without_the_extra_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "server.tracing.export", None)
    assert tracing({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}) is None
    assert "pip install 'loquent[otel]'" in caplog.text


def test_a_variable_that_the_sdk_refuses_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "0")
    assert tracing() is None
    assert "turns are not traced: max_queue_size" in caplog.text


@pytest.mark.e2e
async def test_the_real_server_exports_the_spans_of_a_reply(loquent: str) -> None:
    async with collecting() as found:
        environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": found.url, "OTEL_SERVICE_NAME": "bot"}
        asked = json.dumps({"messages": [{"role": "user", "content": f"Say {MARKER}"}], "max_tokens": 8})

        def ask() -> None:
            with started([loquent], environment) as address:
                command = ["curl", "-sf", "-H", "Content-Type: application/json", "-d", asked]
                traced = ["-H", f"traceparent: {TRACEPARENT['traceparent']}"]
                subprocess.run([*command, *traced, f"{address}/v1/chat/completions"], check=True, timeout=100)

        await asyncio.to_thread(ask)
    (turn,) = found.turns()
    assert (turn.trace, turn.parent) == (TRACE, PARENT)
    assert {"prefill", "decode"} <= {span.name for span in found.children(turn)}
    assert found.resources[0]["service.name"] == "bot"
    assert not any(MARKER.encode() in raw for raw in found.raw)
