"""Audio in over the websocket, with scripted models: the whole way, and what hostile clients send."""

import asyncio
import base64
import json
import random
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest

from pipelines.listening.audio import A_LAW, MU_LAW
from pipelines.listening.events import Encoding
from pipelines.listening.settings import ListeningSettings
from server.config import LimitSettings, Settings
from server.realtime.connection import Connection
from server.realtime.encoding import SoundEncoder
from tests.pipelines.listening.fakes import ScriptedRecogniser, encode, hearing_with, silence, tone
from tests.support import (
    PATIENCE,
    Client,
    Running,
    ScriptedModel,
    ScriptedVoice,
    eventually,
    running,
    scripted_pipeline,
    scripted_speech,
    sound_of,
    text_of,
)

TRANSCRIBED = {"transcription": {"model": "whisper-1"}}


@asynccontextmanager
async def hearing(
    recogniser: ScriptedRecogniser | None = None,
    model: ScriptedModel | None = None,
    *,
    voice: bool = False,
    limits: LimitSettings | None = None,
    **listening: Any,
) -> AsyncIterator[Running]:
    """A server that listens with scripted models."""
    own = ListeningSettings(**listening)
    pipeline = scripted_pipeline(
        model or ScriptedModel(["Par", "is."]),
        hearing=hearing_with(recogniser, settings=own),
        speech=scripted_speech(ScriptedVoice()) if voice else None,
    )
    async with running(pipeline, Settings(listening=own, limits=limits or LimitSettings())) as server:
        ears = server.backend.hearing
        assert ears is not None
        await pipeline.wait_until(lambda: ears.ready)
        yield server


@asynccontextmanager
async def session(server: Running, **listening: Any) -> AsyncIterator[Client]:
    async with server.client() as client:
        await client.greet()
        if listening:
            await client.send("session.update", session={"type": "realtime", "audio": {"input": listening}})
            await client.until("session.updated")
        yield client


async def send(client: Client, audio: bytes, piece: int = 9600) -> None:
    for begin in range(0, len(audio), piece):
        await append(client, base64.b64encode(audio[begin : begin + piece]).decode())


async def append(client: Client, audio: str) -> None:
    await client.send("input_audio_buffer.append", audio=audio)


async def test_what_is_said_is_answered_aloud() -> None:
    async with hearing(voice=True) as server, session(server, **TRANSCRIBED) as client:
        await send(client, silence(500) + tone(900) + silence(800))
        events = await client.until("response.done")
        assert sound_of(events)
        assert events[-1]["response"]["status"] == "completed"


async def test_a_conversation_goes_on_turn_by_turn() -> None:
    recogniser = ScriptedRecogniser()
    model = ScriptedModel(["Yes."])
    async with hearing(recogniser, model) as server, session(server) as client:
        for text in ("One", "Two", "Three"):
            recogniser.text = text
            await send(client, tone(600) + silence(700))
            assert text_of(await client.until("response.done")) == "Yes."
        assert model.prompts[-1].splitlines() == [
            "user: One",
            "assistant: Yes.",
            "user: Two",
            "assistant: Yes.",
            "user: Three",
        ]


async def test_an_order_to_stop_cancels_the_reply() -> None:
    gate = threading.Semaphore(3)
    recogniser = ScriptedRecogniser()
    async with hearing(recogniser, ScriptedModel(["word "] * 50, gate=gate)) as server, session(server) as client:
        await send(client, tone(600) + silence(700))
        await client.until("response.output_text.delta")
        recogniser.text = "Stop!"
        await send(client, silence(300) + tone(500) + silence(200))
        events = await client.until("response.done")
        gate.release(100)
        assert events[-1]["response"]["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
        kinds = [event["type"] for event in events]
        assert kinds.index("input_audio_buffer.speech_started") < kinds.index("response.done")


async def test_agreement_lets_the_reply_go_on() -> None:
    gate = threading.Semaphore(3)
    recogniser = ScriptedRecogniser()
    async with hearing(recogniser, ScriptedModel(["word "] * 50, gate=gate)) as server, session(server) as client:
        await send(client, tone(600) + silence(700))
        await client.until("response.output_text.delta")
        recogniser.text = "Mm-hm."
        await send(client, silence(300) + tone(500) + silence(900))
        ears = server.backend.hearing
        assert ears is not None
        await eventually(lambda: ears.drops["agreement"] == 1, "the agreement is heard")
        gate.release(100)
        events = await client.until("response.done")
        assert events[-1]["response"]["status"] == "completed"
        assert "input_audio_buffer.speech_started" not in [event["type"] for event in events]


async def test_two_sessions_hear_their_own_users() -> None:
    recogniser = ScriptedRecogniser(lambda seconds: "long" if seconds > 2 else "short")
    model = ScriptedModel(lambda prompt: [prompt.splitlines()[-1]])
    async with hearing(recogniser, model) as server, session(server) as one, session(server) as other:

        async def talk(client: Client, milliseconds: int) -> str:
            await send(client, tone(milliseconds) + silence(700))
            return text_of(await client.until("response.done"))

        said = list(await asyncio.gather(talk(one, 3000), talk(other, 500)))
        assert said == ["user: long", "user: short"]


@pytest.mark.parametrize("audio", ["!", "AAA", "A" * 1001, "\u00e9\u00e9\u00e9\u00e9", " AAAA"])
async def test_wrong_base64_is_an_error_and_the_session_goes_on(audio: str) -> None:
    async with hearing() as server, session(server) as client:
        await append(client, audio)
        (error,) = (event for event in await client.until("error") if event["type"] == "error")
        assert error["error"]["code"] == "invalid_value"
        await send(client, tone(600) + silence(700))
        assert text_of(await client.until("response.done")) == "Paris."


async def test_noise_bytes_of_odd_lengths_are_heard_as_well_as_anything() -> None:
    chance = random.Random(0)
    async with hearing(ScriptedRecogniser("")) as server, session(server) as client:
        for _ in range(200):
            await append(client, base64.b64encode(chance.randbytes(chance.randrange(1, 3001))).decode())
        await append(client, "")
        await send(client, b"\xff\x7f" * 24_000 + b"\x00\x80" * 24_000)
        await client.send("conversation.item.retrieve", item_id="none")
        await client.until("error")
        ears = server.backend.hearing
        assert ears is not None
        await eventually(lambda: ears.heard_seconds > 5, "all of it is heard")


async def test_an_hour_at_once_holds_the_client_back_and_takes_little_memory() -> None:
    async with hearing() as server, session(server) as client:
        (connection,) = server.backend.connections
        assert isinstance(connection, Connection)
        minute = base64.b64encode(bytes(48_000 * 15)).decode()
        for _ in range(240):
            await append(client, minute)
            ears = connection.live.ears
            listener = ears.listener if ears else None
            if listener is not None:
                assert listener.waiting_bytes < 4 << 20
                assert listener.recorded_bytes < 1 << 20
        await send(client, tone(600) + silence(700))
        assert text_of(await client.until("response.done")) == "Paris."


async def test_an_hour_without_a_commit_is_one_error() -> None:
    limits = LimitSettings(audio_seconds=20)
    async with hearing(limits=limits) as server, session(server, turn_detection=None) as client:
        piece = base64.b64encode(bytes(48_000 * 10)).decode()
        for _ in range(30):
            await append(client, piece)
        await client.send("input_audio_buffer.clear")
        events = await client.until("input_audio_buffer.cleared")
        assert [event["error"]["code"] for event in events if event["type"] == "error"] == ["input_audio_too_long"]
        await send(client, tone(600))
        await client.send("input_audio_buffer.commit")
        await client.send("response.create")
        assert text_of(await client.until("response.done")) == "Paris."


async def test_a_client_that_leaves_while_it_speaks_leaves_nothing() -> None:
    async with hearing(streams=1) as server:
        ears = server.backend.hearing
        assert ears is not None
        for _ in range(3):
            async with session(server) as client:
                await send(client, tone(600))
            await eventually(lambda: ears.capacity.held == 0, "its place is free")


async def test_more_sessions_than_are_listened_to_get_an_error_and_can_still_write() -> None:
    async with hearing(streams=1) as server, session(server) as one, session(server) as other:
        await send(one, tone(600) + silence(700))
        await one.until("response.done")
        await send(other, tone(600) + silence(700))
        (error,) = (event for event in await other.until("error") if event["type"] == "error")
        assert error["error"]["code"] == "server_overloaded"
        assert text_of(await other.ask("Hi")) == "Paris."


async def test_words_that_cannot_be_recognised_leave_the_session_alive() -> None:
    recogniser = ScriptedRecogniser(error=RuntimeError("what was said"))
    async with hearing(recogniser) as server, session(server, **TRANSCRIBED) as client:
        await send(client, tone(600) + silence(700))
        failed = await client.until("conversation.item.input_audio_transcription.failed")
        assert failed[-1]["error"]["code"] == "transcription_failed"
        recogniser.error = None
        await send(client, tone(600) + silence(700))
        assert text_of(await client.until("response.done")) == "Paris."


async def test_a_shutdown_in_the_middle_of_speech_ends_the_session() -> None:
    async with hearing() as server, session(server) as client:
        await send(client, tone(600))
        server.backend.live.drain()
        async with asyncio.timeout(PATIENCE):
            await client.socket.wait_closed()
        assert client.socket.close_code == 1001


async def test_a_handshake_for_transcription_is_taken() -> None:
    async with hearing() as server:
        url = server.url.replace("http", "ws") + "/v1/realtime?intent=transcription"
        async with server.http.ws_connect(url) as socket:
            created = json.loads((await socket.receive()).data)
            assert created["session"]["type"] == "transcription"


@pytest.mark.parametrize("kind", ["audio/pcmu", "audio/pcma"])
async def test_a_telephone_is_heard_and_answered_in_its_own_encoding(kind: Encoding) -> None:
    async with hearing(voice=True) as server, server.client() as client:
        await client.greet()
        audio = {"input": {"format": {"type": kind}}, "output": {"format": {"type": kind}}}
        await client.send("session.update", session={"type": "realtime", "audio": audio})
        updated = (await client.until("session.updated"))[-1]["session"]["audio"]
        assert (updated["input"]["format"], updated["output"]["format"]) == ({"type": kind}, {"type": kind})
        await send(client, encode(silence(400, 8000) + tone(900, 8000) + silence(800, 8000), kind), 160)
        events = await client.until("response.done")
        created = next(event for event in events if event["type"] == "response.created")
        assert created["response"]["audio"]["output"]["format"] == {"type": kind}
        told = sound_of(events)
        usage = events[-1]["response"]["usage"]["output_token_details"]["audio_tokens"]
        assert usage / 20 == pytest.approx(len(told) / 8000, abs=0.1)
        assert len(set(told)) > 1, "it is no silence"


def test_g711_stands_for_the_nearest_sample() -> None:
    """Against the tables that hearing reads, which the telephone's standard gives."""
    for kind in ("audio/pcmu", "audio/pcma"):
        encoder = SoundEncoder(kind)
        sound = tone(1000)
        coded = base64.b64decode(encoder(base64.b64encode(sound).decode(), last=True))
        table = (MU_LAW if kind == "audio/pcmu" else A_LAW).astype(float)
        heard = table[np.frombuffer(coded, np.uint8)]
        assert len(heard) == 8000
        said = np.frombuffer(tone(1000, 8000), "<i2").astype(float)
        middle = slice(500, 7500)
        assert np.abs(heard[middle] - said[middle]).mean() < 0.03 * np.abs(said).max()
