"""The keys file: the hashes, names and scopes of the keys, as JSON.

It is replaced as a whole, under a lock, so that a reader sees the old keys or the new ones and never a part.
"""

import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from server.access.keys import NAME, Key
from server.config import KEY_HASH, ServerSettings

VERSION = 1
PATIENCE = 10.0  # seconds to wait for another command that writes
LARGEST = 16 * 1024 * 1024  # bytes

Scope = Literal["realtime", "http", "secrets", "admin"]


class KeyFileError(Exception):
    """The keys file can't be used; the message names it and says what to do."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    name: Annotated[str, Field(pattern=f"^{NAME.pattern}$")]
    hash: Annotated[str, Field(pattern=f"^{KEY_HASH.pattern}$")]
    scopes: list[Scope]
    created_at: int = 0
    expires_at: int | None = None


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    version: Literal[1]
    keys: list[_Entry]


def path_of(settings: ServerSettings) -> Path:
    """Where the keys file is: as configured, or in the user's data folder."""
    if settings.keys_file:
        return Path(settings.keys_file).expanduser()
    return Path(platformdirs.user_data_dir("loquent", appauthor=False)) / "keys.json"


def read_keys(path: Path) -> tuple[Key, ...]:
    """The keys of a file, of which there are none where it does not exist. Raises: KeyFileError."""
    try:
        if not path.exists():
            return ()
        if not path.is_file():
            raise KeyFileError(f"The keys file {path} is no file; [server] keys_file names another.")
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError as error:
        raise KeyFileError(f"The keys file {path} can't be read: {error.strerror or error}.") from None
    if len(raw) > LARGEST:
        raise KeyFileError(f"The keys file {path} has more than {LARGEST} bytes.")
    return _parsed(path, raw)


def _parsed(path: Path, raw: bytes) -> tuple[Key, ...]:
    try:
        entries = _File.model_validate_json(raw).keys
    except ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(map(str, problem["loc"]))
        raise KeyFileError(
            f"The keys file {path} is broken{f' at {where}' if where else ''}: {problem['msg']}. "
            "Put back a copy, or remove it and make new keys with `loquent keys new`."
        ) from None
    if len({entry.hash for entry in entries}) < len(entries):
        raise KeyFileError(f"The keys file {path} is broken: it holds a hash twice.")
    return tuple(
        Key(entry.name, entry.hash, frozenset(entry.scopes), entry.created_at, entry.expires_at) for entry in entries
    )


def change_keys(path: Path, change: Callable[[tuple[Key, ...]], Sequence[Key]]) -> None:
    """Replace the file's keys by what ``change`` makes of them; other writers wait meanwhile.

    Raises: KeyFileError; what ``change`` raises, and then the file stays as it is.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(f"{path}.lock", timeout=PATIENCE, mode=0o600):
            _replace(path, change(read_keys(path)))
    except Timeout:
        raise KeyFileError(f"Another command holds {path}.lock; try again.") from None
    except OSError as error:
        raise KeyFileError(f"The keys file {path} can't be written: {error.strerror or error}.") from None


def _replace(path: Path, keys: Sequence[Key]) -> None:
    text = json.dumps({"version": VERSION, "keys": [_written(key) for key in keys]}, indent=2) + "\n"
    target = path.resolve()  # behind a link the file itself is replaced
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".keys-")  # its mode is 0600
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def _written(key: Key) -> dict[str, Any]:
    return {
        "name": key.name,
        "hash": key.hash,
        "scopes": sorted(key.scopes),
        "created_at": key.created_at,
        "expires_at": key.expires_at,
    }
