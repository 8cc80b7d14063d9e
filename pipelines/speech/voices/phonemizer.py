"""Phonemes of foreign text, from a supervised process.

espeak-ng is C code that text can crash, and a crash must not take the server with it. So it runs in a child process
with a limit of memory and a deadline for each request. A child that ends or hangs is replaced at once, and only the
sentence that it was reading fails.
"""

import logging
import socket
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipelines.events import StageError
from pipelines.speech.voices import phonemizer_child
from pipelines.speech.voices.interface import UNREADABLE
from pipelines.speech.voices.phonemizer_child import Groups, encoded, received

log = logging.getLogger(__name__)

PROGRAM = Path(phonemizer_child.__file__)
START_PATIENCE = 30.0  # seconds until a child must be ready
DEADLINE = 2.0  # seconds for a request; espeak-ng needs less than a millisecond
MODEL_DEADLINE = 20.0  # for languages that Piper reads with a model
MEMORY = 256 << 20  # bytes that espeak-ng may take; it needs 10 MiB
MODEL_MEMORY = 2 << 30
RENEWED = 1000  # texts that one child reads: espeak-ng loses some two KiB with each
ATTEMPTS = 2  # a child may have been killed for something else
MOST_REQUEST = 256 << 10  # bytes of one request


def _failed(why: str) -> StageError:
    return StageError("internal", UNREADABLE, f"The voice could not read a sentence: {why}.")


class Phonemizer:
    """Reads text for one voice, one request at a time; threads may share it. The child starts with the first request.

    ``config`` is a Piper voice's configuration where Piper's library must read the text; otherwise espeak-ng does.
    """

    def __init__(
        self,
        language: str,
        clusters: Iterable[Sequence[str]] = (),
        config: Path | None = None,
        *,
        deadline: float | None = None,
        memory: int | None = None,
        program: Path = PROGRAM,
        renewed: int = RENEWED,
    ) -> None:
        self._language = language
        self._deadline = deadline or (MODEL_DEADLINE if config else DEADLINE)
        self._program = program
        self._renewed = renewed
        self._setup = {
            "piper": _piper(),
            "clusters": [list(cluster) for cluster in clusters],
            "config": str(config) if config else "",
            "memory": memory or (MODEL_MEMORY if config else MEMORY),
            "patience": START_PATIENCE,
            "deadline": self._deadline,
        }
        self._asking = threading.Lock()  # held while a child reads
        self._life = threading.Lock()  # guards the two below
        self._child: _Child | None = None
        self._closed = False
        self.restarts = 0  # of children that ended or hung

    @property
    def process_id(self) -> int | None:
        """That of the child, if there is one."""
        child = self._child
        return child.process.pid if child else None

    def phonemes(self, texts: Sequence[str], language: str = "") -> list[Groups]:
        """The phonemes of each text, by sentence.

        Raises: StageError when the text crashed the child, took too long or can't be read, or when this is closed.
        """
        request = encoded({"texts": texts, "voice": language or self._language})
        if len(request) > MOST_REQUEST:
            raise _failed("it is too long")
        with self._asking:
            for _ in range(ATTEMPTS):
                child = self._started()
                try:
                    answer = _read(child.ask(request, self._deadline), len(texts))
                    child.texts += len(texts)
                    if child.texts >= self._renewed:
                        self._renew(child)
                    return answer
                except TimeoutError:
                    self._replace(child)
                    raise _failed("it took too long") from None
                except (OSError, EOFError, ValueError, RecursionError):
                    self._replace(child)
        raise _failed("it ended the process that reads it")

    def close(self) -> None:
        """End the child. Whoever is asking it gets a StageError."""
        with self._life:
            self._closed = True
            child = self._child
        if child is not None:
            child.process.kill()
            with self._asking:
                child.end()

    def _started(self) -> "_Child":
        with self._life:
            if self._closed:
                raise StageError("unavailable", "server_shutting_down", "The server is shutting down.")
            if self._child is None:
                try:
                    self._child = _Child(self._program, self._setup)
                except OSError as error:
                    raise _failed(f"the process that reads it does not start ({error.strerror})") from None
            return self._child

    def _replace(self, child: "_Child") -> None:
        """For a child that ended or hung."""
        child.end()
        if not self._closed:
            self.restarts += 1
            log.warning("the phonemizer ended (%s) and is started again", child.process.returncode)
        self._renew(child)

    def _renew(self, child: "_Child") -> None:
        """Start another child at once, so that the next request does not wait for it."""
        with self._life:
            self._child = None
            child.end()
            if self._closed:
                return
            try:
                self._child = _Child(self._program, self._setup)
            except OSError as error:  # the next request tries again
                log.error("the phonemizer does not start: %s", error.strerror)


class _Child:
    """One process and the socket to it. Also ends when it is forgotten. Raises: OSError when it can't be started."""

    def __init__(self, program: Path, setup: dict[str, Any]) -> None:
        self._connection, theirs = socket.socketpair()
        try:
            with theirs:
                self.process = subprocess.Popen(  # noqa: S603 - our own program
                    # -P: the folder of the program is none to import from, it has a module called piper.
                    [sys.executable, "-P", str(program)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # native code may print what it reads
                )
        except BaseException:
            self._connection.close()
            raise
        self.end = weakref.finalize(self, _end, self.process, self._connection)
        self._ready = False
        self.texts = 0  # that it has read
        self._connection.settimeout(START_PATIENCE)
        self._connection.sendall(encoded(setup))

    def ask(self, request: bytes, deadline: float) -> dict[str, Any]:
        """Send a request; returns the answer.

        Raises: TimeoutError, and OSError, EOFError or ValueError when the child ends or is no longer sane.
        """
        if not self._ready:
            if "error" in (ready := self._receive(START_PATIENCE)):
                raise _failed(str(ready["error"]))
            self._ready = True
        self._connection.settimeout(deadline)
        self._connection.sendall(request)
        return self._receive(deadline)

    def _receive(self, seconds: float) -> dict[str, Any]:
        until = time.monotonic() + seconds

        def read(size: int) -> bytes:
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._connection.settimeout(left)
            return self._connection.recv(size)

        answer = received(read)
        if not isinstance(answer, dict):
            raise ValueError("no answer")
        return answer


def _end(process: "subprocess.Popen[bytes]", connection: socket.socket) -> None:
    process.kill()
    process.wait()
    connection.close()


def _read(answer: dict[str, Any], count: int) -> list[Groups]:
    """Check the answer: what native code has corrupted may say anything."""
    if "error" in answer:
        raise _failed(str(answer["error"]))
    phonemes = answer.get("phonemes")
    if not isinstance(phonemes, list) or len(phonemes) != count:
        raise ValueError("no phonemes")
    if not all(
        isinstance(groups, list)
        and all(isinstance(group, list) and all(isinstance(each, str) for each in group) for group in groups)
        for groups in phonemes
    ):
        raise ValueError("no phonemes")
    return phonemes


def _piper() -> str:
    """The folder of Piper's package, found without importing it. Raises: ModuleNotFoundError."""
    spec = find_spec("piper")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("There is no module piper.")
    return next(iter(spec.submodule_search_locations))
