"""The speech stage: text in step with its sound, paced, shared among many, and closed at any point."""

import asyncio
import re
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.events import (
    AUDIO_RATE,
    AudioDelta,
    Event,
    Finished,
    Message,
    Speech,
    StageError,
    Started,
    TextDelta,
    TextDone,
    Turn,
    Usage,
)
from pipelines.flow import Next, Stage, flow
from pipelines.speech.interface import Sentence
from pipelines.speech.settings import SpeechSettings
from pipelines.speech.stage import DELTA, SpeechStage
from pipelines.speech.voices.interface import UNREADABLE, Cast, Samples, Voice, WordEnd
from pipelines.speech.workers import Workers
from tests.support import PATIENCE, ScriptedVoice, eventually, scripted_speech

TEXT = "Hello there, this is a test. It has **two** sentences!\n```\ncode\n```\n😀 Bye."
END = Finished("stop", Usage(3, 0, 7))


def turn(speech: Speech | None = None) -> Turn:
    return Turn("t", (Message("user", "Hi"),), speech=speech)


def writes(text: str, size: int = 3) -> Stage:
    """A stage that answers with ``text``, so many characters at a time."""

    async def stage(turn: Turn, next: Next) -> AsyncGenerator[Event]:
        yield Started(3)
        for at in range(0, len(text), size):
            yield TextDelta(text[at : at + size])
        yield TextDone()
        yield END

    return stage


async def spoken(stage: SpeechStage, text: str = TEXT, speech: Speech | None = None) -> list[Event]:
    await stage.start()
    try:
        async with asyncio.timeout(PATIENCE), flow(turn(speech or Speech()), [stage, writes(text)]) as events:
            return [event async for event in events]
    finally:
        await stage.close()


def sound(events: list[Event]) -> list[AudioDelta]:
    return [event for event in events if isinstance(event, AudioDelta)]


async def test_a_reply_becomes_sound_and_its_transcript_is_its_text() -> None:
    voice = ScriptedVoice()
    events = await spoken(scripted_speech(voice))
    assert [type(event) for event in events if not isinstance(event, AudioDelta)] == [Started, TextDone, Finished]
    assert events[-1] == END
    deltas = sound(events)
    assert "".join(delta.text for delta in deltas) == TEXT
    assert [text for text, _, _ in voice.said] == [
        "Hello there, this is a test.", "It has two sentences!", "Bye.",
    ]  # fmt: skip
    assert sum(delta.tokens for delta in deltas) == len(range(0, len(TEXT), 3))
    words, pauses = 11, 2
    seconds = sum(delta.samples for delta in deltas) / AUDIO_RATE
    assert seconds == pytest.approx(words * 0.3 + pauses * 0.15, abs=0.01)
    assert all(delta.samples <= DELTA for delta in deltas)


async def test_text_comes_with_the_sound_that_says_it() -> None:
    deltas = sound(await spoken(scripted_speech(ScriptedVoice()), "One two three. Four five six."))
    position = 0
    heard = [word for delta in deltas for word in delta.heard]
    assert [word.characters for word in heard] == [3, 7, 14, 19, 24, 29]
    assert [round(word.samples / AUDIO_RATE, 2) for word in heard] == [0.3, 0.6, 0.9, 1.35, 1.65, 1.95]
    for delta in deltas:
        begins = [0, *(word.samples for word in heard)]
        for word in delta.heard:
            assert begins[heard.index(word)] < position + delta.samples, "a word is not told before its sound begins"
        position += delta.samples


async def test_a_turn_that_is_not_to_be_spoken_passes_through() -> None:
    stage = scripted_speech(ScriptedVoice())
    async with flow(turn(), [stage, writes("Hi.")]) as events:
        assert [event async for event in events] == [Started(3), TextDelta("Hi."), TextDone(), END]


async def test_sound_has_no_seams_between_pieces() -> None:
    """A tone that a voice gives in pieces stays one tone after resampling: no jump is larger than the tone's own."""

    class Hum(ScriptedVoice):
        def say(self, text, speaker, speed, threads):  # type: ignore[no-untyped-def]
            phase = 0
            for piece in super().say(text, speaker, speed, threads):
                if piece is None:
                    yield None
                    continue
                n = len(piece.audio) - 37
                wave = 0.5 * np.sin((phase + np.arange(n)) * (2 * np.pi * 220 / self.rate))
                phase += n
                yield type(piece)(wave.astype(np.float32), piece.words)

    deltas = sound(await spoken(scripted_speech(Hum()), "a b c d e f g h i j k l m n o p."))
    wave = np.frombuffer(b"".join(delta.pcm for delta in deltas), dtype="<i2") / 32768
    steepest = 0.5 * 2 * np.pi * 220 / AUDIO_RATE
    assert np.abs(np.diff(wave[200:-200])).max() < 1.05 * steepest


async def test_speed_and_speaker_reach_the_voice() -> None:
    voice = ScriptedVoice(speakers=("ann", "bob"))
    stage = scripted_speech(voice, speed=1.5, speaker="ann")
    await spoken(stage, "Hi.", Speech("bob", 2.0))
    stage = scripted_speech(voice, speed=1.5, speaker="ann")
    await spoken(stage, "Hi.")
    assert voice.said == [("Hi.", "bob", 3.0), ("Hi.", "ann", 1.5)]


async def test_the_pause_between_sentences_has_the_speed_too() -> None:
    seconds = []
    for speed in (1.0, 2.0, 0.5):
        deltas = sound(await spoken(scripted_speech(ScriptedVoice()), "One two. Three four.", Speech("", speed)))
        seconds.append(sum(delta.samples for delta in deltas) / AUDIO_RATE)
    assert seconds == pytest.approx([1.35, 0.675, 2.7], abs=0.005)


@dataclass
class Watch:
    """A clock that says when each delta came."""

    now: float = 0.0
    naps: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


async def test_sound_is_sent_five_seconds_ahead_and_not_more() -> None:
    watch = Watch()
    stage = SpeechStage(
        Workers(ScriptedVoice), scripted_speech(ScriptedVoice())._settings, clock=watch, sleep=watch.sleep
    )
    await stage.start()
    sent = 0.0
    async with flow(turn(Speech()), [stage, writes("word " * 100 + ".")]) as events:
        async for event in events:
            if isinstance(event, AudioDelta):
                sent += event.samples / AUDIO_RATE
                assert sent - watch.now <= 5.0 + DELTA / AUDIO_RATE + 1e-6
    await stage.close()
    assert sent == pytest.approx(30, abs=1)
    assert watch.now == pytest.approx(sent - 5, abs=0.5)
    assert stage.underruns == 0


async def test_a_listener_who_had_to_wait_is_counted() -> None:
    watch = Watch()

    async def stalls(turn: Turn, next: Next) -> AsyncGenerator[Event]:
        yield TextDelta("One two.\n")
        await eventually(lambda: bool(stage.workers.spoken_seconds), "the first sentence is spoken")
        for _ in range(50):
            await asyncio.sleep(0.001)
        watch.now += 60
        yield TextDelta("Three four.\n")
        yield END

    stage = SpeechStage(
        Workers(ScriptedVoice), scripted_speech(ScriptedVoice())._settings, clock=watch, sleep=watch.sleep
    )
    await stage.start()
    async with flow(turn(Speech()), [stage, stalls]) as events:
        assert len([event async for event in events]) > 3
    await stage.close()
    assert stage.underruns == 1


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 40), st.integers(1, 9))
def test_a_reply_can_be_left_at_any_point(events_taken: int, size: int) -> None:
    async def main() -> None:
        stage = scripted_speech(ScriptedVoice())
        await stage.start()
        async with asyncio.timeout(PATIENCE):
            async with flow(turn(Speech()), [stage, writes(TEXT, size)]) as events:
                for _ in range(events_taken):
                    if await anext(events, None) is None:
                        break
            assert stage.speaking == 0
            await eventually(lambda: stage.workers.waiting == 0, "no sentence is left")
            async with flow(turn(Speech()), [stage, writes("Again.", size)]) as events:
                assert "".join(delta.text for delta in sound([event async for event in events])) == "Again."
        await stage.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


class Choosy(ScriptedVoice):
    """A voice that can't read sentences with a certain word."""

    def say(self, text: str, speaker: str, speed: float, threads: Callable[[], int]) -> Iterator[Samples | None]:
        if "unreadable" in text:
            raise StageError("internal", UNREADABLE, "It could not be read.")
        yield from super().say(text, speaker, speed, threads)


async def test_a_sentence_that_can_not_be_read_comes_without_sound_and_the_next_is_spoken() -> None:
    events = await spoken(scripted_speech(Choosy()), "One two. This is unreadable. Three four.")
    assert events[-1] == END
    deltas = sound(events)
    assert "".join(delta.text for delta in deltas) == "One two. This is unreadable. Three four."
    assert [word.characters for delta in deltas for word in delta.heard] == [3, 8, 34, 40]


async def test_a_text_that_is_read_aloud_fails_with_a_sentence_that_can_not_be_read() -> None:
    stage = scripted_speech(Choosy())
    await stage.start()
    with pytest.raises(StageError) as failed:
        async for _ in stage.read("One two. This is unreadable. Three four.", Speech()):
            pass
    assert failed.value.code == UNREADABLE
    await stage.close()


async def test_a_voice_that_fails_ends_its_reply_and_no_other() -> None:
    stage = scripted_speech(ScriptedVoice())
    await stage.start()

    async def speak(text: str) -> list[Event]:
        async with flow(turn(Speech()), [stage, writes(text)]) as events:
            return [event async for event in events]

    results = await asyncio.gather(
        speak("All is well here."), speak("Now crash please."), speak("And here too."), return_exceptions=True
    )
    assert isinstance(results[1], StageError)
    assert results[1].code == "speech_failed"
    for result in (results[0], results[2]):
        assert isinstance(result, list)
        assert result[-1] == END
    assert (await speak("Still here."))[-1] == END
    await stage.close()


async def test_a_reply_that_waits_for_the_voice_has_not_begun_and_one_too_many_is_refused() -> None:
    gate = threading.Semaphore(0)
    stage = scripted_speech(ScriptedVoice(gate=gate), streams=1, waiting=1)
    await stage.start()
    asked: list[Turn] = []

    async def model(turn: Turn, next: Next) -> AsyncGenerator[Event]:
        asked.append(turn)
        yield TextDelta("Hi.")
        yield END

    async with flow(turn(Speech()), [stage, model]) as first:
        task = asyncio.ensure_future(_all(first))
        await eventually(lambda: len(asked) == 1, "the first one is spoken")
        async with flow(turn(Speech()), [stage, model]) as second:
            waits = asyncio.ensure_future(_all(second))
            await eventually(lambda: stage.capacity.waiting == 1, "the second one waits")
            with pytest.raises(StageError) as refused:
                async with flow(turn(Speech()), [stage, model]) as third:
                    await _all(third)
            assert refused.value.code == "server_overloaded"
            assert len(asked) == 1, "the model was asked for neither"
            gate.release(10)
            await task
            assert (await waits)[-1] == END
    assert (stage.speaking, stage.capacity.waiting) == (0, 0)
    await stage.close()


class Leaving(Workers):
    """Its voice can go, as one that is elsewhere does."""

    gone = False

    @property
    def voice(self) -> Voice | None:
        return None if self.gone else super().voice


@pytest.mark.parametrize("waits", [True, False])
async def test_a_voice_that_goes_before_a_reply_begins_leaves_its_text(*, waits: bool) -> None:
    gate = threading.Semaphore(0)
    workers = Leaving(lambda: ScriptedVoice(gate=gate))
    stage = SpeechStage(workers, SpeechSettings(streams=1, waiting=1))
    await stage.start()
    async with (
        flow(turn(Speech()), [stage, writes("Hi.")]) as first,
        flow(turn(Speech()), [stage, writes("Ho.")]) as next,
    ):
        speaking = asyncio.ensure_future(_all(first))
        await eventually(lambda: stage.speaking == 1, "the first one is spoken")
        workers.gone = not waits
        second = asyncio.ensure_future(_all(next))
        if waits:
            await eventually(lambda: stage.capacity.waiting == 1, "the second one waits")
            workers.gone = True
        gate.release(10)
        with suppress(StageError):  # it may have lost its voice, too
            await speaking
        events = await second
    assert events[0] == Started(3, notices=("The voice can't be reached: this reply comes as text.",))
    assert events[1:] == [AudioDelta(b"", "Ho.", tokens=1), TextDone(), END]
    assert (stage.speaking, stage.capacity.waiting) == (0, 0)
    await stage.close()


async def _all(events: AsyncGenerator[Event]) -> list[Event]:
    return [event async for event in events]


async def test_the_last_sentence_is_spoken_before_what_follows_the_text() -> None:
    stage = scripted_speech(ScriptedVoice())
    await stage.start()
    drawn = asyncio.Event()

    async def with_a_picture(turn: Turn, next: Next) -> AsyncGenerator[Event]:
        yield TextDelta("One two three")
        yield TextDone()
        await drawn.wait()
        yield END

    async with asyncio.timeout(PATIENCE), flow(turn(Speech()), [stage, with_a_picture]) as events:
        text = ""
        async for event in events:
            if isinstance(event, AudioDelta):
                text += event.text
            if isinstance(event, TextDone):
                assert text == "One two three", "while the picture is being drawn"
                drawn.set()
    await stage.close()


async def test_closing_the_workers_ends_what_is_being_said() -> None:
    gate = threading.Semaphore(1)
    stage = scripted_speech(ScriptedVoice(gate=gate))
    await stage.start()

    async def speak() -> None:
        async with flow(turn(Speech()), [stage, writes("One two three four.")]) as events:
            await _all(events)

    task = asyncio.ensure_future(speak())
    await eventually(lambda: stage.workers.spoken_seconds > 0, "something was said")
    closing = asyncio.ensure_future(stage.close())
    with pytest.raises(StageError) as ended:
        await task
    assert ended.value.code == "server_shutting_down"
    gate.release(10)
    await closing
    with pytest.raises(StageError) as refused:
        await speak()
    assert refused.value.code == "server_shutting_down"


async def test_who_would_fall_silent_soon_goes_first_and_then_whoever_has_not_begun() -> None:
    gate = threading.Semaphore(0)
    voice = ScriptedVoice(gate=gate, word=0.1)
    workers = Workers(lambda: voice)
    await workers.start()
    now = asyncio.get_running_loop().time()

    async def say(name: str, due: float | None) -> None:
        with suppress(StageError):
            async for _ in workers.say(Sentence(name, due=due)):
                pass

    tasks = [asyncio.ensure_future(say("blocker", now + 99))]
    await eventually(lambda: len(voice.said) == 1, "the thread is busy")
    tasks += [
        asyncio.ensure_future(say(name, due))
        for name, due in (("rich", now + 50), ("new", None), ("newer", None), ("poor", now + 0.1), ("poorer", now - 1))
    ]
    await eventually(lambda: workers.waiting == 6, "all are there")
    gate.release(6)
    await asyncio.gather(*tasks)
    await workers.close()
    said = [text for text, _, _ in voice.said]
    assert said == ["blocker", "poorer", "poor", "new", "newer", "rich"]


HOSTILE = {
    "100 KB without a full stop": "word " * 20_000,
    "100 KB without a space": "x" * 100_000,
    "only emoji": "😀🎉👩\u200d👩\u200d👧🏽" * 500,
    "tags": "<speak><break time='9s'/><script>alert(1)</script></speak>" * 100,
    "NULs": "a\x00b\x00" * 500,
    "right to left": "\u202eمرحبا بالعالم! שלום עולם.\u202c " * 50,
    "another language": "今日は良い天気です。散歩に行きましょう。" * 50,
    "lone surrogates": "\ud800 hello \udfff " * 20,
    "combining marks": "e" + "\u0301" * 5000,
    "fences that never end": "```\n" * 500,
    "brackets": "[[" * 500 + "]]" * 500,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
async def test_hostile_text_is_spoken_or_passed_over_and_told_whole(text: str) -> None:
    voice = ScriptedVoice(word=0.001)
    deltas = sound(await spoken(scripted_speech(voice, pause=0), text))
    assert "".join(delta.text for delta in deltas) == text
    assert all(len(said) <= 1500 for said, _, _ in voice.said)
    assert not any("\x00" in said or "😀" in said or "\ud800" in said for said, _, _ in voice.said)


class Interpreters(ScriptedVoice):
    """Has a speaker for Hindi besides."""

    def cast(self, text: str, speaker: str) -> Cast:
        return Cast("asha", "hi") if "\u0900" <= max(text) <= "\u097f" else Cast(speaker or "ann", "en-us")


async def test_each_sentence_is_read_by_the_speaker_and_in_the_language_that_the_voice_casts() -> None:
    voice = Interpreters(speakers=("ann", "bob", "asha"))
    text = "It is 5 km.\nनमस्ते दुनिया\nBye."
    await spoken(scripted_speech(voice), text, Speech("bob"))
    assert [speaker for _, speaker, _ in voice.said] == ["bob", "asha", "bob"]
    assert voice.said[1][0] == "नमस्ते दुनिया", "a script that only this speaker reads"
    voice.said.clear()
    await spoken(scripted_speech(voice, speaker="bob"), "Bye.")
    await spoken(scripted_speech(voice), "Bye.")
    assert [speaker for _, speaker, _ in voice.said] == ["bob", "ann"]


class Clauses(ScriptedVoice):
    """Each piece brings its own words, the last of them at its very end."""

    def say(self, text: str, speaker: str, speed: float, threads: Callable[[], int]) -> Iterator[Samples | None]:
        first, second, *_ = re.finditer(r"\S+ \S+", text)
        for number, clause in enumerate((first, second)):
            border = clause.start() + clause[0].index(" ")
            words = (WordEnd(border, 4800 * number + 4795), WordEnd(clause.end(), 4800 * number + 4800))
            yield Samples(np.full(4800, 0.1, dtype=np.float32), words)


async def test_no_word_is_lost_where_each_piece_brings_its_own() -> None:
    events = await spoken(scripted_speech(Clauses()), "One two three four.")
    heard = [word for event in events if isinstance(event, AudioDelta) for word in event.heard]
    assert [word.characters for word in heard] == [3, 7, 13, 19]
    assert [word.samples for word in heard] == sorted(word.samples for word in heard)
