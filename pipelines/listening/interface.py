"""The seams of listening: what hears speech, what hears the end of a turn, and what recognises words."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.float32]  # (N,), mono, within [-1, 1], RATE a second

RATE = 16_000  # samples a second of everything that is listened to
FRAME = 512  # samples that are judged at once: 32 ms


class ListeningError(Exception):
    """A model can't be used; the message names the file and says why."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token of a transcript, and its log-probability."""

    text: str
    logprob: float


@dataclass(frozen=True, slots=True)
class Transcript:
    """What was heard in a piece of audio."""

    text: str
    language: str = ""  # ISO 639-1
    logprob: float = 0.0  # mean of the tokens'
    no_speech: float = 0.0  # probability that nothing was said
    tokens: tuple[Token, ...] = ()  # only where they were asked for

    def __add__(self, later: "Transcript") -> "Transcript":
        """Both, one after the other; the worse of their scores."""
        return Transcript(
            f"{self.text} {later.text}".strip(),
            later.language or self.language,
            min(self.logprob, later.logprob),
            max(self.no_speech, later.no_speech),
            self.tokens + later.tokens,
        )


@dataclass(frozen=True, slots=True)
class Request:
    """How to recognise a piece of audio."""

    language: str = ""  # ISO 639-1; "", or one that is not known: the one that is heard
    likely: str = "en"  # the language where what is heard is uncertain
    prompt: str = ""  # what was said before, or words that may occur
    tokens: bool = False  # whether their log-probabilities are wanted
    thorough: bool = True  # whether words that are not certain are worth several times the work


@dataclass(frozen=True, slots=True)
class Word:
    """A word of a segment, and when it is said, in seconds."""

    text: str
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a recording, in seconds from its beginning, and what is said in it."""

    start: float
    end: float
    text: str
    language: str = ""
    tokens: tuple[int, ...] = ()
    logprob: float = 0.0  # mean of the tokens'
    no_speech: float = 0.0
    compression: float = 1.0  # of the text: repetitions make it large
    temperature: float = 0.0
    words: tuple[Word, ...] = ()  # only where they were asked for


@dataclass(frozen=True, slots=True)
class Reading:
    """How to recognise a recording."""

    language: str = ""  # as ``Request`` has it
    prompt: str = ""
    translate: bool = False  # into English
    words: bool = False  # whether the times of words are wanted
    temperature: float | None = None  # None: greedy, and more where that fails


class Activity(Protocol):
    """Hears speech in one stream of audio, frame by frame."""

    def __call__(self, frames: "Samples") -> Sequence[float]:
        """The probability of speech in each frame; ``frames`` is (n · FRAME,)."""


class ActivityModel(Protocol):
    """Makes an ``Activity`` for each stream. Blocking, and used by one thread."""

    def stream(self) -> Activity:
        """A new stream."""


class EndModel(Protocol):
    """Hears whether a turn is over. Blocking, and used by one thread."""

    def __call__(self, samples: "Samples") -> float:
        """The probability that the speaker of these samples, up to a pause at their end, has finished."""


class Recogniser(Protocol):
    """Recognises words. Blocking, and used by one thread."""

    def __call__(self, samples: "Samples", request: Request) -> Transcript:
        """What is said in at most 30 seconds."""

    @property
    def translates(self) -> bool:
        """Whether it can translate into English."""

    def read(self, samples: "Samples", reading: Reading) -> Iterator[Segment]:
        """What is said in a recording of any length. Each step may take a second or more."""
