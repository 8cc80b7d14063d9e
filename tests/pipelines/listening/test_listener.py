"""One session's ears, with fakes for models: audio in, reports out."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from pipelines.listening.events import (
    Ended,
    Hears,
    Partial,
    Report,
    SpeechDropped,
    SpeechStarted,
    SpeechStopped,
    Transcribed,
)
from pipelines.listening.interface import RATE, Request
from pipelines.listening.listener import ROOM, Listener
from pipelines.listening.settings import ListeningSettings
from pipelines.listening.turns import Policy
from tests.pipelines.listening.fakes import (
    ScriptedEnd,
    ScriptedRecogniser,
    encode,
    hearing_with,
    silence,
    started,
    tone,
)
from tests.support import PATIENCE, eventually

VAD = Hears(Policy())
BY_HAND = Hears(None)


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Heard:
    """A listener, its clock, and what it has reported."""

    listener: Listener
    clock: Clock
    reports: list[Report]
    errors: list[BaseException] = field(default_factory=list)

    def kinds(self) -> list[str]:
        return [type(report).__name__ for report in self.reports]

    async def until(self, kind: type[Report]) -> None:
        await eventually(lambda: any(isinstance(report, kind) for report in self.reports), f"a {kind.__name__}")


@asynccontextmanager
async def listening(
    hears: Hears,
    recogniser: ScriptedRecogniser | None = None,
    end: ScriptedEnd | None = None,
    settings: ListeningSettings | None = None,
) -> AsyncIterator[Heard]:
    """A listener that runs."""
    reports: list[Report] = []

    async def report(each: Report) -> None:
        reports.append(each)

    async with started(hearing_with(recogniser, end, settings)) as hearing:
        clock = Clock()
        heard = Heard(Listener(hearing, hears, report, clock=clock), clock, reports)
        task = asyncio.create_task(heard.listener.run())
        try:
            yield heard
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def test_a_turn_is_reported_with_its_audio_and_its_words() -> None:
    async with listening(VAD) as heard:
        heard.listener.push(silence(1000) + tone(1500) + silence(800))
        await heard.until(Ended)
        assert heard.kinds() == ["SpeechStarted", "SpeechStopped", "Ended"]
        begun, stopped, ended = heard.reports
        assert isinstance(begun, SpeechStarted)
        assert isinstance(stopped, SpeechStopped)
        assert isinstance(ended, Ended)
        assert abs(begun.at - 1000) < 100
        assert abs(stopped.at - 2500) < 100
        assert len(ended.pcm) / 2 / RATE == pytest.approx((ended.end - ended.begin) / 1000, abs=0.01)
        assert ended.transcript is not None
        assert ended.transcript.text == "What is the capital of France?"


async def test_audio_in_pieces_of_any_size_gives_the_same_turn() -> None:
    audio = silence(500) + tone(900) + silence(900)
    found = []
    for size in (1, 7, 960, 100_000):
        async with listening(VAD) as heard:
            for begin in range(0, len(audio), size):
                heard.listener.push(audio[begin : begin + size])
                if begin % 1000 == 0:
                    await heard.listener.room()
            await heard.until(Ended)
            found.append([report for report in heard.reports if not isinstance(report, Partial)])
    assert all(each == found[0] for each in found)


@pytest.mark.parametrize("encoding", ["audio/pcmu", "audio/pcma"])
async def test_telephone_audio_is_heard_as_well(encoding: str) -> None:
    code = encode(tone(1000, 8000), encoding)
    quiet = encode(silence(900, 8000), encoding)
    async with listening(Hears(Policy(), encoding)) as heard:  # type: ignore[arg-type]
        heard.listener.push(quiet + code + quiet)
        await heard.until(Ended)
        (ended,) = (report for report in heard.reports if isinstance(report, Ended))
        assert np.abs(np.frombuffer(ended.pcm, "<i2")).max() == pytest.approx(0.3 * 32767, rel=0.1)


async def test_two_turns_follow_each_other_however_fast_the_audio_comes() -> None:
    gate = threading.Semaphore(0)
    async with listening(VAD, ScriptedRecogniser(gate=gate)) as heard:
        heard.listener.push((tone(800) + silence(1000)) * 2)
        await asyncio.sleep(0)
        gate.release(2)
        await eventually(lambda: heard.kinds().count("Ended") == 2, "two turns")
        assert heard.kinds() == ["SpeechStarted", "SpeechStopped", "Ended"] * 2


async def test_what_a_client_commits_is_recognised_whole() -> None:
    recogniser = ScriptedRecogniser()
    async with listening(BY_HAND, recogniser) as heard:
        heard.listener.push(tone(700) + silence(2000) + tone(700))
        heard.listener.commit(7)
        await heard.until(Transcribed)
        (report,) = heard.reports
        assert isinstance(report, Transcribed)
        assert report.serial == 7
        assert report.transcript is not None
        assert report.transcript.text == "What is the capital of France?"
        assert recogniser.asked[0][0] == pytest.approx(3.4, abs=0.05)


async def test_a_committed_silence_has_no_words_and_is_not_recognised() -> None:
    recogniser = ScriptedRecogniser()
    async with listening(BY_HAND, recogniser) as heard:
        heard.listener.push(silence(2000))
        heard.listener.commit(1)
        await heard.until(Transcribed)
        (report,) = heard.reports
        assert isinstance(report, Transcribed)
        assert report.transcript is not None
        assert report.transcript.text == ""
        assert recogniser.asked == []


async def test_what_is_cleared_is_not_part_of_the_next_turn() -> None:
    recogniser = ScriptedRecogniser()
    async with listening(BY_HAND, recogniser) as heard:
        heard.listener.push(tone(5000))
        heard.listener.clear()
        heard.listener.push(tone(1000))
        heard.listener.commit(1)
        await heard.until(Transcribed)
        assert [seconds for seconds, _ in recogniser.asked] == [pytest.approx(1.0, abs=0.05)]


async def test_a_minute_is_recognised_in_pieces() -> None:
    recogniser = ScriptedRecogniser("A piece.")
    async with listening(BY_HAND, recogniser) as heard:
        heard.listener.push(tone(60_000))
        heard.listener.commit(1)
        await heard.until(Transcribed)
        assert max(seconds for seconds, _ in recogniser.asked) <= 24
        assert sum(seconds for seconds, _ in recogniser.asked) == pytest.approx(60, abs=0.1)
        (report,) = heard.reports
        assert isinstance(report, Transcribed)
        assert report.transcript is not None
        assert report.transcript.text == "A piece. A piece. A piece."


async def test_a_recogniser_that_fails_ends_the_turn_without_words() -> None:
    async with listening(VAD, ScriptedRecogniser(error=RuntimeError("what was said"))) as heard:
        heard.listener.push(tone(800) + silence(900))
        await heard.until(Ended)
        (ended,) = (report for report in heard.reports if isinstance(report, Ended))
        assert ended.transcript is None


async def test_an_interruption_says_how_much_of_the_reply_was_not_heard() -> None:
    async with listening(VAD, ScriptedRecogniser("Stop!")) as heard:
        heard.listener.replying(active=True)
        heard.listener.sounded(5 * 24_000, "The steam engine changed the world.")
        heard.clock.now = 2.0
        heard.listener.push(silence(1500) + tone(400) + silence(900))
        await heard.until(Ended)
        begun = heard.reports[0]
        assert isinstance(begun, SpeechStarted)
        assert begun.interrupts
        assert begun.unheard == 3000


async def test_agreement_with_a_reply_is_no_turn() -> None:
    async with listening(VAD, ScriptedRecogniser("Mm-hm.")) as heard:
        heard.listener.replying(active=True)
        heard.listener.sounded(20 * 24_000, "The steam engine changed the world.")
        heard.listener.push(silence(1500) + tone(400) + silence(1500))
        await eventually(lambda: not heard.listener.behind, "all is heard")
        assert heard.reports == []


async def test_what_began_and_said_nothing_is_dropped() -> None:
    async with listening(VAD, ScriptedRecogniser("")) as heard:
        heard.listener.push(tone(400) + silence(900))
        await heard.until(SpeechDropped)
        assert heard.kinds() == ["SpeechStarted", "SpeechStopped", "SpeechDropped"]


async def test_words_are_reported_while_they_are_spoken_where_they_are_wanted() -> None:
    recogniser = ScriptedRecogniser(lambda seconds: " ".join(["one", "two", "three", "four"][: int(seconds)]))
    async with listening(Hears(Policy(), looks=True), recogniser) as heard:
        for _ in range(40):
            heard.listener.push(tone(100))
            await eventually(lambda: not heard.listener.behind, "it is heard")
        await heard.until(Partial)
    async with listening(VAD, recogniser) as heard:
        heard.listener.push(tone(4000) + silence(900))
        await heard.until(Ended)
        assert "Partial" not in heard.kinds()


async def test_the_session_chooses_language_and_prompt() -> None:
    recogniser = ScriptedRecogniser()
    async with listening(Hears(Policy(), request=Request("de", "de", "Loquent")), recogniser) as heard:
        heard.listener.push(tone(800) + silence(900))
        await heard.until(Ended)
        assert {(request.language, request.prompt) for _, request in recogniser.asked} == {("de", "Loquent")}


async def test_a_client_that_sends_faster_than_is_heard_is_held_back() -> None:
    async with listening(VAD) as heard:
        sent = 0
        async with asyncio.timeout(PATIENCE):
            for _ in range(60):
                await heard.listener.room()
                heard.listener.push(silence(10_000))
                sent += 480_000
                assert heard.listener.waiting_bytes <= ROOM + 480_000
        assert sent > 20 * ROOM


async def test_hours_of_silence_take_no_memory() -> None:
    async with listening(VAD) as heard:
        for _ in range(30):
            await heard.listener.room()
            heard.listener.push(silence(20_000))
        await eventually(lambda: not heard.listener.behind, "all is heard")
        assert heard.listener.recorded_bytes < 5 * RATE * 2


async def test_turn_detection_can_be_switched_off_in_the_middle() -> None:
    async with listening(VAD) as heard:
        heard.listener.push(tone(500))
        heard.listener.configure(BY_HAND)
        heard.listener.push(tone(1000) + silence(1500))
        heard.listener.commit(3)
        await heard.until(Transcribed)
        assert "Ended" not in heard.kinds()
