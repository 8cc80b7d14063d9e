"""Where models come from: packages, folders, GGUF files; in one step, checked by hash, with other processes about."""

import json
import multiprocessing
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from pipelines.chat.model import files as models
from pipelines.chat.model.files import convert, is_intact, prepare, weight_bytes
from pipelines.downloads import catalogue
from pipelines.downloads.cache import locked, new_folder, sha256
from pipelines.downloads.catalogue import PACKAGES
from pipelines.downloads.fetch import PackageError, install
from pipelines.downloads.progress import Progress, Stopped
from tests.tiny_gguf import tiny_gguf

Result = TypeVar("Result")
NEVER = threading.Event()


def finish(steps: "Iterator[Progress]") -> tuple[list[str], Path]:
    """Run to the end; returns the reports' texts and the result."""
    texts = []
    while True:
        try:
            texts.append(next(steps).text)
        except StopIteration as end:
            return texts, end.value


@pytest.fixture
def bundled() -> Path:
    """The bundled model's GGUF, fetched if this machine never had it."""
    return finish(install(PACKAGES["smollm2-135m-instruct"], NEVER))[1]


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(catalogue, "cache_folder", lambda: folder)
    monkeypatch.setattr(models, "cache_folder", lambda: folder)
    return folder


def tiny_conversion(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stand in for the long computation only; returns the files that were converted."""
    converted: list[Path] = []

    def write(gguf: Path, folder: Path) -> None:
        converted.append(gguf)
        (folder / "model.safetensors").write_bytes(gguf.read_bytes())

    monkeypatch.setattr(models, "_write_safetensors", write)
    return converted


def test_the_bundled_model_is_installed_by_hash_and_served_as_its_file(bundled: Path, cache: Path) -> None:
    assert sha256(bundled) == PACKAGES["smollm2-135m-instruct"].file_sha256
    assert finish(prepare(str(bundled), NEVER)) == ([], bundled)
    assert not (cache / "models").exists()


@pytest.mark.parametrize("name", ["own.gguf", "OWN.GGUF"])
def test_a_gguf_file_of_any_case_is_served_as_it_is(cache: Path, tmp_path: Path, name: str) -> None:
    file = tiny_gguf(tmp_path / name)
    assert finish(prepare(str(file), NEVER)) == ([], file)


def test_a_gguf_file_that_only_transformers_reads_is_converted(cache: Path, tmp_path: Path) -> None:
    file = tiny_gguf(tmp_path / "own.gguf", width=256, kind="Q2_K")
    texts, folder = finish(prepare(str(file), NEVER))
    assert "converting own.gguf, once" in texts
    assert is_intact(folder)
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= {path.name for path in folder.iterdir()}
    assert weight_bytes(folder) > 2 * 256 * 512


def test_a_gguf_file_is_converted_once_per_content(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = tiny_conversion(monkeypatch)
    file = tmp_path / "own.gguf"
    file.write_bytes(b"one")
    folders = {finish(convert(file, NEVER))[1] for _ in range(3)}
    assert len(converted) == 1
    file.write_bytes(b"two")
    folders.add(finish(convert(file, NEVER))[1])
    assert len(folders) == len(converted) == 2


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lambda whole: b"", "is not a GGUF file"),
        (lambda whole: b"12345678", "is not a GGUF file"),
        (lambda whole: b"GGUF\3\0\0\0", "is not a sound GGUF file: .* may be cut short"),
        (lambda whole: whole[: len(whole) // 2], "is not a sound GGUF file: .* may be cut short"),
        (lambda whole: whole.replace(b"llama", b"hippo"), "holds no .* that can be read"),
    ],
)
def test_a_gguf_file_that_can_not_be_read_is_said(
    cache: Path, tmp_path: Path, content: Callable[[bytes], bytes], why: str
) -> None:
    file = tiny_gguf(tmp_path / "own.gguf")
    file.write_bytes(content(file.read_bytes()))
    with pytest.raises(PackageError, match=rf"own\.gguf {why}"):
        finish(prepare(str(file), NEVER))
    assert not any((cache / "models").glob("*/"))


def test_a_gguf_file_without_a_tokenizer_can_not_be_converted(cache: Path, tmp_path: Path) -> None:
    file = tiny_gguf(tmp_path / "own.gguf", tokenizer=False)
    with pytest.raises(PackageError, match=r"own\.gguf holds no tokenizer"):
        finish(convert(file, NEVER))


def test_a_damaged_conversion_is_made_again(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    converted = tiny_conversion(monkeypatch)
    file = tmp_path / "own.gguf"
    file.write_bytes(b"weights")
    _, folder = finish(convert(file, NEVER))
    (folder / "model.safetensors").write_bytes(b"wreaths")
    assert not is_intact(folder)
    _, again = finish(convert(file, NEVER))
    assert again == folder
    assert is_intact(folder)
    assert len(converted) == 2


def test_a_conversion_that_fails_leaves_nothing_that_looks_finished(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(gguf: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError("the disk is full")

    monkeypatch.setattr(models, "_write_safetensors", fail)
    file = tmp_path / "own.gguf"
    file.write_bytes(b"weights")
    with pytest.raises(OSError, match="the disk is full"):
        finish(convert(file, NEVER))
    assert [path.name for path in (cache / "models").iterdir() if path.is_dir()] == []
    converted = tiny_conversion(monkeypatch)
    assert is_intact(finish(convert(file, NEVER))[1])
    assert converted == [file]


def _make(target: Path, log: Path) -> None:
    lock = finish_lock(locked(target, NEVER))
    try:
        if not target.exists():
            with new_folder(target) as making, log.open("a") as lines:
                lines.write("made\n")
                (making / "file").write_text("x" * 100_000)
    finally:
        lock.release()


def finish_lock(steps: "Iterator[Progress]"):  # type: ignore[no-untyped-def]
    return finish(steps)[1]


def test_processes_that_start_at_once_make_a_folder_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    target, log = tmp_path / "made", tmp_path / "log"
    processes = [context.Process(target=_make, args=(target, log)) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * 6
    assert log.read_text() == "made\n"
    assert (target / "file").read_text() == "x" * 100_000


def test_who_waits_for_another_process_says_so_and_can_be_stopped(tmp_path: Path) -> None:
    target, stop = tmp_path / "made", threading.Event()
    lock = finish_lock(locked(target, NEVER))
    waiting = locked(target, stop)
    assert "another process" in next(waiting).text
    stop.set()
    with pytest.raises(Stopped):
        next(waiting)
    lock.release()


def test_a_package_with_another_hash_is_not_taken(cache: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    forged = replace(PACKAGES["smollm2-135m-instruct"], wheel_sha256="0" * 64)
    with pytest.raises(PackageError, match="pip could not fetch"):
        finish(install(forged, NEVER))
    assert not forged.installed
    assert not any((cache / "packages").glob("*/"))


@pytest.mark.parametrize("name", ["no-such/model-anywhere", "not a name", "/no/such/folder"])
def test_a_model_that_is_nowhere_is_named_in_the_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # no test asks the hub
    with pytest.raises(PackageError, match=r"bundled ones .*smollm2-135m-instruct") as error:
        finish(prepare(name, NEVER))
    assert name in str(error.value)


def test_a_folder_is_used_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({}))
    assert finish(prepare(str(tmp_path), NEVER)) == ([], tmp_path)


def test_a_folder_without_a_model_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"no config\.json"):
        finish(prepare(str(tmp_path), NEVER))


def test_a_new_folder_replaces_the_old_one_in_one_step(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    for content in ("old", "new"):
        with new_folder(target) as making:
            (making / content).touch()
    assert [path.name for path in target.iterdir()] == ["new"]
    with pytest.raises(KeyError), new_folder(target):
        raise KeyError
    assert [path.name for path in target.iterdir()] == ["new"]
    shutil.rmtree(target)
    assert list(tmp_path.iterdir()) == []
