"""Kokoro's speakers, heard by Whisper, and a server that speaks with them."""

import asyncio
import re
import threading
import unicodedata

import pytest
from faster_whisper import WhisperModel
from openai import APIStatusError, OpenAI

from pipelines.downloads.catalogue import PACKAGES
from pipelines.downloads.fetch import install
from pipelines.downloads.progress import finish
from pipelines.events import Speech
from tests.e2e.test_speech import SENTENCES, errors, hear, resampled, speaking, words
from tests.support import started

pytestmark = pytest.mark.e2e

SPOKEN = {  # as people write them, and digits as words
    "es": (
        "¿Puede decirme dónde está la estación de tren?",
        "El médico dijo que tenía que descansar unos días.",
        "Me gustaría una taza de café con leche, por favor.",
    ),
    "fr": (
        "Le chat dort sur le canapé rouge.",
        "Le médecin lui a dit de se reposer quelques jours.",
        "Je voudrais une tasse de café avec du lait, s'il vous plaît.",
    ),
    "it": (
        "Il gatto dorme sul divano rosso.",
        "Il medico ha detto che deve riposare per qualche giorno.",
        "Vorrei una tazza di caffè con latte, per favore.",
    ),
    "pt": (
        "O médico disse que ela precisa descansar por alguns dias.",
        "Eu gostaria de uma xícara de café com leite, por favor.",
        "O gato dorme em cima do sofá vermelho.",
    ),
}
HINDI = "आज मौसम बहुत अच्छा है।"


def listener(name: str) -> WhisperModel:
    finish(install(PACKAGES[name], threading.Event()))
    return WhisperModel(str(PACKAGES[name].folder), device="cpu", compute_type="int8", cpu_threads=2)


@pytest.fixture(scope="module")
def base() -> WhisperModel:
    return listener("whisper-base")


@pytest.fixture(scope="module")
def tiny() -> WhisperModel:
    return listener("whisper-tiny.en")


def spelled(text: str) -> list[str]:
    return re.findall(r"[\w']+", unicodedata.normalize("NFC", text.lower()))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("speaker", ["af_heart", "am_michael", "bm_george"])
async def test_what_an_english_speaker_says_is_understood(tiny: WhisperModel, speaker: str) -> None:
    wrong = total = 0
    async with speaking(engine="kokoro") as stage:
        for sentence in SENTENCES[:10]:
            pcm = b"".join([delta.pcm async for delta in stage.read(sentence, Speech(speaker))])
            wrong += errors(words(sentence), words(hear(tiny, pcm)))
            total += len(words(sentence))
    assert wrong / total <= 0.05, f"{wrong} of {total} words"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("language", "speaker", "allowed"),
    [
        ("es", "ef_dora", 0.1),
        ("es", "em_alex", 0.1),
        ("fr", "ff_siwis", 0.1),
        ("it", "if_sara", 0.1),
        ("it", "im_nicola", 0.1),
        ("pt", "pf_dora", 0.15),
        ("pt", "pm_alex", 0.15),
    ],
)
async def test_what_a_speaker_of_another_language_says_is_understood(
    base: WhisperModel, language: str, speaker: str, allowed: float
) -> None:
    wrong = total = 0
    async with speaking(engine="kokoro") as stage:
        for sentence in SPOKEN[language]:
            pcm = b"".join([delta.pcm async for delta in stage.read(sentence, Speech(speaker))])
            wrong += errors(spelled(sentence), spelled(hear(base, pcm, language)))
            total += len(spelled(sentence))
    assert wrong / total <= allowed, f"{wrong} of {total} words"


@pytest.mark.timeout(300)
async def test_with_auto_each_sentence_of_a_reply_is_heard_in_its_own_language(base: WhisperModel) -> None:
    async with speaking(engine="kokoro", language="auto") as stage:
        for language in ("es", "fr", "it", "pt", "hi", "en"):
            sentence = HINDI if language == "hi" else SENTENCES[0] if language == "en" else SPOKEN[language][-1]
            pcm = b"".join([delta.pcm async for delta in stage.read(sentence, Speech("af_heart"))])
            assert base.transcribe(resampled(pcm))[1].language == language


@pytest.mark.timeout(600)
async def test_a_server_speaks_with_the_voice_that_a_client_names(loquent: str, tiny: WhisperModel) -> None:
    environment = {
        "LOQUENT__SPEECH__ENGINE": "kokoro",
        "LOQUENT__PIPELINE__STAGES": '["speech", "chat"]',
        "LOQUENT__MODELS__UNKNOWN": "error",
    }
    text = "The quick brown fox jumps over the lazy dog."
    with (
        started([loquent], environment) as address,
        OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client,
    ):

        def speak(voice: str) -> bytes:
            return client.audio.speech.create(model="tts-1", voice=voice, input=text, response_format="pcm").read()

        sounds = {voice: await asyncio.to_thread(speak, voice) for voice in ("nova", "af_nova", "onyx", "ash")}
        assert sounds["nova"] == sounds["af_nova"]
        assert len(set(sounds.values())) == 3
        for sound in sounds.values():
            assert errors(words(text), words(hear(tiny, sound))) <= 1
        with pytest.raises(APIStatusError, match="there are kokoro-82m, af_alloy") as refused:
            await asyncio.to_thread(speak, "nobody")
        assert (refused.value.status_code, refused.value.code) == (400, "voice_not_found")
