"""The keys of a running server: those of the configuration, and those of the keys file as it is now."""

import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

from server.access.key_file import KeyFileError, path_of, read_keys
from server.access.keys import Key
from server.config import ServerSettings

log = logging.getLogger(__name__)

INTERVAL = 1.0  # seconds between two looks at the file

Signature = tuple[int, int, int, int] | None


class Keyring:
    """Finds keys by their hashes. The file is looked at when a key is asked for, at most once in ``INTERVAL``."""

    def __init__(
        self,
        settings: ServerSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """Raises: KeyFileError where the keys file can't be used."""
        self._configured = tuple(Key(hash, hash) for hash in settings.keys)
        self._path: Path = path_of(settings)
        self._clock, self._wall = clock, wall
        self._looked = clock()
        self._seen = _signature(self._path)
        self._keys: dict[str, Key] = {}  # by hash
        self._ids: dict[str, Key] = {}
        self.generation = 0  # of the keys; it grows when they change
        self.several = False  # whether keys of several names share the server
        self._put(read_keys(self._path))
        self._required = not settings.loopback or bool(self._keys)

    def _put(self, found: tuple[Key, ...]) -> None:
        self._keys = {key.hash: key for key in (*found, *self._configured)}
        self._ids = {key.id: key for key in self._keys.values()}
        self.several = len({key.name for key in self._keys.values()}) > 1

    @property
    def required(self) -> bool:
        """Whether requests need a key. Once they do, removing the last key does not open the server again."""
        self.refresh()
        return self._required

    @property
    def usable(self) -> bool:
        """Whether there is a key that has not expired."""
        return any(key.valid(self._wall()) for key in self._keys.values())

    def find(self, hash: str) -> Key | None:
        """The key with this hash, unless it has expired."""
        self.refresh()
        # A lookup by the hash of what was sent reveals by its time nothing about a key: no one can choose a hash.
        key = self._keys.get(hash)
        return key if key is not None and key.valid(self._wall()) else None

    def alive(self, id: str) -> bool:
        """Whether the key with this id is still valid; "" is that of a server that needs none."""
        self.refresh()
        if not id:
            return not self._required
        key = self._ids.get(id)
        return key is not None and key.valid(self._wall())

    def expiry(self, id: str) -> float:
        """When the key with this id expires, as Unix time; infinity where it does not."""
        key = self._ids.get(id)
        return math.inf if key is None or key.expires_at is None else key.expires_at

    def refresh(self) -> None:
        """Read the file again where it has changed. One that can't be used leaves the keys as they are."""
        now = self._clock()
        if now - self._looked < INTERVAL:
            return
        self._looked = now
        signature = _signature(self._path)
        if signature == self._seen:
            return
        self._seen = signature
        try:
            self._put(read_keys(self._path))
        except KeyFileError as error:
            log.error("the keys stay as they were: %s", error)
            return
        self._required = self._required or bool(self._keys)
        self.generation += 1
        log.info("the keys file has changed: %d keys", len(self._keys))


def _signature(path: Path) -> Signature:
    """What differs once the file was written; None where there is none to see."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino
