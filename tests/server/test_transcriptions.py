"""``/v1/audio/transcriptions`` and ``…/translations`` over HTTP, with a scripted recogniser and real decoding."""

import asyncio
import io
import json
import random
import struct
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import av
import numpy as np
import openai
import pytest

from pipelines.listening.settings import ListeningSettings
from server.config import LimitSettings, Settings
from tests.pipelines.listening.fakes import ScriptedRecogniser, hearing_with, tone
from tests.support import Running, ScriptedModel, running, scripted_pipeline

TEXT = "What is the capital of France?"


@asynccontextmanager
async def hearing(
    recogniser: ScriptedRecogniser | None = None, settings: Settings | None = None, **listening: Any
) -> AsyncIterator[Running]:
    """A server that listens with a scripted recogniser."""
    own = ListeningSettings(**listening)
    pipeline = scripted_pipeline(ScriptedModel(["Hi"]), hearing=hearing_with(recogniser, settings=own))
    async with running(pipeline, settings or Settings(listening=own)) as server:
        await server.backend.pipeline.wait_until(
            lambda: server.backend.hearing is not None and server.backend.hearing.ready
        )
        yield server


def wav(seconds: float = 1.0, rate: int = 16_000, channels: int = 1) -> bytes:
    """A WAV file with a tone in it."""
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(tone(int(seconds * 1000), rate * channels))
    return target.getvalue()


def encoded(format: str, codec: str) -> bytes:
    """A second of a tone in another format."""
    target = io.BytesIO()
    with av.open(target, "w", format=format) as container:
        stream = container.add_stream(codec, rate=48_000, layout="mono")
        assert isinstance(stream, av.AudioStream)
        frame = av.AudioFrame.from_ndarray(
            np.frombuffer(tone(1000, 48_000), "<i2").reshape(1, -1), format="s16", layout="mono"
        )
        frame.sample_rate = 48_000
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return target.getvalue()


async def post(server: Running, file: bytes | None, path: str = "transcriptions", **fields: Any) -> tuple[int, str]:
    form = aiohttp.FormData(default_to_multipart=True)
    if file is not None:
        form.add_field("file", file, filename="speech.wav")
    for name, value in fields.items():
        for each in value if isinstance(value, list) else [value]:
            form.add_field(name, str(each))
    async with server.http.post(f"{server.url}/v1/audio/{path}", data=form) as response:
        return response.status, await response.text()


async def test_the_openai_client_gets_the_words_of_a_file() -> None:
    async with hearing() as server, openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        made = await client.audio.transcriptions.create(model="whisper-1", file=("speech.wav", wav()))
        assert made.text == TEXT
        assert made.usage is not None
        assert made.usage.type == "duration"


async def test_the_openai_client_gets_segments_and_words_with_their_times() -> None:
    async with hearing() as server, openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        made = await client.audio.transcriptions.create(
            model="whisper-1",
            file=("speech.wav", wav(12)),
            response_format="verbose_json",
            timestamp_granularities=["word", "segment"],
        )
        assert (made.language, made.duration) == ("en", 12)
        assert made.segments is not None
        assert [(segment.id, segment.start, segment.end) for segment in made.segments] == [(0, 0, 10), (1, 10, 20)]
        assert made.words is not None
        assert made.words[0].word == "What"


async def test_the_openai_client_gets_the_words_as_they_are_recognised() -> None:
    async with hearing() as server, openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
        stream = await client.audio.transcriptions.create(model="whisper-1", file=("speech.wav", wav(25)), stream=True)
        events = [event async for event in stream]
        assert [event.type for event in events] == ["transcript.text.delta"] * 3 + ["transcript.text.done"]
        assert "".join(event.delta for event in events if event.type == "transcript.text.delta") == events[-1].text  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        ("text", f"{TEXT}\n"),
        ("srt", f"1\n00:00:00,000 --> 00:00:10,000\n{TEXT}\n"),
        ("vtt", f"WEBVTT\n\n00:00:00.000 --> 00:00:10.000\n{TEXT}\n"),
    ],
)
async def test_the_words_come_as_text_and_subtitles(format: str, expected: str) -> None:
    async with hearing() as server:
        assert await post(server, wav(), response_format=format) == (200, expected)


@pytest.mark.parametrize(
    ("format", "codec"),
    [("mp3", "mp3"), ("flac", "flac"), ("ogg", "libopus"), ("webm", "libopus"), ("ipod", "aac")],
)
async def test_files_of_every_format_are_read(format: str, codec: str) -> None:
    recogniser = ScriptedRecogniser()
    async with hearing(recogniser) as server:
        assert (await post(server, encoded(format, codec)))[0] == 200
        assert recogniser.asked[0][0] == pytest.approx(1.0, abs=0.1)


async def test_stereo_and_other_rates_are_read() -> None:
    recogniser = ScriptedRecogniser()
    async with hearing(recogniser) as server:
        assert (await post(server, wav(2, 44_100, 2)))[0] == 200
        assert recogniser.asked[0][0] == pytest.approx(2.0, abs=0.01)


async def test_language_prompt_and_temperature_reach_the_recogniser() -> None:
    recogniser = ScriptedRecogniser()
    async with hearing(recogniser) as server:
        await post(server, wav(), "transcriptions", language="de-DE", prompt="Loquent", temperature="0.5")
        await post(server, wav(), "translations")
        first, second = recogniser.read_as
        assert (first.language, first.prompt, first.temperature, first.translate) == ("de", "Loquent", 0.5, False)
        assert second.translate


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"response_format": "docx"}, "unsupported_value", "response_format"),
        ({"temperature": "hot"}, "invalid_value", "temperature"),
        ({"temperature": "nan"}, "invalid_value", "temperature"),
        ({"timestamp_granularities[]": "word"}, "invalid_value", "timestamp_granularities"),
        ({"timestamp_granularities[]": "letter"}, "unsupported_value", "timestamp_granularities"),
        ({"lang": "de"}, "unknown_parameter", "lang"),
        ({"prompt": "x" * 20_000}, "request_too_large", "prompt"),
    ],
)
async def test_a_wrong_field_is_named(fields: dict[str, str], code: str, param: str) -> None:
    async with hearing() as server:
        status, body = await post(server, wav(), **fields)
        error = json.loads(body)["error"]
        assert (status in (400, 413), error["code"], error["param"]) == (True, code, param)


async def test_a_form_without_a_file_and_a_body_that_is_no_form_are_errors() -> None:
    async with hearing() as server:
        status, body = await post(server, None, model="whisper-1")
        assert (status, json.loads(body)["error"]["param"]) == (400, "file")
        async with server.http.post(f"{server.url}/v1/audio/transcriptions", json={"file": "x"}) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (400, "invalid_form")


async def test_what_is_no_sound_is_an_error() -> None:
    chance = random.Random(0)
    hostile = [
        b"",
        b"hello",
        chance.randbytes(10_000),
        b"RIFF" + struct.pack("<I", 2**32 - 1) + b"WAVEfmt ",
        wav()[:40],
        b"ID3" + bytes(1000),
        b"\x1aE\xdf\xa3" + chance.randbytes(5000),
        b"fLaC" + chance.randbytes(5000),
        b"OggS" + chance.randbytes(5000),
        b"\x00\x00\x00\x18ftypM4A " + chance.randbytes(5000),
    ]
    async with hearing() as server:
        for file in hostile:
            status, body = await post(server, file)
            assert (status, json.loads(body)["error"]["code"]) == (400, "invalid_audio"), file[:20]


async def test_mutated_files_give_words_or_an_error_and_never_end_the_server() -> None:
    chance = random.Random(1)
    files = [wav(0.3), encoded("mp3", "mp3"), encoded("webm", "libopus"), encoded("flac", "flac")]
    async with hearing() as server:
        for number in range(24):
            file = bytearray(files[number % len(files)])
            for _ in range(chance.randint(1, 30)):
                file[chance.randrange(len(file))] = chance.randrange(256)
            status, _ = await post(server, bytes(file))
            assert status in (200, 400)


async def test_sound_that_is_too_long_is_refused() -> None:
    async with hearing(file_seconds=5) as server:
        status, body = await post(server, wav(6))
        assert (status, json.loads(body)["error"]["code"]) == (400, "audio_too_long")


async def test_a_file_that_is_too_large_is_refused_before_it_is_read() -> None:
    settings = Settings(limits=LimitSettings(upload_bytes=20_000), listening=ListeningSettings())
    async with hearing(settings=settings) as server:
        status, body = await post(server, wav(5))
        assert (status, json.loads(body)["error"]["code"]) == (413, "request_too_large")


async def test_a_server_that_does_not_listen_says_so() -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        status, body = await post(server, wav())
        assert (status, json.loads(body)["error"]["code"]) == (404, "listening_not_available")


async def test_a_recogniser_that_fails_is_an_error_and_the_next_request_is_answered() -> None:
    recogniser = ScriptedRecogniser(error=RuntimeError("what was said"))
    async with hearing(recogniser) as server:
        status, body = await post(server, wav())
        assert (status, json.loads(body)["error"]["code"]) == (500, "transcription_failed")
        recogniser.error = None
        assert (await post(server, wav()))[0] == 200


async def test_a_client_that_leaves_frees_its_place() -> None:
    async with hearing(streams=1) as server:
        task = asyncio.create_task(post(server, wav(60)))
        await asyncio.sleep(0.05)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        for _ in range(200):
            status, _ = await post(server, wav())
            if status == 200:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("its place was never freed")
