"""The names that each endpoint takes, through the real server with every stage."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pipelines.events import StageError
from pipelines.image.weights import Drawer
from pipelines.speech.settings import SpeechSettings
from server.config import ModelsSettings, Settings
from server.names import ModelNames, VoiceNames
from tests.support import (
    Running,
    ScriptedModel,
    ScriptedVoice,
    drawing,
    eventually,
    running,
    screening,
    scripted_pipeline,
    scripted_speech,
)

BODIES: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": [{"role": "user", "content": "Hi"}]},
    "embeddings": {"input": "cat"},
    "moderations": {"input": "cat"},
    "images/generations": {"prompt": "a happy cat"},
    "audio/speech": {"input": "Hi.", "response_format": "pcm"},
}


@asynccontextmanager
async def strict(minilm: Path, drawer: Drawer) -> AsyncIterator[Running]:
    """A server with every stage that knows no model by a wrong name."""
    pipeline = scripted_pipeline(
        ScriptedModel(["Hi."]),
        speech=scripted_speech(ScriptedVoice()),
        anomaly=screening(),
        image=drawing(minilm, drawer),
    )
    async with running(pipeline, Settings(models=ModelsSettings(unknown="error"))) as server:
        await eventually(lambda: all(part.ready() for part in pipeline.parts), "every stage is ready")
        yield server


async def test_each_endpoint_takes_its_own_names_and_no_others(minilm: Path, drawer: Drawer) -> None:
    taken = {
        "chat/completions": ("smollm2-135m-instruct", "gpt-4.1-nano", "gpt-5", "gpt-6-mini", "gpt-4o-transcribe"),
        "embeddings": ("all-minilm-l6-v2", "text-embedding-3-small", "text-embedding-ada-002", "default"),
        "moderations": ("loquent-anomaly", "omni-moderation-latest"),
        "images/generations": ("loquent-mood", "gpt-image-1.5", "dall-e-3"),
        "audio/speech": ("en_US-joe-medium", "tts-1-hd"),
    }
    async with strict(minilm, drawer) as server:
        speech = BODIES["audio/speech"] | {"model": "gpt-4o-mini-tts-2025-12-15"}
        async with server.http.post(f"{server.url}/v1/audio/speech", json=speech) as answer:
            assert answer.status == 200
        for path, names in taken.items():
            for other, given in taken.items():
                for name in names:
                    body = BODIES[other] | {"model": name}
                    if other != path and name == "default":
                        continue
                    async with server.http.post(f"{server.url}/v1/{other}", json=body) as answer:
                        assert answer.status == (200 if other == path else 404), (other, name)
                        if other != path:
                            message = (await answer.json())["error"]["message"]
                            assert given[0] in message, "the error names what this endpoint takes"


async def test_every_model_is_listed_by_its_own_name(minilm: Path, drawer: Drawer) -> None:
    async with strict(minilm, drawer) as server:
        async with server.http.get(f"{server.url}/v1/models") as answer:
            names = [entry["id"] for entry in (await answer.json())["data"]]
        own = ["smollm2-135m-instruct", "en_US-joe-medium", "loquent-anomaly", drawer.words.name, "all-minilm-l6-v2"]
        assert names[:5] == own
        assert not [name for name in names if "*" in name]
        assert len(set(names)) == len(names)
        for name in (*own, "gpt-4.1-nano", "text-embedding-3-large"):
            async with server.http.get(f"{server.url}/v1/models/{name}") as answer:
                assert (answer.status, (await answer.json())["id"]) == (200, name)
        async with server.http.get(f"{server.url}/v1/models/nobody") as answer:
            assert "all-minilm-l6-v2" in (await answer.json())["error"]["message"]


@pytest.mark.parametrize(
    ("asked", "known"), [("gpt-5-mini", True), ("gpt-5", True), ("gpt-4.1", False), ("xgpt-5", False), ("tiny", True)]
)
def test_a_star_stands_for_any_characters(asked: str, known: bool) -> None:
    assert ModelNames("tiny", ("gpt-5*",), "error").known(asked) == known


@pytest.mark.parametrize("unknown", ["default", "error"])
def test_a_voice_is_called_by_its_speakers_and_by_the_names_that_stand_for_them(unknown: Any) -> None:
    speech = SpeechSettings()
    names = VoiceNames("kokoro-82m", ("af_nova", "am_onyx"), speech.aliases, unknown, speech.voices)
    asked = ("af_nova", "nova", "onyx", "am_onyx", "kokoro-82m", "", None, "shimmer")  # the last one's is not there
    assert [names.resolve(name) for name in asked] == ["af_nova", "af_nova", "am_onyx", "am_onyx", "", "", "", ""]
    if unknown == "error":
        with pytest.raises(StageError, match="no voice 'nobody' here; there are kokoro-82m, af_nova, am_onyx"):
            names.resolve("nobody")


async def test_with_a_voice_of_one_speaker_every_name_means_that_one() -> None:
    voice = ScriptedVoice()
    async with running(scripted_pipeline(ScriptedModel([]), speech=scripted_speech(voice))) as server:
        for name in ("alloy", "nova", "verse"):
            body = BODIES["audio/speech"] | {"voice": name}
            async with server.http.post(f"{server.url}/v1/audio/speech", json=body) as answer:
                assert (answer.status, len(await answer.read()) > 0) == (200, True)
    assert [speaker for _, speaker, _ in voice.said] == [""] * 3


async def test_each_session_has_the_speaker_that_its_voice_names() -> None:
    voice = ScriptedVoice(speakers=("af_alloy", "am_michael"))
    async with running(scripted_pipeline(ScriptedModel(["Hi."]), speech=scripted_speech(voice))) as server:
        for name in ("alloy", "ash", "am_michael", "marin"):
            async with server.client() as client:
                await client.greet()
                output = {"type": "realtime", "audio": {"output": {"voice": name}}}
                await client.send("session.update", session=output)
                await client.until("session.updated")
                await client.say("Hi")
                await client.send("response.create", response={"output_modalities": ["audio"]})
                await client.until("response.done")
    assert [speaker for _, speaker, _ in voice.said] == ["af_alloy", "am_michael", "am_michael", ""]
