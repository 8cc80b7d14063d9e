"""Spoken replies through the real server: the websocket, HTTP, and clients that interrupt or misbehave."""

import asyncio
import base64
import io
import json
import threading
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from pipelines.build import Pipeline
from pipelines.events import AudioDelta, Speech, StageError
from pipelines.speech.formats import Encoder
from pipelines.speech.stage import SpeechStage
from pipelines.speech.workers import Workers
from server.backend import Backend
from server.config import ModelsSettings, ServerSettings, SessionsSettings, Settings
from tests.support import (
    SPOKEN_END,
    Client,
    Running,
    ScriptedModel,
    ScriptedVoice,
    eventually,
    realtime,
    running,
    scripted_pipeline,
    scripted_speech,
    sound_of,
    stage_of,
    transcript_of,
)

WORDS = ["One ", "two ", "three. ", "Four ", "five ", "six.\n", "```\n", "code\n", "```\n"]
AUDIO = {"output_modalities": ["audio"]}


def speaking(voice: ScriptedVoice | None = None, model: ScriptedModel | None = None, **speech: Any) -> Pipeline:
    return scripted_pipeline(model or ScriptedModel(WORDS), speech=scripted_speech(voice or ScriptedVoice(), **speech))


async def ask_aloud(client: Client, text: str = "Hi") -> list[dict[str, Any]]:
    await client.say(text)
    await client.send("response.create", response=AUDIO)
    return await client.until("response.done")


async def test_an_audio_turn_comes_in_the_protocols_order() -> None:
    async with running(speaking()) as server, server.client() as client:
        await client.greet()
        events = await ask_aloud(client)
    kinds = [event["type"] for event in events]
    assert kinds[:5] == [
        "response.created",
        "rate_limits.updated",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
    ]
    assert kinds[-6:] == SPOKEN_END
    assert set(kinds[5:-6]) == {"response.output_audio_transcript.delta", "response.output_audio.delta"}
    assert transcript_of(events) == "".join(WORDS) == events[-5]["transcript"]
    seconds = len(sound_of(events)) / 48_000
    assert seconds == pytest.approx(6 * 0.3 + 0.15, abs=0.01)
    usage = events[-1]["response"]["usage"]["output_token_details"]
    assert usage == {"text_tokens": len(WORDS), "audio_tokens": 39}


async def test_a_session_that_speaks_still_answers_in_text_when_asked() -> None:
    async with running(speaking()) as server, server.client() as client:
        await client.greet()
        await client.send("session.update", session=AUDIO | {"audio": {"output": {"voice": "alloy"}}})
        await client.expect("session.updated")
        assert sound_of(await client.ask("Hi"))
        await client.send("response.create", response={"output_modalities": ["text"]})
        events = await client.until("response.done")
        assert "response.output_text.done" in [event["type"] for event in events]
        assert not sound_of(events)


async def test_truncation_reaches_the_models_context() -> None:
    model = ScriptedModel(WORDS[:6])
    async with running(speaking(model=model)) as server, server.client() as client:
        await client.greet()
        events = await ask_aloud(client, "Count")
        item_id = events[-1]["response"]["output"][0]["id"]
        await client.send("conversation.item.truncate", item_id=item_id, content_index=0, audio_end_ms=700)
        (truncated,) = await client.expect("conversation.item.truncated")
        assert truncated["audio_end_ms"] == 700
        await client.ask("And now?")
    assert model.prompts[-1] == "user: Count\nassistant: One two\nuser: And now?"


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 40), st.booleans())
def test_a_cancel_at_any_point_lets_no_sound_follow(events_seen: int, twice: bool) -> None:
    async def main() -> None:
        pipeline = speaking(ScriptedVoice(word=0.5))
        async with asyncio.timeout(30), running(pipeline) as server, server.client() as client:
            await client.greet()
            await client.say("Hi")
            await client.send("response.create", response=AUDIO)
            for _ in range(events_seen):
                if (await client.receive())["type"] == "response.done":
                    break
            for _ in range(1 + twice):
                await client.send("response.cancel")
            await client.send("input_audio_buffer.clear")
            await client.until("input_audio_buffer.cleared")
            kinds = [event["type"] for event in client.seen]
            assert kinds.count("response.done") == 1
            behind = kinds[kinds.index("response.done") + 1 :]
            assert not [kind for kind in behind if kind.startswith("response.")]
            done = next(event for event in client.seen if event["type"] == "response.done")
            told = [part["transcript"] for item in done["response"]["output"] for part in item["content"]]
            assert "".join(told) == transcript_of(client.seen)
            speech = stage_of(pipeline, SpeechStage)
            await eventually(lambda: (speech.speaking, speech.workers.waiting) == (0, 0), "nobody speaks")
            assert transcript_of(await ask_aloud(client, "Again")) == "".join(WORDS)

    asyncio.run(main())


async def test_a_client_that_vanishes_while_it_is_spoken_to_leaves_nothing_behind() -> None:
    pipeline = speaking(ScriptedVoice(), ScriptedModel(["word "] * 200), paced=True)
    async with running(pipeline, Settings(sessions=SessionsSettings(linger=0))) as server:
        for _ in range(5):
            async with server.client() as client:
                await client.greet()
                await client.say("Hi")
                await client.send("response.create", response=AUDIO)
                await client.until("response.output_audio.delta")
                client.socket.transport.abort()
        speech = stage_of(pipeline, SpeechStage)
        await eventually(lambda: not server.backend.connections, "every connection is gone")
        await eventually(lambda: (speech.speaking, speech.workers.waiting) == (0, 0), "nobody speaks")
        await eventually(lambda: server.engine.running == 0, "the model is free")


async def test_many_are_spoken_to_at_once_and_each_hears_its_own() -> None:
    model = ScriptedModel(lambda prompt: [word + " " for word in prompt.rpartition("user: ")[2].split()])

    async def talk(server: Running, name: str) -> None:
        async with server.client() as client:
            await client.greet()
            words = " ".join(f"{name}w{number}" for number in range(12))
            assert transcript_of(await ask_aloud(client, words)).split() == words.split()

    async with running(speaking(model=model)) as server:
        await asyncio.gather(*(talk(server, f"c{number}") for number in range(8)))


async def test_spoken_replies_wait_for_the_voice_and_are_told_how_many_are_ahead() -> None:
    gate = threading.Semaphore(0)
    pipeline = speaking(ScriptedVoice(gate=gate), streams=2)
    async with running(pipeline) as server, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(server.client()) for _ in range(12)]
        for client in clients:
            await client.greet()
            await client.say("Hi")
        told: list[int] = []
        speech = stage_of(pipeline, SpeechStage)
        for client in clients:
            await client.send("response.create", response=AUDIO)
            (created,) = await client.expect("response.created")
            told.append(((created.get("loquent") or {}).get("queue") or {"ahead": 0})["ahead"])
            await eventually(lambda: speech.speaking + speech.capacity.waiting == len(told), "it is spoken, or waits")
        assert told == [0, 0, *range(1, 11)]
        assert server.engine.running + server.engine.queued <= 2, "what waits for the voice holds nothing of the model"
        leaver = clients.pop(5)
        await leaver.send("response.cancel")
        assert (await leaver.until("response.done"))[-1]["response"]["status"] == "cancelled"
        await eventually(lambda: speech.capacity.waiting == 9, "its reply waits no more")
        gate.release(1000)
        for client in clients:
            assert (await client.until("response.done"))[-1]["response"]["status"] == "completed"
        await eventually(lambda: speech.speaking == 0, "all have been spoken")


async def test_a_reply_that_too_many_wait_before_is_refused_clearly() -> None:
    gate = threading.Semaphore(0)
    pipeline = speaking(ScriptedVoice(gate=gate), streams=1, waiting=0)
    async with running(pipeline) as server, server.client() as one, server.client() as two:
        await one.greet()
        await two.greet()
        await one.say("Hi")
        await one.send("response.create", response=AUDIO)
        speech = stage_of(pipeline, SpeechStage)
        await eventually(lambda: speech.speaking == 1, "the only place is taken")
        events = await ask_aloud(two)
        assert events[-1]["response"]["status_details"]["error"]["code"] == "server_overloaded"
        body = {"input": "Hi.", "response_format": "pcm"}
        async with server.http.post(f"{server.url}/v1/audio/speech", json=body) as refused:
            assert (refused.status, refused.headers["Retry-After"]) == (503, "2")
        gate.release(100)
        await one.until("response.done")


async def test_a_voice_that_crashes_fails_its_response_and_the_session_goes_on() -> None:
    model = ScriptedModel(lambda prompt: ["Please crash. "] if prompt.endswith("crash") else ["Fine."])
    async with running(speaking(model=model)) as server, server.client() as client:
        await client.greet()
        events = await ask_aloud(client, "crash")
        assert events[-1]["response"]["status_details"]["error"]["code"] == "speech_failed"
        assert transcript_of(await ask_aloud(client, "go on")) == "Fine."


async def test_without_a_voice_replies_come_as_text_and_the_server_is_ready() -> None:
    settings = scripted_speech(ScriptedVoice())._settings
    silent = SpeechStage(
        Workers(ScriptedVoice), settings, missing="No voice is installed: pip install 'loquent[voice]'."
    )
    async with running(scripted_pipeline(ScriptedModel(["Hi."]), speech=silent)) as server, server.client() as client:
        assert server.backend.ready
        await client.greet()
        await client.send("session.update", session=AUDIO)
        (updated,) = await client.expect("session.updated")
        assert updated["session"]["output_modalities"] == ["text"]
        assert "No voice" in updated["loquent"]["warnings"][0]
        async with server.http.post(f"{server.url}/v1/audio/speech", json={"input": "Hi."}) as answer:
            error = (await answer.json())["error"]
            assert (answer.status, error["code"]) == (503, "no_voice")
            assert "pip install" in error["message"]


async def test_a_shutdown_lets_a_spoken_reply_finish() -> None:
    gate = threading.Semaphore(1)
    pipeline = speaking(ScriptedVoice(gate=gate))
    async with asyncio.timeout(30), running(pipeline) as server:
        client = Client(await connect(realtime(server.url), max_size=None))
        await client.greet()
        await client.say("Hi")
        await client.send("response.create", response=AUDIO)
        await client.until("response.output_audio.delta")
        backend = server.backend

        async def release() -> None:
            await eventually(lambda: backend.draining, "the server drains")
            gate.release(100)

        async def listen() -> None:
            await client.until("response.done")
            with pytest.raises(ConnectionClosed) as closed:
                await client.socket.recv()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1001

        finishing = [asyncio.create_task(release()), asyncio.create_task(listen())]
    await asyncio.gather(*finishing)
    assert client.seen[-1]["response"]["status"] == "completed"
    assert transcript_of(client.seen) == "".join(WORDS)
    assert len(sound_of(client.seen)) / 48_000 == pytest.approx(6 * 0.3 + 0.15, abs=0.01)


async def test_a_shutdown_cuts_speech_that_does_not_end_by_the_deadline() -> None:
    gate = threading.Semaphore(1)
    pipeline = speaking(ScriptedVoice(gate=gate))
    async with asyncio.timeout(30), running(pipeline, Settings(server=ServerSettings(drain=0.2))) as server:
        client = Client(await connect(realtime(server.url), max_size=None))
        await client.greet()
        await client.say("Hi")
        await client.send("response.create", response=AUDIO)
        await client.until("response.output_audio.delta")
        backend = server.backend
        opening = asyncio.create_task(_open_when_cut(backend, gate))
    await opening
    with pytest.raises(ConnectionClosed):
        while True:
            await client.receive()
    assert [event["type"] for event in client.seen].count("response.done") <= 1


async def _open_when_cut(backend: Backend, gate: threading.Semaphore) -> None:
    """Let the voice's thread go once its reply was told that it ends, so that the test does not wait for it."""
    speech = stage_of(backend.pipeline, SpeechStage)
    await eventually(lambda: backend.draining and not speech.workers.waiting, "its sentence is dropped")
    gate.release(100)


async def test_metrics_tell_of_speech() -> None:
    async with running(speaking()) as server, server.client() as client:
        await client.greet()
        await ask_aloud(client)
        async with server.http.get(f"{server.url}/metrics") as answer:
            lines = dict(line.rsplit(" ", 1) for line in (await answer.text()).splitlines() if line[0] != "#")
    assert float(lines["loquent_time_to_first_audio_seconds_count"]) == 1
    assert float(lines["loquent_time_to_first_token_seconds_count"]) == 1
    assert float(lines["loquent_speech_audio_seconds_total"]) == pytest.approx(1.8)
    assert float(lines["loquent_speech_real_time_factor"]) > 0
    assert float(lines["loquent_speech_speaking"]) == float(lines["loquent_speech_queue"]) == 0
    assert "loquent_speech_underruns_total" in lines
    assert float(lines['loquent_turns_total{outcome="stop"}']) == 1


# POST /v1/audio/speech


async def post(server: Running, **body: Any) -> tuple[int, dict[str, str], bytes]:
    async with server.http.post(f"{server.url}/v1/audio/speech", json=body) as answer:
        return answer.status, dict(answer.headers), await answer.read()


def seconds_of(data: bytes) -> float:
    with av.open(io.BytesIO(data), mode="r") as file:
        return sum(frame.samples / frame.sample_rate for frame in file.decode(audio=0))


@pytest.mark.parametrize(
    ("asked", "kind"),
    [
        (None, "audio/mpeg"),
        ("mp3", "audio/mpeg"),
        ("opus", "audio/ogg"),
        ("flac", "audio/flac"),
        ("wav", "audio/wav"),
        ("pcm", "audio/pcm"),
    ],
)
async def test_a_text_is_spoken_in_the_format_asked_for(asked: str | None, kind: str) -> None:
    async with running(speaking()) as server:
        body = {"input": "One two three. Four.", "model": "tts-1", "voice": "alloy"}
        status, headers, data = await post(server, **body, **({"response_format": asked} if asked else {}))
    assert (status, headers["Content-Type"]) == (200, kind)
    expected = 4 * 0.3 + 0.15
    assert (len(data) / 48_000 if asked == "pcm" else seconds_of(data)) == pytest.approx(expected, abs=0.12)


async def test_sound_is_sent_while_the_rest_is_still_computed() -> None:
    gate = threading.Semaphore(2)
    async with running(speaking(ScriptedVoice(gate=gate))) as server:
        body = {"input": "One two three four.", "response_format": "pcm"}
        async with server.http.post(f"{server.url}/v1/audio/speech", json=body) as answer:
            first = await answer.content.readany()
            assert first
            gate.release(10)
            rest = await answer.read()
    assert np.frombuffer(first + rest, dtype="<i2").size == pytest.approx(4 * 0.3 * 24_000, abs=100)


async def test_events_carry_the_sound_where_asked_for() -> None:
    async with running(speaking()) as server:
        _, headers, data = await post(server, input="One two.", response_format="pcm", stream_format="sse")
    assert headers["Content-Type"].startswith("text/event-stream")
    events = [json.loads(line.removeprefix("data: ")) for line in data.decode().split("\n\n") if line]
    assert [event["type"] for event in events[-2:]] == ["speech.audio.delta", "speech.audio.done"]
    pcm = b"".join(base64.b64decode(event["audio"]) for event in events[:-1])
    assert len(pcm) / 48_000 == pytest.approx(0.6, abs=0.01)
    assert events[-1]["usage"]["output_tokens"] == 12


async def test_speed_and_voice_reach_the_voice() -> None:
    voice = ScriptedVoice(speakers=("ann",))
    async with running(speaking(voice)) as server:
        assert (await post(server, input="Hi.", voice={"id": "ann"}, speed=2, response_format="pcm"))[0] == 200
        assert (await post(server, input="Hi.", voice="nova", response_format="pcm"))[0] == 200
    assert voice.said == [("Hi.", "ann", 2.0), ("Hi.", "", 1.0)]


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({}, 400, "missing_required_parameter", "input"),
        ({"input": ""}, 400, "invalid_value", "input"),
        ({"input": "😀🎉"}, 400, "nothing_to_say", "input"),
        ({"input": "你好，世界。"}, 400, "nothing_to_say", "input"),
        ({"input": "\x00\x00"}, 400, "nothing_to_say", "input"),
        ({"input": "Hi.", "speed": 9}, 400, "invalid_value", "speed"),
        ({"input": "Hi.", "response_format": "aac"}, 400, "unsupported_value", "response_format"),
        ({"input": "Hi.", "response_format": "midi"}, 400, "invalid_value", "response_format"),
        ({"input": "Hi.", "voise": "x"}, 400, "unknown_parameter", "voise"),
        ({"input": "x" * 70_000}, 413, "request_too_large", None),
        ({"input": "crash"}, 500, "speech_failed", None),
    ],
)
async def test_bad_requests_are_told_what_is_wrong(body: dict[str, Any], status: int, code: str, param: str) -> None:
    async with running(speaking()) as server:
        answered, _, data = await post(server, **body)
        error = json.loads(data)["error"]
        assert (answered, error["code"], error["param"]) == (status, code, param)
        assert (await post(server, input="Still here.", response_format="pcm"))[0] == 200


async def test_unknown_voices_and_models_are_errors_where_configured() -> None:
    async with running(speaking(), Settings(models=ModelsSettings(unknown="error"))) as server:
        for body, status, code in (
            ({"input": "Hi.", "voice": "nobody"}, 400, "voice_not_found"),
            ({"input": "Hi.", "model": "nothing"}, 404, "model_not_found"),
        ):
            answered, _, data = await post(server, **body)
            assert (answered, json.loads(data)["error"]["code"]) == (status, code)
        assert (await post(server, input="Hi.", voice="alloy", model="tts-1"))[0] == 200


async def test_a_voice_that_fails_amid_a_text_cuts_the_sound_or_says_so() -> None:
    text = "One two three four five six seven. Now crash."
    async with running(speaking()) as server:
        _, _, data = await post(server, input=text, response_format="pcm", stream_format="sse")
        last = json.loads(data.decode().strip().split("\n\n")[-1].removeprefix("data: "))
        assert last["error"]["code"] == "speech_failed"
        with pytest.raises(Exception, match=r"(?i)payload|closed|disconnected|transfer"):
            await post(server, input=text, response_format="pcm")
        assert (await post(server, input="Still here.", response_format="pcm"))[0] == 200


@pytest.mark.parametrize("framing", ["audio", "sse"])
async def test_a_fault_amid_the_sound_is_no_second_answer(framing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = 0

    def fails(self: Encoder, pcm: bytes) -> bytes:
        nonlocal encoded
        encoded += 1
        if encoded > 2:
            raise RuntimeError("a fault of the encoder")
        return pcm

    monkeypatch.setattr(Encoder, "encode", fails)
    async with running(speaking()) as server:
        body = {"input": "One two three four five.", "response_format": "pcm", "stream_format": framing}
        if framing == "sse":
            _, _, data = await post(server, **body)
            assert json.loads(data.decode().strip().split("data: ")[-1])["error"]["code"] == "internal_error"
        else:
            with pytest.raises(aiohttp.ClientError):
                await post(server, **body)
        assert b"HTTP/1.1" not in (b"" if framing == "audio" else data)


async def test_one_key_among_several_may_not_have_the_whole_voice() -> None:
    gate = threading.Semaphore(0)
    stage = scripted_speech(ScriptedVoice(gate=gate), streams=4, waiting=2)
    await stage.start()

    async def read(tenant: str) -> list[AudioDelta]:
        return [delta async for delta in stage.read("Hi.", Speech(), tenant)]

    held = [asyncio.ensure_future(read("ann")) for _ in range(3)]
    await eventually(lambda: stage.speaking == 3, "one key has its share")
    held.append(asyncio.ensure_future(read("ann")))
    await eventually(lambda: stage.capacity.waiting == 1, "and waits for more, though there is one")
    with pytest.raises(StageError) as refused:
        await read("ann")
    assert refused.value.code == "too_many_requests"
    held.append(asyncio.ensure_future(read("bob")))
    await eventually(lambda: stage.speaking == 4, "another key has a place")
    gate.release(10)
    await asyncio.gather(*held)
    await stage.close()
    assert stage.speaking == 0


async def test_a_listener_who_leaves_frees_the_voice() -> None:
    gate = threading.Semaphore(1)
    pipeline = speaking(ScriptedVoice(gate=gate))
    async with running(pipeline) as server:
        body = {"input": "One two three four. " * 50, "response_format": "pcm"}
        async with server.http.post(f"{server.url}/v1/audio/speech", json=body) as answer:
            await answer.content.readany()
            answer.close()
        speech = stage_of(pipeline, SpeechStage)
        gate.release(10)
        await eventually(lambda: speech.speaking == 0, "its place is free")
        await eventually(lambda: server.backend.requests == 0, "no request is in flight")
