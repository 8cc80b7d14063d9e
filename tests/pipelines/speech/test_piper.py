"""Piper voices: a tiny one with every part of a real one, and voices that are none."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnxruntime import InferenceSession

from pipelines.downloads.fetch import PackageError
from pipelines.downloads.progress import finish
from pipelines.speech.settings import SpeechSettings
from pipelines.speech.voices import available as voices
from pipelines.speech.voices.interface import Samples, VoiceError
from pipelines.speech.voices.piper import MOST_PHONEMES, PiperVoice
from tests.tiny_voice import HOP, tiny_voice

TEXT = "The library opens at nine, and it closes late in the evening."


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def load(path: Path, **settings: Any) -> PiperVoice:
    voice = finish(voices.prepare(SpeechSettings(voice=str(path), threads=2, **settings), threading.Event()))()
    assert isinstance(voice, PiperVoice)
    return voice


def say(voice: PiperVoice, text: str = TEXT, speaker: str = "", speed: float = 1.0) -> list[Samples]:
    counts: Iterator[int] = iter([1, 2] * 1000)  # it may change from one window to the next
    return [piece for piece in voice.say(text, speaker, speed, lambda: next(counts)) if piece is not None]


def sound(pieces: list[Samples]) -> NDArray[np.float32]:
    return np.concatenate([piece.audio for piece in pieces])


def whole(path: Path, voice: PiperVoice, text: str, **more: int) -> NDArray[np.float32]:
    """What the uncut graph makes of it."""
    ids, _ = voice._ids(voice._phonemes(text))
    given = {
        "input": np.array([ids]),
        "input_lengths": np.array([len(ids)]),
        "scales": np.array([0, 1, 0], dtype=np.float32),
        **{name: np.array([value]) for name, value in more.items()},
    }
    (made,) = InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, given)
    return np.asarray(made).reshape(-1)


def test_windows_give_the_samples_of_the_whole(tmp_path: Path) -> None:
    path = tiny_voice(tmp_path)
    voice = load(path)
    pieces = say(voice)
    assert len(pieces) >= 3, "it comes piece by piece"
    assert len(pieces[0].audio) < len(pieces[1].audio) < len(pieces[2].audio), "and soon"
    expected = whole(path, voice, TEXT)
    assert len(sound(pieces)) == len(expected)
    assert np.abs(sound(pieces) - expected).max() < 1e-3


def test_each_speaker_has_a_voice(tmp_path: Path) -> None:
    path = tiny_voice(tmp_path, speakers=("ann", "bob"))
    voice = load(path)
    assert voice.speakers == ("ann", "bob")
    for number, name in enumerate(voice.speakers):
        assert np.abs(sound(say(voice, speaker=name)) - whole(path, voice, TEXT, sid=number)).max() < 1e-3
    assert np.abs(sound(say(voice, speaker="ann")) - sound(say(voice, speaker="bob"))).max() > 0.01
    with pytest.raises(VoiceError, match="no speaker 'eve'; there is ann, bob"):
        load(path, speaker="eve")


def test_speed_and_the_ends_of_words(tmp_path: Path) -> None:
    voice = load(tiny_voice(tmp_path))
    slow, fast = say(voice, speed=1.0), say(voice, speed=2.0)
    assert len(sound(slow)) == 2 * len(sound(fast))
    words = slow[0].words
    assert [TEXT[: word.character].split()[-1] for word in words] == TEXT.split()
    assert [word.sample for word in words] == sorted(word.sample for word in words)
    assert all(word.sample % HOP == 0 for word in words)
    assert not any(piece.words for piece in slow[1:])


@pytest.mark.parametrize("text", ["", ".", "…", " ", "、", "\u3042"])
def test_what_has_no_sound_gives_none(tmp_path: Path, text: str) -> None:
    voice = load(tiny_voice(tmp_path))
    assert len(say(voice, text)) == len(say(voice, text)), "and does no harm"
    assert say(voice, "") == []


def test_text_with_very_many_phonemes_is_read_in_parts(tmp_path: Path) -> None:
    voice = load(tiny_voice(tmp_path))
    text = "© ® " * 75
    assert len(voice._phonemes(text)) > 2 * MOST_PHONEMES
    read: list[int] = []
    plan = voice._model.plan

    def counting(ids: list[int], *rest: Any) -> Any:
        read.append(len(ids))
        return plan(ids, *rest)

    voice._model.plan = counting  # type: ignore[method-assign, assignment]
    assert len(sound(say(voice, text))) == sum(read) * 2 * HOP
    assert len(read) > 2
    assert max(read) <= 2 * MOST_PHONEMES + 3


def test_a_voice_is_cut_once_and_again_when_it_changes(tmp_path: Path) -> None:
    path = tiny_voice(tmp_path)
    load(path)
    cache = tmp_path / "cache/loquent/voices"
    before = {folder.name for folder in cache.iterdir() if folder.is_dir()}
    load(path)
    assert {folder.name for folder in cache.iterdir() if folder.is_dir()} == before
    path = tiny_voice(tmp_path, speakers=("ann", "bob"))
    assert load(path).speakers == ("ann", "bob")
    assert len({folder.name for folder in cache.iterdir() if folder.is_dir()}) == len(before) + 1


def broken(folder: Path, how: str) -> Path:
    path = tiny_voice(folder)
    match how:
        case "missing":
            path.unlink()
        case "truncated":
            path.write_bytes(path.read_bytes()[:5000])
        case "empty":
            path.write_bytes(b"")
        case "no configuration":
            path.with_name("tiny.onnx.json").unlink()
        case "bad configuration":
            path.with_name("tiny.onnx.json").write_text("{")
        case "half a configuration":
            path.with_name("tiny.onnx.json").write_text("{}")
        case "another kind of model":
            value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
            out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
            graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "other", [value], [out])
            onnx.save(helper.make_model(graph), path)
        case "another architecture":
            tiny_voice(folder, vocoder="/vocos/")
    return path


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("missing", "There is no voice"),
        ("truncated", "truncated"),
        ("empty", "no Piper voice"),
        ("no configuration", "configuration beside it"),
        ("bad configuration", "not the configuration"),
        ("half a configuration", "'num_symbols' is missing"),
        ("another kind of model", "its inputs are x, and a Piper voice has input, input_lengths, scales"),
        ("another architecture", "architecture"),
    ],
)
def test_a_file_that_is_no_voice_is_named_and_told_why(tmp_path: Path, how: str, says: str) -> None:
    path = broken(tmp_path, how)
    with pytest.raises((VoiceError, PackageError), match=says) as refused:
        load(path)
    assert "tiny.onnx" in str(refused.value)
