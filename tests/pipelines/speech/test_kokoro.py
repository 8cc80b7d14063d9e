"""Kokoro: its symbols, its clauses and its speakers, with the real model."""

import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnxruntime import InferenceSession
from pydantic import ValidationError

from pipelines.downloads.catalogue import PACKAGES
from pipelines.downloads.fetch import PackageError, install
from pipelines.downloads.progress import finish
from pipelines.events import StageError
from pipelines.speech.settings import SpeechSettings
from pipelines.speech.voices import available as voices
from pipelines.speech.voices.interface import Samples, VoiceError
from pipelines.speech.voices.kokoro import CLAUSE, FRAME, MOST_SYMBOLS, KokoroVoice, _parted, _sounding, _spans
from pipelines.speech.voices.kokoro_phonemes import IDS, LANGUAGES, symbols
from pipelines.speech.voices.phonemizer import Phonemizer

LONG = (
    "We walked along the river, and then, because it was so warm, we had some bread in the park; nobody said a word, "
    "until at last the old man told us a story about a ship."
)


def load(**settings: Any) -> KokoroVoice:
    chosen = SpeechSettings(engine="kokoro", threads=2, **settings)
    voice = finish(voices.prepare(chosen, threading.Event()))()
    assert isinstance(voice, KokoroVoice)
    return voice


@pytest.fixture(scope="module")
def voice() -> Iterator[KokoroVoice]:
    with closing(load()) as voice:
        yield voice


def say(voice: KokoroVoice, text: str, speaker: str = "", speed: float = 1.0) -> list[Samples]:
    return [piece for piece in voice.say(text, speaker, speed, lambda: 2) if piece is not None]


def sound(pieces: list[Samples]) -> NDArray[np.float32]:
    return np.concatenate([piece.audio for piece in pieces])


@pytest.mark.parametrize(
    ("language", "text", "said"),
    [
        ("en-us", "Boys joke, now.", "bˈYz ʤˈOk, nˈW."),
        ("en-us", "Hello, little bird.", "həlˈO, lˈɪTᵊl bˈɜɹd."),
        ("en-us", "A button.", "ə bˈʌtᵊn."),
        ("en-gb-x-rp", "Go there.", "ɡˌQ ðˈɛː."),
        ("es", "Mucho, niño.", "mˈuʧo, nˈiɲo."),
        ("fr", "Bon vin, garçon.", "bˈɔ̃ vˈɛ̃, ɡaʁsˈɔ̃."),
        ("it", "Grazie.", "ɡɾˈaʦje."),
        ("pt-br", "Bom dia.", "bˈo\u0303n ʤˈiɐ."),
        ("hi", "नमस्ते।", "nəmˈʌsteː"),
    ],
)
def test_a_text_becomes_the_symbols_of_the_model(language: str, text: str, said: str) -> None:
    with closing(Phonemizer(language)) as phonemizer:
        made = symbols(phonemizer.phonemes([text])[0], language)
    assert made == said
    assert set(made) <= set(IDS)


def test_long_sentences_are_spoken_clause_by_clause() -> None:
    clauses = [LONG[begin:end] for begin, end in _spans(LONG)]
    assert " ".join(clauses) == LONG
    assert len(clauses) == 2
    assert all(len(clause) <= CLAUSE for clause in clauses)
    assert list(_spans("Yes, of course.")) == [(0, 15)]
    assert list(_spans("word " * 50)) == [(0, 250)], "there is no clause to cut at"


def test_what_the_model_cannot_read_at_once_is_cut_between_words() -> None:
    said = "wˈɜɹd " * 200
    parts = list(_parted(said))
    assert "".join(parts) == said
    assert all(len(part) <= MOST_SYMBOLS and part.endswith(" ") for part in parts[:-1])
    assert [len(part) for part in _parted("a" * 1100)] == [510, 510, 80]


def test_only_the_silence_around_a_sound_is_left_out() -> None:
    audio = np.zeros(24_000, dtype=np.float32)
    audio[9600:12_000] = 0.5
    assert _sounding(audio) == (9600 - 720, 11_999 + 2400)
    assert _sounding(np.zeros(100, dtype=np.float32)) == (0, 100)


def test_the_two_parts_give_the_samples_of_the_whole(voice: KokoroVoice) -> None:
    said = "həlˈO ðˈɛɹ."
    ids = [IDS[symbol] for symbol in said]
    style = np.asarray(voice._styles["af_heart"][len(said) - 1])
    given = {
        "tokens": np.array([[0, *ids, 0]]),
        "style": style[None],
        "speed": np.array([1.0], dtype=np.float32),
    }
    (whole,) = InferenceSession(PACKAGES["kokoro-82m"].path, providers=["CPUExecutionProvider"]).run(None, given)
    plan = voice._model.plan(ids, style, 1.0, 1)
    parts = voice._model.sound(plan, 1)
    assert len(parts) == plan.durations.sum() * FRAME
    assert np.abs(parts - np.asarray(whole)).max() < 1e-4


def test_each_word_ends_in_its_turn_over_all_clauses(voice: KokoroVoice) -> None:
    pieces = say(voice, LONG)
    assert len(pieces) == 2
    ends = [word for piece in pieces for word in piece.words]
    assert [LONG[: word.character].split()[-1] for word in ends] == LONG.split()
    samples = [word.sample for word in ends]
    assert samples == sorted(samples)
    first = len(pieces[0].audio)
    assert all(word.sample <= first for word in pieces[0].words)
    assert all(first < word.sample <= first + len(pieces[1].audio) for word in pieces[1].words)


def test_each_of_openais_names_is_another_voice(voice: KokoroVoice) -> None:
    speakers = SpeechSettings().voices
    assert set(speakers) == set(SpeechSettings().aliases)
    assert set(speakers.values()) <= set(voice.speakers)
    sounds = {name: sound(say(voice, "Hi.", speaker)) for name, speaker in speakers.items()}
    assert len({made.tobytes() for made in sounds.values()}) == len(speakers) == 13


def test_the_speakers_are_those_whose_language_can_be_read(voice: KokoroVoice) -> None:
    assert len(voice.speakers) == 41
    assert {name[0] for name in voice.speakers} == set(LANGUAGES)
    assert voice.cast("Hallo.", "ff_siwis") == ("ff_siwis", "fr")
    assert voice.cast("Hello.", "") == ("af_heart", "en-us")


@pytest.mark.parametrize("text", ["", ".", "…", " ", "、"])
def test_what_has_no_sound_gives_none(voice: KokoroVoice, text: str) -> None:
    assert say(voice, text) == []


def test_text_beyond_what_the_model_reads_at_once_is_spoken_whole(voice: KokoroVoice) -> None:
    text = "© ® " * 75
    read: list[int] = []
    plan = voice._model.plan

    def counting(ids: list[int], *rest: Any) -> Any:
        read.append(len(ids))
        return plan(ids, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(voice._model, "plan", counting)
        pieces = say(voice, text)
    assert len(read) > 2
    assert max(read) <= MOST_SYMBOLS
    assert len(sound(pieces)) > 0.02 * 24_000 * sum(read)


def test_a_text_that_ends_espeak_fails_alone(voice: KokoroVoice) -> None:
    expected = sound(say(voice, "Still here."))
    with pytest.raises(StageError, match="could not read"):
        voice._phonemizer.phonemes(["x" * (300 << 10)])
    failed: StageError | None = None
    for _ in range(20):  # it writes past a buffer, and one process in ten lives on
        try:
            voice._phonemizer.phonemes(["x.y." * 75] * 100, "en-us")
        except StageError as error:
            failed = error
            break
        assert voice._phonemizer.process_id is not None
        os.kill(voice._phonemizer.process_id, signal.SIGKILL)
    assert failed is not None
    assert failed.code == "sentence_failed"
    assert np.array_equal(sound(say(voice, "Still here.")), expected)


@pytest.mark.parametrize(
    ("text", "asked", "speaker", "language"),
    [
        ("It rains today, I think.", "", "af_heart", "en-us"),
        ("It rains today, I think.", "am_onyx", "am_onyx", "en-us"),
        ("Buenos días, ¿cómo está usted?", "", "ef_dora", "es"),
        ("Buenos días, ¿cómo está usted?", "am_onyx", "em_alex", "es"),
        ("Le train part à huit heures.", "am_onyx", "ff_siwis", "fr"),
        ("La biblioteca apre alle nove.", "bf_emma", "if_sara", "it"),
        ("A biblioteca abre às nove da manhã.", "", "pf_dora", "pt-br"),
        ("आज मौसम बहुत अच्छा है।", "am_echo", "hm_omega", "hi"),
        ("What is the capital of France?", "em_alex", "am_michael", "en-us"),
        ("Die Bibliothek öffnet um neun Uhr.", "bm_lewis", "bm_lewis", "en-gb-x-rp"),  # nobody speaks German
        ("Paris.", "ef_dora", "ef_dora", "es"),  # not certain
    ],
)
def test_with_auto_a_sentence_is_read_by_a_speaker_of_its_language(
    several: KokoroVoice, text: str, asked: str, speaker: str, language: str
) -> None:
    assert several.cast(text, asked) == (speaker, language)


@pytest.fixture(scope="module")
def several() -> Iterator[KokoroVoice]:
    with closing(load(language="auto")) as voice:
        yield voice


def test_a_language_that_is_named_is_read_by_every_speaker() -> None:
    with closing(load(language="es", speaker="af_nova")) as voice:
        assert voice.language == "es"
        assert voice.cast("Good morning to you all.", "") == ("af_nova", "es")


def test_a_language_that_espeak_does_not_know_is_refused_at_the_start() -> None:
    with pytest.raises(VoiceError, match=r"kokoro-82m\.onnx is not one that can be spoken with"):
        load(language="tlh-nowhere")


def test_without_the_detector_auto_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voices, "find_spec", lambda name: None if name == "py3langid" else object())
    assert voices.why_silent(SpeechSettings(engine="kokoro")) == ""
    assert "py3langid: pip install 'loquent[voice]'" in voices.why_silent(
        SpeechSettings(engine="kokoro", language="auto")
    )


def test_the_bundled_voice_is_the_engines_own() -> None:
    assert SpeechSettings(engine="kokoro").voice == "kokoro-82m"
    assert SpeechSettings(engine="kokoro", voice="other.onnx").voice == "other.onnx"
    assert SpeechSettings().voice == "en_US-joe-medium"
    with pytest.raises(ValidationError, match='"auto" is for engine = "kokoro"'):
        SpeechSettings(language="auto")


def test_an_unknown_speaker_is_named_with_those_there_are() -> None:
    with pytest.raises(VoiceError, match=r"no speaker 'af_nobody'; there is af_alloy, .*pm_santa\.$"):
        load(speaker="af_nobody")


def broken(folder: Path, how: str) -> Path:
    path = folder / "own.onnx"
    (folder / "voices").mkdir()
    style = folder / "voices/af_own.bin"
    np.zeros((510, 256), dtype="<f4").tofile(style)
    match how:
        case "empty":
            path.write_bytes(b"")
        case "truncated":
            path.write_bytes(PACKAGES["kokoro-82m"].path.read_bytes()[:5000])
        case "a Piper voice":
            finish(install(PACKAGES["en_US-joe-medium"], threading.Event()))
            shutil.copy(PACKAGES["en_US-joe-medium"].path, path)
        case "another export":
            given = [onnx.helper.make_tensor_value_info(name, 1, [1]) for name in ("tokens", "style", "speed")]
            node = onnx.helper.make_node("Add", ["style", "speed"], ["audio"])
            made = onnx.helper.make_tensor_value_info("audio", 1, [1])
            onnx.save(onnx.helper.make_model(onnx.helper.make_graph([node], "other", given, [made])), path)
        case "no speakers":
            shutil.copy(PACKAGES["kokoro-82m"].path, path)
            style.unlink()
        case "half a speaker":
            shutil.copy(PACKAGES["kokoro-82m"].path, path)
            style.write_bytes(bytes(1000))
    return path


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "There is no voice .*own.onnx"),
        ("empty", "own.onnx is no Kokoro model"),
        ("truncated", "own.onnx can't be read, it may be truncated"),
        ("a Piper voice", "own.onnx is no Kokoro model .* its inputs are input, input_lengths, scales"),
        ("another export", "own.onnx is no Kokoro model of an export that is known here"),
        ("no speakers", "There is no speaker in .*voices"),
        ("half a speaker", "af_own.bin is not a speaker"),
    ],
)
def test_what_is_no_kokoro_voice_is_named_with_the_reason(
    voice: KokoroVoice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, says: str
) -> None:
    path = broken(tmp_path, how)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises((VoiceError, PackageError), match=says):
        load(voice=str(path))
