"""Written forms and speeds with the real voice, heard by Whisper."""

import asyncio

import numpy as np
import pytest
from faster_whisper import WhisperModel

from bench.written import CORPUS, Form, read, say, words
from pipelines.events import AUDIO_RATE, Speech
from pipelines.speech.stage import SpeechStage
from pipelines.speech.voices.piper import PiperVoice
from tests.e2e.test_speech import SENTENCES, ears, errors, hear, speaking
from tests.e2e.test_speech import words as plain

__all__ = ["ears"]  # a fixture

pytestmark = pytest.mark.e2e

FORMS = (
    "It costs $150-$250 a night.", "Tickets are $10-15 each.", "It costs $20/month.", "$1 million and $1million",
    "That is $3.2 million.", "They raised $5M and €3bn and £20k.", "It costs 99¢.", "He makes $25/hr.",
    "Pay $9.99/mo now.", "₹500 for a ride", "5€ or 10 €", "The rent is $900 per month.", "from $1M to $2M",
    "On 3/4 we ship.", "25/12/2024 is Christmas.", "On 3 March 2021", "Aug. 5, 1999", "11/24/2026 is the date.",
    "Music of the 1990s and the '90s.", "Wed., Jan. 8", "Jan. 3rd, Feb. 5 and Sept. 9", "at 6 a.m. The sun rises.",
    "Call 1-800-555-0199 now.", "Call (212) 555-0100 today.", "0800 123 456", "the code 4711",
    "1/2 cup, 3/4 full, 2/3", "7/10 of users", "5 mi, 6 ft, 7 lb, 8 oz, 9 in", "It takes 2-3 mins or 5 hrs.",
    "Wait 30s, 5min, 2h.", "10 Mb vs 10 MB, 100 Mbps", "1 km away", "5° north, 20 ℃, 30 °F", "6'2\" and 180 lbs",
    "minus -5, 5 - 3 = 2, 2+2=4", "8 / 2 = 4", "√16 = 4", "a <= b, c >= d", "World War I",
    "Mt. Everest, Ft. Worth, Gen. Lee, Lt. Dan", "St. Mary, 5th St., St. Patrick's Day", "Rev. King and Sen. Smith",
    "Super Bowl LVIII", '[docs](https://a.b/c "Title here") now', "<http://www.example.org> is it.", "+3% or -2%",
    "10 Downing St.", "No. 5 is alive.", "It took 5 min. Then we left.",
    "Here is [information](https://en.wikipedia.org/wiki/Capstan_(nautical)) about ships.",
)  # fmt: skip
SPEEDS = (0.25, 0.5, 0.8, 1.25, 2.0, 3.0, 4.0)


async def pcm(stage: SpeechStage, text: str, speed: float = 1.0) -> bytes:
    return b"".join([delta.pcm async for delta in stage.read(text, Speech("", speed))])


def misheard(form: Form, heard: str) -> int:
    """Words that differ from what people say of it; what Whisper writes in figures is written out first."""
    got = [word for word in words(say(heard, "en-us")) if word != "//"]
    return min(errors([word for word in reading if word != "//"], got) for reading in form.spoken)


@pytest.mark.timeout(320)
async def test_whisper_hears_what_people_say_of_written_forms(ears: WhisperModel) -> None:
    known = {form.written: form for form in read(CORPUS)}
    assert len(FORMS) >= 50
    wrong = []
    async with asyncio.timeout(300), speaking() as stage:
        for written in FORMS:
            heard = hear(ears, await pcm(stage, written) + bytes(AUDIO_RATE))
            if misheard(known[written], heard):
                wrong.append(f"{written}: {heard}")
    assert len(FORMS) - len(wrong) >= 40, wrong


@pytest.mark.parametrize(
    ("engine", "speeds"), [("piper", SPEEDS), ("coqui", (0.5, 2.0)), ("kokoro", (0.25, 0.5, 2.0, 4.0))]
)
async def test_sound_has_the_length_that_its_speed_says(engine: str, speeds: tuple[float, ...]) -> None:
    text = f"{SENTENCES[0]} {SENTENCES[11]}"
    async with asyncio.timeout(110), speaking(engine=engine) as stage:
        usual = np.mean([len(await pcm(stage, text)) for _ in range(3)])
        lengths = [len(await pcm(stage, text, speed)) for speed in speeds]
    assert lengths == sorted(lengths, reverse=True)
    assert [length * speed / usual for length, speed in zip(lengths, speeds, strict=True)] == pytest.approx(
        [1.0] * len(speeds), rel=0.1
    )


@pytest.mark.parametrize(("speed", "allowed"), [(0.5, 0.1), (2.0, 0.15)])
async def test_fast_and_slow_speech_is_understood(ears: WhisperModel, speed: float, allowed: float) -> None:
    wrong = total = 0
    async with asyncio.timeout(110), speaking() as stage:
        for sentence in SENTENCES[:10]:
            heard = hear(ears, await pcm(stage, sentence, speed))
            wrong += errors(plain(sentence), plain(heard))
            total += len(plain(sentence))
    assert wrong / total <= allowed, f"{wrong} of {total} words"


async def test_the_pitch_does_not_follow_the_speed() -> None:
    """The period of the voice, where the sound is most like itself a little later."""
    async with asyncio.timeout(110), speaking(noise=0.0, rhythm=0.0) as stage:
        periods = [_period(await pcm(stage, " ".join(SENTENCES[:4]), speed)) for speed in (1.0, 0.25, 0.5, 2.0)]
    assert periods[1:] == pytest.approx([periods[0]] * 3, rel=0.05)


def _period(sound: bytes) -> float:
    samples = np.frombuffer(sound, dtype="<i2").astype(np.float64)
    frame, shortest, longest = AUDIO_RATE // 20, AUDIO_RATE // 300, AUDIO_RATE // 60
    found = []
    for begin in range(0, len(samples) - frame - longest, frame // 2):
        part = samples[begin : begin + frame]
        if np.sqrt(np.mean(part**2)) < 1000:
            continue
        likeness = [
            float(part @ samples[begin + lag : begin + lag + frame])
            / (np.linalg.norm(part) * np.linalg.norm(samples[begin + lag : begin + lag + frame]) + 1)
            for lag in range(shortest, longest)
        ]
        if max(likeness) > 0.8:
            found.append(shortest + int(np.argmax(likeness)))
    return float(np.median(found))


@pytest.mark.parametrize("speed", [0.25, 0.7, 4.0])
async def test_the_ends_of_words_follow_the_speed(speed: float) -> None:
    async with asyncio.timeout(110), speaking(noise=0.0, rhythm=0.0) as stage:
        voice = stage.workers.voice
        assert isinstance(voice, PiperVoice)
        usual, other = (
            [piece for piece in voice.say(SENTENCES[1], "", each, lambda: 2) if piece is not None]
            for each in (1.0, speed)
        )
    shares = [
        [word.sample / sum(len(piece.audio) for piece in pieces) for word in pieces[0].words]
        for pieces in (usual, other)
    ]
    assert len(shares[0]) == len(SENTENCES[1].split())
    assert shares[1] == pytest.approx(shares[0], abs=0.08)
