"""The ears of one session, driven as a client drives them: in real time, or as fast as they hear."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from bench.heard.speakers import pcm
from pipelines.downloads.catalogue import PACKAGES
from pipelines.downloads.fetch import install
from pipelines.downloads.progress import finish
from pipelines.events import AUDIO_RATE
from pipelines.listening.events import Hears, Report
from pipelines.listening.hearing import Hearing
from pipelines.listening.listener import Listener
from pipelines.listening.part import END_MODEL
from pipelines.listening.settings import ListeningSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]  # (N,), mono, within [-1, 1], AUDIO_RATE a second

PIECE = AUDIO_RATE // 25  # samples of a client's event
AHEAD = 5.0  # seconds by which the server sends sound before it is played
FLOOR = -65.0  # dB of full scale, of the room


@asynccontextmanager
async def hearing(model: str = "whisper-base") -> AsyncIterator[Hearing]:
    """What the server hears with: Silero, Smart Turn and this recogniser, each on its thread."""
    from pipelines.listening.models.silero import Silero
    from pipelines.listening.models.smart_turn import SmartTurn
    from pipelines.listening.models.whisper import Whisper

    settings = ListeningSettings(model=model)
    stop = threading.Event()
    folder = finish(install(PACKAGES[model], stop)).parent
    end = finish(install(PACKAGES[END_MODEL], stop))
    made = Hearing(
        settings,
        activity=lambda: (Silero(), SmartTurn(end)),
        recogniser=lambda: Whisper(folder, settings.threads),
    )
    await made.start()
    while not made.ready:  # noqa: ASYNC110 - there is nothing else to wait for
        await asyncio.sleep(0.05)
    try:
        yield made
    finally:
        await made.close()


@dataclass
class Heard:
    """A listener at work, and what it has reported, each with the time of the clock."""

    listener: Listener
    reports: list[tuple[float, Report]] = field(default_factory=list)

    def of(self, kind: type[Report]) -> list[tuple[float, Report]]:
        """The reports of one kind."""
        return [each for each in self.reports if isinstance(each[1], kind)]

    async def quickly(self, audio: "Floats", seconds: float = 0.2) -> None:
        """Hear it as fast as may be: no piece is sent before the last one, and its words, are considered."""
        size = round(seconds * AUDIO_RATE)
        for begin in range(0, len(audio), size):
            self.listener.push(pcm(audio[begin : begin + size]))
            while self.listener.behind:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(0.001)

    async def really(self, audio: "Floats", each: Callable[[float], bool] = lambda at: False) -> float:
        """Hear it in real time, a piece of 40 ms when it has been spoken; returns when it began, by the clock.

        ``each`` is called with the seconds before each piece, and ends it by True.
        """
        begun = time.perf_counter()
        for begin in range(0, len(audio), PIECE):
            await asyncio.sleep(max(begun + (begin + PIECE) / AUDIO_RATE - time.perf_counter(), 0))
            if each(begin / AUDIO_RATE):
                break
            self.listener.push(pcm(audio[begin : begin + PIECE]))
        return begun


@asynccontextmanager
async def listening(hearing: Hearing, hears: Hears) -> AsyncIterator[Heard]:
    """A session's ears, while the block runs."""
    reports: list[tuple[float, Report]] = []

    async def report(each: Report) -> None:
        reports.append((time.perf_counter(), each))

    heard = Heard(Listener(hearing, hears, report, clock=time.perf_counter), reports)
    task = asyncio.create_task(heard.listener.run())
    try:
        yield heard
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def room(audio: "Floats", before: float, after: float, seed: int = 3) -> "Floats":
    """The sound in a quiet room, with so many seconds of it around."""
    chance = np.random.default_rng(seed)
    whole = np.concatenate([np.zeros(round(before * AUDIO_RATE), np.float32), audio])
    whole = np.concatenate([whole, np.zeros(round(after * AUDIO_RATE), np.float32)])
    made: Floats = whole + (10 ** (FLOOR / 20) * chance.standard_normal(len(whole))).astype(np.float32)
    return made


class Reply:
    """A reply that is sent as the server sends one: in pieces with their words, seconds before they are played."""

    def __init__(self, listener: Listener, text: str, seconds: float) -> None:
        self._listener = listener
        self._words = [word + " " for word in text.split()]
        self._seconds = seconds
        self._sent = 0.0
        self._told = 0
        listener.replying(active=True)

    def send(self, at: float) -> None:
        """Send what is due after so many seconds."""
        while self._sent < min(at + AHEAD, self._seconds):
            self._sent = min(self._sent + 0.2, self._seconds)
            due = round(len(self._words) * self._sent / self._seconds)
            self._listener.sounded(0, "".join(self._words[self._told : due]))
            self._listener.sounded(round(0.2 * AUDIO_RATE), "")
            self._told = due
            if self._sent >= self._seconds:
                self._listener.replying(active=False)
