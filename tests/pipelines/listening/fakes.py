"""Fakes at the seams of listening: loud frames are speech, and words are those of a script."""

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.events import AUDIO_RATE
from pipelines.listening.audio import A_LAW, MU_LAW
from pipelines.listening.hearing import Hearing
from pipelines.listening.interface import FRAME, RATE, Reading, Request, Segment, Transcript, Word
from pipelines.listening.settings import ListeningSettings

LOUD = 0.05

Floats = NDArray[np.float32]


class LoudIsSpeech:
    """Hears speech wherever it is loud."""

    def stream(self) -> "LoudIsSpeech":
        return self

    def __call__(self, frames: Floats) -> Sequence[float]:
        return [0.95 if np.abs(frame).max() > LOUD else 0.01 for frame in frames.reshape(-1, FRAME)]


@dataclass
class ScriptedEnd:
    """Says of each pause whether the turn is over."""

    probability: float = 1.0

    def __call__(self, samples: Floats) -> float:
        return self.probability


@dataclass
class ScriptedRecogniser:
    """Says the same of all audio, or what a function makes of its seconds; remembers what it was asked."""

    text: str | Callable[[float], str] = "What is the capital of France?"
    error: Exception | None = None
    gate: threading.Semaphore | None = None
    asked: list[tuple[float, Request]] = field(default_factory=list)
    translates: bool = True
    read_as: list[Reading] = field(default_factory=list)

    def __call__(self, samples: Floats, request: Request) -> Transcript:
        if self.gate is not None:
            self.gate.acquire()
        seconds = len(samples) / RATE
        self.asked.append((seconds, request))
        if self.error is not None:
            raise self.error
        return Transcript(self.text if isinstance(self.text, str) else self.text(seconds), "en", -0.1, 0.02)

    def read(self, samples: Floats, reading: Reading) -> Iterator[Segment]:
        self.read_as.append(reading)
        for start in range(0, max(len(samples) // RATE, 1), 10):
            text = self(samples[start * RATE : (start + 10) * RATE], Request()).text
            words = tuple(Word(word, start, start + 1) for word in text.split()) if reading.words else ()
            yield Segment(start, start + 10, " " + text, "en", (1, 2), -0.1, 0.02, words=words)


def hearing_with(
    recogniser: ScriptedRecogniser | None = None,
    end: ScriptedEnd | None = None,
    settings: ListeningSettings | None = None,
) -> Hearing:
    """What listens, with fakes for models."""
    return Hearing(
        settings or ListeningSettings(),
        activity=lambda: (LoudIsSpeech(), end or ScriptedEnd()),
        recogniser=lambda: recogniser or ScriptedRecogniser(),
    )


@asynccontextmanager
async def started(hearing: Hearing) -> AsyncIterator[Hearing]:
    """It, with its threads running."""
    await hearing.start()
    try:
        yield hearing
    finally:
        await hearing.close()


def tone(milliseconds: int, rate: int = AUDIO_RATE) -> bytes:
    """A loud tone, as PCM."""
    times = np.arange(milliseconds * rate // 1000) / rate
    return (0.3 * 32767 * np.sin(2 * np.pi * 440 * times)).astype("<i2").tobytes()


def silence(milliseconds: int, rate: int = AUDIO_RATE) -> bytes:
    """Silence, as PCM."""
    return bytes(2 * (milliseconds * rate // 1000))


def encode(pcm: bytes, encoding: str) -> bytes:
    """PCM as G.711: for each sample the byte that stands for the nearest one."""
    table = (MU_LAW if encoding == "audio/pcmu" else A_LAW).astype(np.int32)
    samples = np.frombuffer(pcm, "<i2").astype(np.int32)
    return bytes(int(np.abs(table - sample).argmin()) for sample in samples)
