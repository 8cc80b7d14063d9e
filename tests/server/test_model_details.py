"""What ``GET /v1/models`` says of a model besides its name: whether its texts can be gathered, whether it listens or
speaks, and with which voices."""

from typing import Any

from pipelines.speech.voices.languages import LanguageDetector
from tests.pipelines.listening.fakes import hearing_with
from tests.support import ScriptedModel, ScriptedVoice, running, scripted_pipeline, scripted_speech


async def details(**pipeline: Any) -> dict[str, Any]:
    """The details of each model that has some."""
    made = scripted_pipeline(ScriptedModel([]), **pipeline)
    async with running(made) as server, server.http.get(f"{server.url}/v1/models") as answer:
        return {each["id"]: each["loquent"] for each in (await answer.json())["data"] if "loquent" in each}


WRITES = {"smollm2-135m-instruct": {"gather": True}}


async def test_a_server_that_only_writes_says_that_its_texts_can_be_gathered() -> None:
    assert await details() == WRITES


async def test_the_recogniser_listens() -> None:
    assert await details(hearing=hearing_with()) == WRITES | {"whisper-base": {"endpoint": "transcriptions"}}


async def test_a_voice_without_speakers_is_one_and_speakers_are_one_each() -> None:
    alone = await details(speech=scripted_speech(ScriptedVoice()))
    assert alone["en_US-joe-medium"] == {
        "endpoint": "speech",
        "voices": [{"name": "en_US-joe-medium", "language": "en-us"}],
    }
    several = await details(speech=scripted_speech(ScriptedVoice(speakers=("anna", "otto"), language="de")))
    assert several["en_US-joe-medium"]["voices"] == [
        {"name": "anna", "language": "de"},
        {"name": "otto", "language": "de"},
    ]


def test_no_text_is_in_no_language_so_that_speakers_are_listed_with_their_own() -> None:
    assert LanguageDetector(["en", "fr", "es"]).language("") == ""
