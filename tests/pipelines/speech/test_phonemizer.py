"""Phonemes from a process of their own: what it reads, and what happens when it crashes, hangs, grows or is killed."""

import logging
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipelines.downloads.progress import finish
from pipelines.events import StageError
from pipelines.speech.interface import Sentence
from pipelines.speech.normalise import speakable
from pipelines.speech.settings import SpeechSettings
from pipelines.speech.voices import available as voices
from pipelines.speech.voices.phonemizer import ATTEMPTS, Phonemizer
from pipelines.speech.workers import Workers
from tests.mutations import mutated
from tests.support import PATIENCE, ROOT, run
from tests.tiny_voice import tiny_voice

PLAIN = ["Hello there.", "It is 3.5 dollars; or 1,234 in all?", "naïve café", "Dr. Smith of the U.S.A.", ""]
CRASHES = ["x.y." * 75, "U.S.A." * 50, "'s" * 150]

# A child whose texts say what goes wrong; everything else it reads as the real one does.
PROGRAM = f"""
import os, sys, time
sys.path.insert(0, {str(ROOT)!r})
from pipelines.speech.voices import phonemizer_child as child

def prepare(setup):
    read = child.bundled(setup)
    def wrong(text, voice):
        match text:
            case "crash": os.abort()
            case "hang": time.sleep(600)
            case "grow": bytearray(1 << 30)
            case "raise": raise RuntimeError(text)
            case "babble": os.write(0, b"\\xff" * 64)
            case "lie": os.write(0, child.encoded({{"phonemes": [[7]]}}))
            case "large": return [["x" * (5 << 20)]]
        return read(text, voice)
    return wrong

child.main(prepare)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    file = tmp_path / "child.py"
    file.write_text(PROGRAM)
    return file


def soon(condition: Callable[[], bool], what: str) -> None:
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, f"this never came true: {what}"
        time.sleep(0.01)


def runs(process_id: int) -> bool:
    """Whether there is such a process; one that only waits to be collected by init is gone."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def child_of(phonemizer: Phonemizer) -> int:
    process_id = phonemizer.process_id
    assert process_id is not None
    return process_id


def test_the_phonemes_are_those_of_pipers_library() -> None:
    from piper.phonemize_espeak import EspeakPhonemizer

    library = EspeakPhonemizer()
    with closing(Phonemizer("en-us")) as phonemizer:
        assert phonemizer.phonemes(PLAIN) == [library.phonemize("en-us", text) for text in PLAIN]
        assert phonemizer.phonemes(["Straße"], "de") == [library.phonemize("de", "Straße")]
    with closing(Phonemizer("en-us", [("a", "ɪ")])) as phonemizer:
        assert phonemizer.phonemes(["my"]) == [library.phonemize("en-us", "my", {("a", "ɪ")})]


@pytest.mark.parametrize(
    ("kind", "voice", "text"),
    [("espeak", "ar", "مرحبا بالعالم"), ("hebrew", "he", "שלום עולם"), ("text", "en-us", "né")],
)
def test_voices_that_piper_reads_with_a_model_are_read_as_by_its_library(
    tmp_path: Path, kind: str, voice: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from piper import PiperConfig, PiperVoice

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    given: dict[str, Any] = {"espeak": {"voice": voice}, "phoneme_type": kind}
    ours = finish(
        voices.prepare(SpeechSettings(voice=str(tiny_voice(tmp_path, **given)), threads=1), threading.Event())
    )()
    config = {"num_symbols": 256, "num_speakers": 1, "audio": {"sample_rate": 22_050}, "phoneme_id_map": {}, **given}
    theirs = PiperVoice(session=None, config=PiperConfig.from_dict(config)).phonemize(text)
    with closing(ours):
        assert ours._phonemes(text) == [phoneme for group in theirs for phoneme in (*group, " ")][:-1]  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", ["a..", "U.S.A..", "Dr.. Dr.."])
def test_nothing_of_a_text_is_left_for_the_next_one(text: str) -> None:
    with closing(Phonemizer("en-us")) as phonemizer:
        alone = phonemizer.phonemes(["Hello there."])
        assert phonemizer.phonemes([text, "Hello there."])[1:] == alone
        assert phonemizer.phonemes(["Hello there."]) == alone


@pytest.mark.parametrize("text", CRASHES)
def test_a_text_that_crashes_espeak_fails_alone(text: str) -> None:
    # It writes past a buffer. What it hits there depends on where the system has put the process: one child in ten
    # lives on, and then reads that text whenever it is asked.
    failed: StageError | None = None
    for _ in range(20):
        with closing(Phonemizer("en-us")) as phonemizer:
            expected = phonemizer.phonemes(PLAIN)
            try:
                phonemizer.phonemes([text] * 100)
            except StageError as error:
                failed = error
            assert phonemizer.phonemes(PLAIN) == expected, "the next text is read as before"
            if failed:
                assert phonemizer.restarts >= ATTEMPTS
                break
    assert failed is not None
    assert (failed.kind, failed.code) == ("internal", "sentence_failed")
    assert "ended the process" in str(failed)


@pytest.mark.parametrize(
    ("wrong", "says", "restarts"),
    [
        ("crash", "ended the process", 2),
        ("hang", "too long", 1),
        ("grow", "ended the process", 2),
        ("raise", "RuntimeError", 0),
        ("babble", "ended the process", 2),
        ("lie", "ended the process", 2),
        ("large", "ended the process", 2),
    ],
)
def test_whatever_goes_wrong_fails_that_request_alone(
    program: Path, caplog: pytest.LogCaptureFixture, wrong: str, says: str, restarts: int
) -> None:
    with closing(Phonemizer("en-us", program=program, deadline=2.0)) as phonemizer:
        expected = phonemizer.phonemes(PLAIN)
        with caplog.at_level(logging.DEBUG), pytest.raises(StageError, match=says) as failed:
            phonemizer.phonemes([wrong])
        assert failed.value.code == "sentence_failed"
        assert phonemizer.restarts == restarts
        assert runs(child_of(phonemizer)), "another one is there at once"
        assert phonemizer.phonemes(PLAIN) == expected
        assert not any(wrong in record.getMessage() for record in caplog.records), "no text in the log"


def test_a_child_that_was_killed_for_something_else_is_not_noticed() -> None:
    with closing(Phonemizer("en-us")) as phonemizer:
        expected = phonemizer.phonemes(PLAIN)
        for restarts in range(1, 6):
            os.kill(child_of(phonemizer), signal.SIGKILL)
            assert phonemizer.phonemes(PLAIN) == expected
            assert phonemizer.restarts == restarts


def test_a_child_is_renewed_before_what_espeak_loses_adds_up() -> None:
    with closing(Phonemizer("en-us", renewed=12)) as phonemizer:
        expected = phonemizer.phonemes(PLAIN)
        first = child_of(phonemizer)
        assert phonemizer.phonemes(PLAIN) == expected
        assert child_of(phonemizer) == first
        assert phonemizer.phonemes(PLAIN) == expected
        assert child_of(phonemizer) != first
        assert not runs(first)
        assert phonemizer.phonemes(PLAIN) == expected
        assert phonemizer.restarts == 0


@pytest.mark.timeout(300)
def test_20_000_hard_texts_and_a_process_that_is_killed_at_random(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    chance = random.Random(14)
    with closing(Phonemizer("en-us", renewed=10**9)) as phonemizer:
        expected = phonemizer.phonemes(PLAIN)
        ended = threading.Event()
        heard: list[bool] = []

        def neighbour() -> None:  # another reply, which must not notice
            while not ended.is_set():
                heard.append(phonemizer.phonemes(PLAIN) == expected)

        thread = threading.Thread(target=neighbour)
        thread.start()
        kills = failed = 0
        try:
            for text in mutated(14, 20_000):
                if chance.random() < 0.005:
                    kills += 1
                    os.kill(child_of(phonemizer), signal.SIGKILL)
                try:
                    (groups,) = phonemizer.phonemes([text])
                    assert all(isinstance(phoneme, str) for group in groups for phoneme in group)
                except StageError:
                    failed += 1
        finally:
            ended.set()
            thread.join(PATIENCE)
        assert kills > 50
        assert phonemizer.restarts >= kills
        assert 0 < failed < 2_000, "what crashes it, surrogates and NULs"
        assert len(heard) > 100
        assert all(heard)


@pytest.mark.parametrize("language", ["en-us", "de"])
def test_what_is_spoken_of_hard_texts_does_not_crash_espeak(language: str) -> None:
    with closing(Phonemizer(language)) as phonemizer:
        for text in mutated(15, 5_000):
            phonemizer.phonemes([speakable(text, language).text])
        assert phonemizer.restarts == 0


def test_the_child_has_limits_and_no_place_to_write_texts_to() -> None:
    with closing(Phonemizer("en-us", memory=100 << 20)) as phonemizer:
        phonemizer.phonemes(PLAIN)
        process = Path(f"/proc/{child_of(phonemizer)}")
        limits = dict(line.split("  ", 1) for line in (process / "limits").read_text().splitlines())
        assert limits["Max data size"].split()[:2] == [str(100 << 20)] * 2
        assert limits["Max core file size"].split()[:2] == ["0", "0"]
        assert {os.readlink(process / "fd" / str(number)) for number in (1, 2)} == {os.devnull}


def test_too_little_memory_is_an_error_and_no_hang() -> None:
    with closing(Phonemizer("en-us", memory=1 << 10)) as phonemizer, pytest.raises(StageError):
        phonemizer.phonemes(PLAIN)


def test_a_language_that_espeak_lacks_is_an_error() -> None:
    with closing(Phonemizer("xx-none")) as phonemizer, pytest.raises(StageError):
        phonemizer.phonemes(PLAIN)


def test_closing_leaves_no_process_behind_and_wakes_who_asks(program: Path) -> None:
    phonemizer = Phonemizer("en-us", program=program, deadline=500.0)
    phonemizer.phonemes(PLAIN)
    process_id = child_of(phonemizer)
    errors: list[StageError] = []

    def ask() -> None:
        with pytest.raises(StageError) as failed:
            phonemizer.phonemes(["hang"])
        errors.append(failed.value)

    asking = threading.Thread(target=ask)
    asking.start()
    soon(phonemizer._asking.locked, "it is asked")
    phonemizer.close()
    asking.join(PATIENCE)
    assert [error.code for error in errors] == ["server_shutting_down"]
    phonemizer.close()
    with pytest.raises(StageError, match="shutting down"):
        phonemizer.phonemes(PLAIN)
    assert not runs(process_id)
    assert phonemizer.restarts == 0


def test_a_phonemizer_that_is_forgotten_leaves_no_process_behind() -> None:
    phonemizer = Phonemizer("en-us")
    phonemizer.phonemes(PLAIN)
    process_id = child_of(phonemizer)
    del phonemizer
    soon(lambda: not runs(process_id), "the child ended")


@pytest.fixture
def parent(program: Path) -> Iterator[Callable[[str], tuple["subprocess.Popen[str]", int]]]:
    """Starts a process that has a child and then asks it for a text; returns it and the child."""
    started: list[subprocess.Popen[str]] = []

    def start(text: str) -> tuple["subprocess.Popen[str]", int]:
        code = f"""
            import time
            from pathlib import Path
            from pipelines.speech.voices.phonemizer import Phonemizer
            phonemizer = Phonemizer("en-us", program=Path({str(program)!r}), deadline=3.0)
            phonemizer.phonemes(["Hello"])
            print(phonemizer.process_id, flush=True)
            phonemizer.phonemes([{text!r}])
            time.sleep(600)
        """
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        started.append(process)
        assert process.stdout is not None
        return process, int(process.stdout.readline())

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("text", ["Hello", "hang"])
def test_the_child_does_not_outlive_a_parent_that_was_killed(
    parent: Callable[[str], tuple["subprocess.Popen[str]", int]], text: str
) -> None:
    process, child = parent(text)
    assert runs(child)
    process.kill()
    process.wait()
    soon(lambda: not runs(child), "the child ended")


def test_signals_to_the_whole_group_leave_the_child_to_its_parent() -> None:
    with closing(Phonemizer("en-us")) as phonemizer:
        expected = phonemizer.phonemes(PLAIN)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(child_of(phonemizer), number)
            assert phonemizer.phonemes(PLAIN) == expected
        assert phonemizer.restarts == 0


async def test_a_sentence_that_crashes_fails_alone_and_the_next_one_is_spoken(
    tmp_path: Path, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    load = finish(voices.prepare(SpeechSettings(voice=str(tiny_voice(tmp_path)), threads=1), threading.Event()))
    workers = Workers(load)
    await workers.start()
    voice = workers.voice
    assert voice is not None
    first = child_of(voice._phonemizer)  # type: ignore[attr-defined]
    assert runs(first)
    voice._phonemizer.close()  # type: ignore[attr-defined]
    voice._phonemizer = Phonemizer("en-us", program=program)  # type: ignore[attr-defined]
    with pytest.raises(StageError) as failed:
        async for _ in workers.say(Sentence("crash")):
            pass
    assert failed.value.code == "sentence_failed"
    assert "ended the process" in failed.value.message, "the voice's own error comes through"
    assert sum([len(samples.audio) async for samples in workers.say(Sentence("Still here."))]) > 0
    second = child_of(voice._phonemizer)  # type: ignore[attr-defined]
    await workers.close()
    assert not runs(first)
    assert not runs(second)


def test_espeak_is_not_loaded_into_the_servers_process(tmp_path: Path) -> None:
    path = tiny_voice(tmp_path)
    code = f"""
        import sys, threading
        from pipelines.speech.settings import SpeechSettings
        from pipelines.speech.voices import available
        from pipelines.downloads.progress import finish
        voice = finish(available.prepare(SpeechSettings(voice={str(path)!r}, threads=1), threading.Event()))()
        assert [piece for piece in voice.say("Hello there.", "", 1.0, lambda: 1) if piece]
        voice.close()
        loaded = [name for name in sys.modules if "espeakbridge" in name]
        print(loaded, "espeakbridge" in open("/proc/self/maps").read())
    """
    ran = run(sys.executable, "-c", textwrap.dedent(code), XDG_CACHE_HOME=str(tmp_path / "cache"))
    assert ran.stdout.strip() == "[] False", ran.stderr
