"""``detect``: wake words in sound, found by a supervised process.

TFLite is C code that is fed with sound from the network, and a crash must harm one detection only. So each detection
has a process of its own, which takes some 40 MiB and four thousandths of a core.
"""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from wyoming.audio import AudioChunk, AudioStop
from wyoming.event import Event
from wyoming.wake import Detection, NotDetected

from clients.wyoming import wake_child
from clients.wyoming.frames import FrameError
from clients.wyoming.hearing import converter_of
from clients.wyoming.speaking import Send, Take
from clients.wyoming.wake_child import RATE, READY
from loquent import LoquentError

PROGRAM = Path(wake_child.__file__)
MOST = 16  # detections at a time
START_SECONDS = 30.0
FEED_SECONDS = 5.0  # for a piece of sound; a hundredth of that is enough
WAITING_BYTES = 64 * 1024  # of sound that is not yet read by the process


@dataclass(frozen=True, slots=True)
class WakeWord:
    """A wake word that is installed."""

    name: str
    phrase: str
    languages: tuple[str, ...]


def installed() -> tuple[WakeWord, ...]:
    """The wake words of ``pymicro-wakeword``, none where it is not installed."""
    found = find_spec("pymicro_wakeword")
    if found is None or found.origin is None:
        return ()
    words = []
    for file in sorted((Path(found.origin).parent / "models").glob("*.json")):
        config = json.loads(file.read_text(encoding="utf-8"))
        words.append(WakeWord(file.stem, config["wake_word"], tuple(config.get("trained_languages", ["en"]))))
    return tuple(words)


class Waking:
    """Detects the wake words of one adapter's peers."""

    def __init__(self, words: tuple[WakeWord, ...], *, most: int = MOST, program: Path = PROGRAM) -> None:
        self.words = words
        self._most = most
        self._program = program
        self._running = 0

    async def detect(self, asked: Event, start: Event, take: Take, send: Send) -> None:
        """Answer ``audio-start`` and what follows it, up to ``audio-stop``; ``asked`` is the ``detect`` before it.

        Raises: LoquentError when nothing can be detected, FrameError, OSError when the peer is gone.
        """
        names = self._names(asked)
        converter = converter_of(start, RATE)
        if self._running >= self._most:
            raise LoquentError(f"There are {self._most} detections in progress; try again.")
        self._running += 1
        try:
            async with _child(self._program, names) as process:
                detection = _Detection(process, send)
                reading = asyncio.create_task(detection.report())
                try:
                    while not AudioStop.is_type((event := await take()).type):
                        if AudioChunk.is_type(event.type):
                            await detection.feed(converter.convert(event.payload or b""), event.data.get("timestamp"))
                    await detection.end(reading)
                finally:
                    reading.cancel()
                    await asyncio.gather(reading, return_exceptions=True)
        finally:
            self._running -= 1

    def _names(self, asked: Event) -> list[str]:
        """The models to load. Raises: FrameError for an unknown one."""
        known = [word.name for word in self.words]
        if not known:
            raise LoquentError("Wake words are not installed: pip install 'loquent[wyoming]'.")
        names = asked.data.get("names") or known
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise FrameError("detect: names is a list of texts.")
        if unknown := [name for name in names if name not in known]:
            raise FrameError(f"There is no wake word {unknown[0]!r:.60}; there are {', '.join(known)}.")
        return list(dict.fromkeys(names))


class _Detection:
    """The sound that goes to the process, and the detections that come from it."""

    def __init__(self, process: asyncio.subprocess.Process, send: Send) -> None:
        assert process.stdin is not None  # noqa: S101 - a pipe was asked for
        assert process.stdout is not None  # noqa: S101 - likewise
        self._input, self._output = process.stdin, process.stdout
        self._send = send
        self._timestamp: int | None = None  # of the latest sound, in milliseconds
        self._fed = 0  # samples
        self._found = False

    async def feed(self, pcm: bytes, timestamp: object) -> None:
        """More sound. Raises: LoquentError when the process is gone or stuck."""
        self._timestamp = timestamp if isinstance(timestamp, int) and not isinstance(timestamp, bool) else None
        self._fed += len(pcm) // 2
        try:
            async with asyncio.timeout(FEED_SECONDS):
                self._input.write(pcm)
                await self._input.drain()
        except OSError:
            raise LoquentError("The process that listens for wake words has ended.") from None

    async def report(self) -> None:
        """Send each detection, up to the process's end. Raises: OSError when the peer is gone."""
        while line := await self._output.readline():
            name, _, sample = line.decode().strip().partition(" ")
            behind = max(self._fed - int(sample), 0) * 1000 // RATE
            at = self._fed * 1000 // RATE if self._timestamp is None else self._timestamp
            self._found = True
            await self._send(Detection(name, max(at - behind, 0)).event())

    async def end(self, reading: "asyncio.Task[None]") -> None:
        """The sound has ended. Raises: LoquentError when the process does not end."""
        self._input.close()
        try:
            async with asyncio.timeout(FEED_SECONDS):
                await reading
        except TimeoutError:
            raise LoquentError("The process that listens for wake words is stuck.") from None
        if not self._found:
            await self._send(NotDetected().event())


@asynccontextmanager
async def _child(program: Path, names: list[str]) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process that listens for these words. Raises: LoquentError when it does not start."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",  # the program's folder is none to import from
        str(program),
        *names,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        limit=WAITING_BYTES,
    )
    try:
        assert process.stdout is not None  # noqa: S101 - a pipe was asked for
        try:
            async with asyncio.timeout(START_SECONDS):
                ready = await process.stdout.readline()
        except TimeoutError:
            ready = b""
        if ready.decode(errors="replace").strip() != READY:
            raise LoquentError("The process that listens for wake words does not start.")
        yield process
    finally:
        if process.stdin is not None:
            process.stdin.close()
        await _killed(process)


async def _killed(process: asyncio.subprocess.Process) -> None:
    """End a process. A cancellation waits until it is gone, which takes no time, so that none is left behind."""
    with suppress(ProcessLookupError):
        process.kill()
    waiting = asyncio.ensure_future(process.wait())
    cancelled = False
    while not waiting.done():
        try:
            await asyncio.shield(waiting)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
