"""Home Assistant's own requests, through the adapter, to the real server with its bundled models."""

import io
import wave

import numpy as np
import pytest
from wyoming.asr import Transcribe
from wyoming.event import Event
from wyoming.handle import Handled
from wyoming.tts import Synthesize, SynthesizeVoice

from tests.clients.sounds import plain, spoken, words
from tests.clients.wyoming import home_assistant
from tests.clients.wyoming.support import adapting, exchange, kinds, sound

pytestmark = pytest.mark.e2e

QUESTION = "What is the capital of France?"


def alike(heard: str, said: str) -> bool:
    """Whether at most one word is another: no two sounds of a voice are the same, and processors round differently."""
    pairs = list(zip(heard.split(), said.split(), strict=False))
    return len(heard.split()) == len(said.split()) and sum(one != other for one, other in pairs) <= 1


async def test_the_server_is_described_within_the_second_that_home_assistant_waits(port: int) -> None:
    info = await home_assistant.load_info(port)
    (asr,), (tts,), (handle,), (wake,) = info.asr, info.tts, info.handle, info.wake
    assert {"en", "de", "fr"} <= set(asr.models[0].languages)
    assert [(voice.name, voice.languages) for voice in tts.voices] == [("en_US-joe-medium", ["en-US"])]
    assert (asr.supports_transcript_streaming, tts.supports_synthesize_streaming) == (True, True)
    assert (handle.supports_handled_streaming, handle.supports_home_control) == (True, False)
    assert [model.name for model in wake.models] == ["alexa", "hey_jarvis", "hey_mycroft", "okay_nabu"]
    assert [model.phrase for model in wake.models][1] == "Hey Jarvis"


async def test_a_command_is_heard(port: int, server_url: str) -> None:
    text = await home_assistant.hear(port, spoken(server_url, QUESTION))
    assert alike(plain(text or ""), "what is the capital of france")


async def test_silence_is_an_empty_transcript(port: int) -> None:
    assert await home_assistant.hear(port, bytes(64_000)) == ""
    assert await home_assistant.hear(port, b"") == ""


async def test_a_transcript_streams_and_comes_whole_before_the_streams_end(port: int, server_url: str) -> None:
    events = [Transcribe(language="en").event(), *sound(spoken(server_url, QUESTION))]
    found = await exchange(port, *events, last=("transcript-stop",))
    assert kinds(found) == ["transcript-start", "transcript-chunk", "transcript", "transcript-stop"]
    assert found[1].data["text"] == found[2].data["text"]


@pytest.mark.parametrize(("rate", "width", "channels"), [(8_000, 2, 1), (16_000, 1, 1), (44_100, 4, 2), (48_000, 3, 3)])
async def test_sound_of_any_format_is_heard(port: int, server_url: str, rate: int, width: int, channels: int) -> None:
    samples = np.frombuffer(spoken(server_url, QUESTION, rate), dtype="<i2").astype(np.int64)
    whole = (samples << 16 >> 32 - 8 * width).astype("<i4")
    mono = whole.view(np.uint8).reshape(-1, 4)[:, :width]
    pcm = np.repeat(mono[:, None, :], channels, axis=1).tobytes()
    found = await exchange(port, *sound(pcm, rate, width, channels, piece=4_001), last=("transcript",))
    heard = plain(found[-1].data["text"])
    assert alike(heard, "what is the capital of france")


async def test_a_text_is_spoken(port: int, server_url: str) -> None:
    file = await home_assistant.speak(port, QUESTION, "en_US-joe-medium")
    assert file is not None
    with wave.open(io.BytesIO(file)) as heard:
        assert alike(words(server_url, heard.readframes(heard.getnframes()), heard.getframerate()), plain(QUESTION))


async def test_text_that_streams_in_is_spoken_each_sentence_once(port: int, server_url: str) -> None:
    pieces = ["The first ligh", "t is on. Then", " the second one", " is off. And", " the door is open."]
    kinds, pcm = await home_assistant.speak_stream(port, pieces)
    assert kinds == ["audio-start", "audio-stop", "synthesize-stopped"]
    assert alike(words(server_url, pcm, 24_000), plain("".join(pieces)))


async def test_a_text_without_a_word_is_no_sound_and_no_error(port: int) -> None:
    found = await exchange(port, Synthesize("\N{GRINNING FACE}").event(), last=("audio-stop", "error"))
    assert kinds(found) == ["audio-start", "audio-stop"]


async def test_a_voice_is_chosen_by_its_language(port: int) -> None:
    asked = Synthesize("Yes.", voice=SynthesizeVoice(language="en")).event()
    found = await exchange(port, asked, last=("audio-stop", "error"))
    assert kinds(found)[-1] == "audio-stop"


async def test_a_question_is_answered(server_url: str) -> None:
    async with adapting(server_url, instructions="Answer in one short sentence.") as port:
        answer = await home_assistant.converse(port, QUESTION, conversation_id="01HX", device_id="kitchen")
    assert Handled.is_type(answer.type)
    assert "Paris" in answer.data["text"]
    assert answer.data["context"]["conversation_id"] == "01HX"


@pytest.mark.parametrize("text", ["Hey Jarvis, what is the time?", "Okay Nabu. Turn on the light."])
async def test_a_wake_word_is_detected(port: int, server_url: str, text: str) -> None:
    word = "hey_jarvis" if "Jarvis" in text else "okay_nabu"
    for asked in (word, None):
        detection = await home_assistant.detect(port, spoken(server_url, text), asked)
        assert detection is not None
        assert detection.name == word
        assert 500 < (detection.timestamp or 0) < 2_500


async def test_a_failure_ends_the_connection_so_that_home_assistant_does_not_wait() -> None:
    async with adapting("http://127.0.0.1:9") as port:
        assert await home_assistant.hear(port, bytes(32_000)) is None
        assert await home_assistant.speak(port, "Hello.") is None
        kinds, _ = await home_assistant.speak_stream(port, ["Hello there. ", "Bye."])
        assert kinds == ["audio-start", "error"]
        answer = await home_assistant.converse(port, "Hello.")
        assert (answer.type, "no server at" in answer.data["text"]) == ("not-handled", True)
        assert (await home_assistant.load_info(port)).tts == []


async def test_an_unknown_event_is_ignored(port: int) -> None:
    found = await exchange(port, Event("run-pipeline", {"a": 1}), Event("ping", {"text": "x"}), last=("pong",))
    assert (kinds(found), found[0].data) == (["pong"], {"text": "x"})
