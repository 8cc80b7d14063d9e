"""The cache folder: where models lie, and how a folder is made once, by one process, and whole or not at all."""

import atexit
import errno
import functools
import hashlib
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout

from pipelines.downloads.progress import Progress, Stopped

log = logging.getLogger(__name__)

READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)
LOCK_POLL = 0.2  # seconds between two looks at a lock that another process holds


def cache_folder() -> Path:
    """The folder of models and of what is made from them; safe to delete while nothing runs."""
    return Path(platformdirs.user_cache_dir("loquent", appauthor=False))


def models_folder() -> Path | None:
    """A folder of installed models that is only read, ``LOQUENT_MODELS``, besides those in the cache."""
    named = os.environ.get("LOQUENT_MODELS")
    return Path(named).expanduser() if named else None


def writable(folder: Path) -> Path:
    """``folder`` of the cache, made if need be; where it can't be written, a temporary one for this process.

    Raises: OSError when the disk is full, or when a temporary folder can't be had either.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise
    if os.access(folder, os.W_OK):
        return folder
    temporary = _temporary() / folder.name
    temporary.mkdir(exist_ok=True)
    return temporary


@functools.cache
def _temporary() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="loquent-cache-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    log.warning(
        "the cache %s can't be written: what is made for it is made in %s at each start", cache_folder(), folder
    )
    return folder


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

    Where the cache can't be written, it is a folder of the same name that lasts as long as the process.

    Raises: what ``make`` raises.
    """
    if folder.is_dir():
        return folder
    folder = writable(folder.parent) / folder.name
    lock = yield from locked(folder, stop)
    try:
        if not folder.is_dir():  # another process may have done it meanwhile
            yield Progress(text)
            with new_folder(folder) as making:
                make(making)
    finally:
        lock.release()
    return folder
