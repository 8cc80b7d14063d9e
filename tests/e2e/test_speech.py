"""Speech with the real voices, heard by Whisper, reached as users reach it."""

import asyncio
import json
import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import av
import numpy as np
import pytest
import soxr
from faster_whisper import WhisperModel
from numpy.typing import NDArray
from openai import AsyncOpenAI, OpenAI

from pipelines.downloads.catalogue import PACKAGES
from pipelines.downloads.fetch import install
from pipelines.downloads.progress import finish
from pipelines.events import AUDIO_RATE, Speech
from pipelines.speech.settings import SpeechSettings
from pipelines.speech.stage import SpeechStage
from pipelines.speech.voices import available as voices
from pipelines.speech.workers import Workers
from tests.e2e.test_main_job import sdk_turn
from tests.support import ScriptedModel, run, running, scripted_pipeline, sound_of, transcript_of

pytestmark = pytest.mark.e2e

SENTENCES = (
    "The library opens at nine in the morning and closes at six in the evening.",
    "Please put the cups back on the table when you are done.",
    "She walked along the river until the sun went down.",
    "My brother plays the piano every day after school.",
    "The weather will be warm and dry for the rest of the week.",
    "Could you tell me the way to the train station?",
    "We had bread and cheese for breakfast this morning.",
    "The old man told us a story about a ship in a storm.",
    "There are many stars in the sky tonight.",
    "He left his keys in the car and had to walk home.",
    "The children were playing in the garden behind the house.",
    "I would like a cup of coffee with milk, please.",
    "The meeting was moved to the second floor of the building.",
    "You can find fresh fruit at the market on Saturday.",
    "It took them three hours to climb the mountain.",
    "The doctor said that she should rest for a few days.",
    "Our dog likes to sleep in front of the fire.",
    "The bridge was closed because of the heavy rain.",
    "They moved to a small town near the coast last summer.",
    "This book is about the history of science and music.",
)


@pytest.fixture(scope="module")
def ears() -> WhisperModel:
    finish(install(PACKAGES["whisper-tiny.en"], threading.Event()))
    return WhisperModel(str(PACKAGES["whisper-tiny.en"].folder), device="cpu", compute_type="int8", cpu_threads=2)


def hear(ears: WhisperModel, pcm: bytes, language: str = "en") -> str:
    """What Whisper understands of this sound."""
    segments, _ = ears.transcribe(resampled(pcm), language=language, beam_size=5)
    return " ".join(segment.text for segment in segments)


def resampled(pcm: bytes) -> NDArray[np.float32]:
    """The sound as Whisper takes it."""
    sound = np.frombuffer(pcm, dtype="<i2").astype(np.float32) / 32768
    return np.asarray(soxr.resample(sound, AUDIO_RATE, 16_000), dtype=np.float32)


def words(text: str) -> list[str]:
    spelled = {"9": "nine", "6": "six", "3": "three", "2nd": "second"}
    return [spelled.get(word, word) for word in re.findall(r"[a-z0-9']+", text.lower())]


def errors(said: list[str], heard: list[str]) -> int:
    """Words to change, add or leave out."""
    row = list(range(len(heard) + 1))
    for number, word in enumerate(said, start=1):
        before, row[0] = row[0], number
        for place, other in enumerate(heard, start=1):
            before, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, before + (word != other))
    return row[-1]


@asynccontextmanager
async def speaking(**settings: Any) -> AsyncIterator[SpeechStage]:
    """A speech stage with a real voice."""
    chosen = SpeechSettings(**settings)
    stage = SpeechStage(Workers(finish(voices.prepare(chosen, threading.Event()))), chosen)
    await stage.start()
    try:
        yield stage
    finally:
        await stage.close()


@pytest.mark.parametrize(("engine", "allowed"), [("piper", 0.05), ("coqui", 0.1)])
async def test_what_a_voice_says_is_understood(ears: WhisperModel, engine: str, allowed: float) -> None:
    wrong = total = 0
    async with asyncio.timeout(110), speaking(engine=engine) as stage:
        for sentence in SENTENCES:
            pcm = b"".join([delta.pcm async for delta in stage.read(sentence, Speech())])
            heard = hear(ears, pcm)
            wrong += errors(words(sentence), words(heard))
            total += len(words(sentence))
    assert wrong / total <= allowed, f"{wrong} of {total} words"


async def test_a_converted_voice_sounds_like_the_original() -> None:
    """Without noise both are the same function."""

    async def sound(**settings: Any) -> NDArray[np.float32]:
        async with speaking(**settings) as stage:
            voice: Any = stage.workers.voice
            if settings["engine"] == "coqui":
                voice._model.inference_noise_scale = voice._model.inference_noise_scale_dp = 0.0
            pieces = [piece for piece in voice.say("It is 3.5 dollars, or 1,234 in all.", "", 1.0, lambda: 2) if piece]
            return np.concatenate([piece.audio for piece in pieces])

    piper = await sound(engine="piper", noise=0.0, rhythm=0.0)
    coqui = await sound(engine="coqui")
    assert len(piper) == len(coqui)
    assert np.abs(piper - coqui).max() < 1e-3


async def test_a_converted_voice_is_a_folder_that_coqui_loads(loquent: str, tmp_path: Path, ears: WhisperModel) -> None:
    folder = tmp_path / "joe-coqui"
    made = run(loquent, "models", "convert", "en_US-joe-medium", str(folder), seconds=110)
    assert made.returncode == 0, made.stderr
    assert json.loads((folder / "config.json").read_text())["model"] == "vits"
    again = run(loquent, "models", "convert", "en_US-joe-medium", str(folder))
    assert (again.returncode, "already" in again.stderr) == (1, True)
    async with speaking(engine="coqui", voice=str(folder)) as stage:
        pcm = b"".join([delta.pcm async for delta in stage.read(SENTENCES[3], Speech())])
    assert errors(words(SENTENCES[3]), words(hear(ears, pcm))) <= 1


async def test_the_sdk_hears_a_reply_and_cuts_it(server_url: str, ears: WhisperModel) -> None:
    async with (
        asyncio.timeout(90),
        AsyncOpenAI(base_url=f"{server_url}/v1", api_key="none") as client,
        client.realtime.connect(model="gpt-realtime") as connection,
    ):
        await connection.session.update(
            session={"type": "realtime", "output_modalities": ["audio"], "audio": {"output": {"voice": "marin"}}}
        )
        events = await sdk_turn(connection, "Name the capital of France.", max_output_tokens=20)
        transcript = transcript_of(events)
        assert "Paris" in transcript
        assert "Paris" in hear(ears, sound_of(events))
        usage = events[-1]["response"]["usage"]["output_token_details"]
        assert usage["audio_tokens"] == -(-len(sound_of(events)) * 20 // 48_000)
        item_id = events[-1]["response"]["output"][0]["id"]
        await connection.conversation.item.truncate(item_id=item_id, content_index=0, audio_end_ms=600)
        await connection.conversation.item.retrieve(item_id=item_id)
        truncated, retrieved = await connection.recv(), await connection.recv()
        assert (truncated.type, retrieved.type) == ("conversation.item.truncated", "conversation.item.retrieved")
        kept = retrieved.item.content[0].transcript  # type: ignore[union-attr]
        assert transcript.startswith(kept or "")
        assert 0 < len(kept or "") < len(transcript)


def played(file: Path) -> bytes:
    """What a player makes of a sound file, in 16-bit samples."""
    with av.open(file) as opened:
        frames = [frame.to_ndarray().reshape(-1) for frame in opened.decode(audio=0)]
        assert opened.streams.audio[0].rate == AUDIO_RATE
    return (np.concatenate(frames).clip(-1, 1) * 32767).astype(np.int16).tobytes()


def test_the_sdk_writes_a_file_that_plays(server_url: str, tmp_path: Path, ears: WhisperModel) -> None:
    file = tmp_path / "speech.mp3"
    text = "The quick brown fox jumps over the lazy dog."
    with (
        OpenAI(base_url=f"{server_url}/v1", api_key="none") as client,
        client.audio.speech.with_streaming_response.create(model="tts-1", voice="alloy", input=text) as answer,
    ):
        answer.stream_to_file(file)
    assert errors(words(text), words(hear(ears, played(file)))) <= 1


async def test_what_is_cut_at_a_time_is_what_pipers_alignments_say_was_not_heard() -> None:
    """Against the phonemes' lengths from Piper's own library, for the same sentence without noise."""
    from piper import PiperVoice, SynthesisConfig

    text = "We walked along the river, and then we had some bread in the park."
    library = PiperVoice.load(PACKAGES["en_US-joe-medium"].path, include_alignments=True)
    (chunk,) = library.synthesize(
        text, SynthesisConfig(noise_scale=0, noise_w_scale=0, normalize_audio=False), include_alignments=True
    )
    assert chunk.phoneme_alignments is not None
    ends: list[float] = []  # of what lies between spaces, in seconds
    at = 0
    for alignment in chunk.phoneme_alignments:
        if alignment.phoneme == " ":
            ends.append(at / chunk.sample_rate)
        at += alignment.num_samples
    ends.append(at / chunk.sample_rate)
    async with speaking(noise=0.0, rhythm=0.0) as stage:
        # The first clause is spoken for itself, so the sentence is kept whole here.
        deltas = [delta async for delta in stage.read("Hm.\n" + text, Speech())]
    heard = [word for delta in deltas for word in delta.heard]
    begin = heard[0].samples / AUDIO_RATE + 0.15
    assert len(heard) == len(text.split()) + 1
    joined = len(text.split()) - len(ends)  # words that espeak-ng says as one
    assert 0 <= joined <= 3
    total = sum(delta.samples for delta in deltas) / AUDIO_RATE
    for step in range(1, 40):
        time = begin + (total - begin) * step / 40
        ours = sum(word.samples <= time * AUDIO_RATE for word in heard) - 1
        theirs = sum(end <= time - begin for end in ends)
        # Each word that is said together with the next one may have ended earlier than the two of them.
        assert -1 <= ours - theirs <= 1 + joined


HOSTILE = {
    "no full stop": "word " * 1500,
    "no space": "abcdefgh" * 400,
    "emoji": "😀🎉👩\u200d👩\u200d👧" * 100,
    "tags": "<speak><break time='9s'/></speak>" * 50 + " hello",
    "NULs": "a\x00b " * 50,
    "right to left": "\u202eمرحبا بالعالم שלום\u202c hello",
    "another language": "今日は良い天気です。",
    "brackets": "[[" * 100 + "hello]] ]]",
    "punctuation": "?!.,;:" * 200,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
async def test_hostile_text_is_spoken_or_refused_and_the_voice_goes_on(server_url: str, text: str) -> None:
    async with asyncio.timeout(100), aiohttp.ClientSession() as http:

        async def post(given: str) -> tuple[int, bytes]:
            body = {"input": given, "response_format": "pcm"}
            async with http.post(f"{server_url}/v1/audio/speech", json=body) as answer:
                return answer.status, await answer.content.read(48_000)  # a second of it is enough

        status, data = await post(text)
        if status == 400:
            assert json.loads(data)["error"]["code"] == "nothing_to_say"
        else:
            assert status == 200
            assert data
        assert (await post("Still here."))[0] == 200


CRASHING = {  # espeak-ng writes past its buffers here, and ended the server's process
    "A.": "A." * 100,
    "a.": "a." * 200,
    "x.y.": "x.y." * 60,
    "U.S.A.": "U.S.A." * 60,
    "é.": "é." * 100,
    "dashes between": "U.S.A.-" * 60,
    "endings": "'s" * 150,
}


@pytest.mark.parametrize("text", CRASHING.values(), ids=CRASHING.keys())
async def test_a_text_that_crashed_espeak_is_spoken_whole_and_so_is_the_next(server_url: str, text: str) -> None:
    async with asyncio.timeout(100), aiohttp.ClientSession() as http:

        async def seconds(given: str) -> float:
            body = {"input": given, "response_format": "pcm"}
            async with http.post(f"{server_url}/v1/audio/speech", json=body) as answer:
                assert answer.status == 200
                return len(await answer.read()) / 2 / AUDIO_RATE

        assert await seconds(text) > 0.04 * sum(map(str.isalpha, text))
        assert await seconds("Still here.") > 0.5


async def test_a_spoken_reply_that_repeats_a_letter_ends_and_the_session_goes_on() -> None:
    chosen = SpeechSettings(ahead=60.0)
    stage = SpeechStage(Workers(finish(voices.prepare(chosen, threading.Event()))), chosen)
    model = ScriptedModel(lambda prompt: ["A."] * 150 if prompt.endswith("Loop") else ["Fine."])
    async with running(scripted_pipeline(model, speech=stage)) as server, server.client() as client:
        await client.greet()
        for asked, said in (("Loop", "A." * 150), ("Go on", "Fine.")):
            await client.say(asked)
            await client.send("response.create", response={"output_modalities": ["audio"]})
            events = await client.until("response.done")
            assert events[-1]["response"]["status"] == "completed"
            assert transcript_of(events) == said
            assert len(sound_of(events)) / 48_000 > 0.04 * sum(map(str.isalpha, said))
