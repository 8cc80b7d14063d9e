"""Speech in, through the real server with its bundled models: heard, answered, and spoken."""

import asyncio
import base64
import io
import wave
from pathlib import Path

import aiohttp
import numpy as np
import pytest
from websockets.asyncio.client import connect

from tests.support import START_SECONDS, Client, realtime, run, sound_of, started

pytestmark = pytest.mark.e2e

PIECE = 4800  # bytes of a client's audio event: 0.1 s
BRIEF = "Answer in one short sentence."
QUESTION = "What is the capital of France?"
SENTENCE = "The library opens at nine in the morning."
SILENCE = bytes(48_000)  # a second
TAKES = 5  # of a voice, no two of which are the same; the odd one is hard to understand


async def speak(http: aiohttp.ClientSession, url: str, text: str, format: str = "pcm") -> bytes:
    """The text in the bundled voice."""
    async with http.post(f"{url}/v1/audio/speech", json={"input": text, "response_format": format}) as response:
        assert response.status == 200
        return await response.read()


async def send(client: Client, audio: bytes) -> None:
    for begin in range(0, len(audio), PIECE):
        await client.send("input_audio_buffer.append", audio=base64.b64encode(audio[begin : begin + PIECE]).decode())


async def words(http: aiohttp.ClientSession, url: str, file: bytes) -> str:
    form = aiohttp.FormData()
    form.add_field("file", file, filename="speech.wav")
    async with http.post(f"{url}/v1/audio/transcriptions", data=form) as response:
        assert response.status == 200, await response.text()
        text: str = (await response.json())["text"]
        return text


def plain(text: str) -> str:
    return "".join(sign for sign in text.lower() if sign.isalnum() or sign.isspace()).strip()


async def understood(http: aiohttp.ClientSession, url: str, text: str, format: str = "pcm") -> bytes:
    """A take of the text in which the server's ears hear its words."""
    for _ in range(TAKES):
        take = await speak(http, url, text, format)
        heard = await words(http, url, wave_of(take) if format == "pcm" else take)
        if plain(heard).replace("9", "nine") == plain(text):
            return take
    raise AssertionError(f"no take is understood: {heard}")


async def test_a_spoken_question_is_heard_answered_and_spoken(server_url: str) -> None:
    async with aiohttp.ClientSession() as http, connect(realtime(server_url), max_size=None) as socket:
        client = Client(socket)
        await client.greet()
        await client.send(
            "session.update",
            session={
                "type": "realtime",
                "instructions": BRIEF,
                "audio": {"input": {"transcription": {"model": "whisper-1"}}},
            },
        )
        await send(client, SILENCE + await understood(http, server_url, QUESTION) + SILENCE + SILENCE)
        events = await client.until("response.done")
        kinds = [event["type"] for event in events]
        order = [
            "input_audio_buffer.speech_started",
            "input_audio_buffer.speech_stopped",
            "input_audio_buffer.committed",
            "conversation.item.input_audio_transcription.completed",
            "response.created",
            "response.output_audio.delta",
        ]
        assert sorted(order, key=kinds.index) == order
        heard = next(event for event in events if event["type"].endswith("transcription.completed"))
        assert plain(heard["transcript"]) == plain(QUESTION)
        said = next(event for event in events if event["type"] == "response.output_audio_transcript.done")
        assert "Paris" in said["transcript"]
        assert "paris" in plain(await words(http, server_url, wave_of(sound_of(events))))


async def test_push_to_talk_is_answered(server_url: str) -> None:
    async with aiohttp.ClientSession() as http, connect(realtime(server_url), max_size=None) as socket:
        client = Client(socket)
        await client.greet()
        await client.send(
            "session.update",
            session={
                "type": "realtime",
                "instructions": BRIEF,
                "output_modalities": ["text"],
                "audio": {"input": {"turn_detection": None, "transcription": {"model": "whisper-1"}}},
            },
        )
        await send(client, await understood(http, server_url, QUESTION))
        await client.send("input_audio_buffer.commit")
        await client.send("response.create")
        events = await client.until("response.done")
        kinds = [event["type"] for event in events]
        assert kinds.index("response.created") < kinds.index("response.output_text.delta")
        text = next(event for event in events if event["type"] == "response.output_text.done")["text"]
        assert "Paris" in text


@pytest.mark.parametrize("format", ["wav", "mp3", "flac", "opus"])
async def test_what_the_server_says_it_hears_in_every_format(server_url: str, format: str) -> None:
    async with aiohttp.ClientSession() as http:
        assert await understood(http, server_url, SENTENCE, format)


async def test_words_and_segments_have_times(server_url: str) -> None:
    async with aiohttp.ClientSession() as http:
        form = aiohttp.FormData()
        form.add_field("file", await understood(http, server_url, SENTENCE, "wav"), filename="speech.wav")
        form.add_field("response_format", "verbose_json")
        for each in ("word", "segment"):
            form.add_field("timestamp_granularities[]", each)
        async with http.post(f"{server_url}/v1/audio/transcriptions", data=form) as response:
            told = await response.json()
    times = [time for word in told["words"] for time in (word["start"], word["end"])]
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= told["duration"]
    assert [plain(word["word"]).replace("9", "nine") for word in told["words"]] == plain(SENTENCE).split()
    assert told["segments"][0]["start"] <= times[0]
    assert told["segments"][-1]["end"] >= times[-1] - 0.5


async def test_a_transcription_session_reports_words_and_answers_nothing(server_url: str) -> None:
    async with aiohttp.ClientSession() as http:
        asked = await understood(http, server_url, QUESTION)
        async with connect(f"{realtime(server_url)}?intent=transcription", max_size=None) as socket:
            client = Client(socket)
            created = await client.until("session.created")
            assert created[-1]["session"]["type"] == "transcription"
            await client.send(
                "session.update",
                session={"type": "transcription", "audio": {"input": {"transcription": {"model": "whisper-1"}}}},
            )
            await send(client, SILENCE + asked + SILENCE)
            events = await client.until("conversation.item.input_audio_transcription.completed")
            deltas = [event["delta"] for event in events if event["type"].endswith("transcription.delta")]
            assert "".join(deltas) == events[-1]["transcript"]
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await client.until("response.created")


async def test_silence_and_noise_are_no_turn(server_url: str) -> None:
    chance = np.random.default_rng(0)
    noise = (chance.normal(0, 0.02, 24_000 * 10) * 32767).astype("<i2").tobytes()
    hum = (0.1 * 32767 * np.sin(2 * np.pi * 50 * np.arange(24_000 * 10) / 24_000)).astype("<i2").tobytes()
    async with connect(realtime(server_url), max_size=None) as socket:
        client = Client(socket)
        await client.greet()
        await send(client, SILENCE * 10 + noise + hum)
        await client.send("conversation.item.retrieve", item_id="none")  # its error comes behind all that was heard
        events = await client.until("error")
        assert not [event for event in events if event["type"].startswith("input_audio_buffer")]


def wave_of(pcm: bytes) -> bytes:
    """A WAV file of PCM with 24,000 samples a second."""
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24_000)
        file.writeframes(pcm)
    return target.getvalue()


@pytest.mark.timeout(2 * START_SECONDS)
async def test_a_server_listens_with_the_model_that_is_configured(loquent: str, server_url: str) -> None:
    environment = {
        "LOQUENT__PIPELINE__STAGES": '["chat"]',
        "LOQUENT__LISTENING__MODEL": "whisper-tiny.en",
        "LOQUENT__LISTENING__THREADS": "2",
    }
    with started([loquent], environment) as address:
        async with aiohttp.ClientSession() as http:
            file = await understood(http, server_url, SENTENCE, "flac")
            assert plain(await words(http, address, file)).replace("9", "nine") == plain(SENTENCE)
            form = aiohttp.FormData()
            form.add_field("file", file, filename="speech.flac")
            async with http.post(f"{address}/v1/audio/translations", data=form) as response:
                assert (response.status, (await response.json())["error"]["code"]) == (400, "unsupported_value")


@pytest.mark.timeout(2 * START_SECONDS)
async def test_a_server_without_ears_says_so_to_each_client(loquent: str, tmp_path: Path) -> None:
    file = tmp_path / "deaf.toml"
    file.write_text('[listening]\nmodel = ""\n[pipeline]\nstages = ["chat"]\n')
    with started([loquent], {"LOQUENT_CONFIG": str(file)}) as address:
        async with aiohttp.ClientSession() as http:
            form = aiohttp.FormData()
            form.add_field("file", b"RIFF", filename="speech.wav")
            async with http.post(f"{address}/v1/audio/transcriptions", data=form) as response:
                assert (response.status, (await response.json())["error"]["code"]) == (404, "listening_not_available")
        async with connect(realtime(address), max_size=None) as socket:
            client = Client(socket)
            await client.greet()
            await send(client, SILENCE)
            assert (await client.until("error"))[-1]["error"]["code"] == "input_audio_not_supported"


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"LOQUENT__LISTENING__MODEL": "/nowhere"}, "[listening] model is the folder"),
        ({"LOQUENT__LISTENING__MODEL": "whisper-huge"}, "whisper-base"),
        ({"LOQUENT__LISTENING__THREADS": "0"}, "listening.threads"),
        ({"LOQUENT__LISTENING__INTERUPT_MS": "5"}, "interrupt_ms"),
        ({"LOQUENT__PIPELINE__STAGES": '["listening", "chat"]'}, "there is no stage 'listening'"),
    ],
)
def test_a_configuration_that_is_wrong_says_what_is_right(loquent: str, environment: dict[str, str], says: str) -> None:
    outcome = run(loquent, "serve", env=environment | {"LOQUENT__SERVER__PORT": "0"})
    assert outcome.returncode in (1, 2), outcome.stdout
    assert says in outcome.stderr
    assert "Traceback" not in outcome.stderr
