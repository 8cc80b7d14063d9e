"""Archives of data: fetched once, whole or not at all, whoever asks at the same time."""

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.downloads import archives
from pipelines.downloads.archives import Archive, ArchiveError, fetch
from pipelines.downloads.progress import finish
from tests.support import PATIENCE

CONTENT = b"data" * 1000
NEVER = threading.Event()


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    monkeypatch.setattr(archives, "cache_folder", lambda: tmp_path)
    return Archive("pypi", "some-data", "1.0", hashlib.sha256(CONTENT).hexdigest(), "MIT")


def test_one_of_many_fetches_and_all_have_the_file(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[Path] = []
    all_wait = threading.Barrier(4)

    def get(archive: Archive, folder: Path) -> Path:
        path = folder / "some-data.whl"
        path.write_bytes(CONTENT)
        fetched.append(path)
        return path

    def ask(_: int) -> Path:
        all_wait.wait(PATIENCE)
        return finish(fetch(archive, NEVER))

    monkeypatch.setattr(archives, "_get", get)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(ask, range(4)))
    assert len(fetched) == 1
    assert {path.read_bytes() for path in found} == {CONTENT}
    assert sorted(path.name for path in found[0].parent.iterdir()) == [f".{found[0].name}.lock", found[0].name]


def test_a_damaged_file_is_fetched_again(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(archive: Archive, folder: Path) -> Path:
        path = folder / "x"
        path.write_bytes(CONTENT)
        return path

    monkeypatch.setattr(archives, "_get", get)
    path = finish(fetch(archive, NEVER))
    path.write_bytes(b"damaged")
    assert finish(fetch(archive, NEVER)).read_bytes() == CONTENT


def test_a_fetch_that_fails_leaves_nothing(archive: Archive, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def get(archive: Archive, folder: Path) -> Path:
        (folder / "half").write_bytes(b"half")
        raise ArchiveError("no network")

    monkeypatch.setattr(archives, "_get", get)
    with pytest.raises(ArchiveError, match="no network"):
        finish(fetch(archive, NEVER))
    assert not [path for path in (tmp_path / "corpora").iterdir() if path.suffix != ".lock"]
