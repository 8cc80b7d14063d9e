"""The seam between the speech stage and what speaks: a voice turns a sentence into samples, piece by piece."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

UNREADABLE = "sentence_failed"  # the code of a StageError about one sentence; the next one may be spoken


class VoiceError(Exception):
    """A voice can't be used; the message names the file and says why."""


@dataclass(frozen=True, slots=True)
class WordEnd:
    """A word of the sentence, and when it has been said."""

    character: int  # index behind its last one
    sample: int  # from the sentence's beginning


@dataclass(frozen=True, slots=True)
class Samples:
    """The next piece of a sentence's sound."""

    audio: "NDArray[np.float32]"  # (N,), mono, within [-1, 1]
    # Of the whole sentence; the first piece brings them, where the voice knows them, or each piece its own.
    words: tuple[WordEnd, ...] = ()


class Voiced(Protocol):
    """What is known of a voice, wherever it speaks."""

    @property
    def rate(self) -> int:
        """Samples a second."""

    @property
    def language(self) -> str:
        """An espeak-ng or ISO code."""

    @property
    def speakers(self) -> tuple[str, ...]:
        """By name; empty where there is one only."""


class Voice(Voiced, Protocol):
    """Blocking, and used by several threads at once."""

    def say(self, text: str, speaker: str, speed: float, threads: Callable[[], int]) -> Iterator[Samples | None]:
        """Speak one sentence of at most a few hundred characters; ``speaker`` "" is the default one.

        ``threads`` says, whenever it is asked, how many threads there are to compute with.

        A text that the voice has no sounds for gives no samples. ``None`` says that there is still something to compute
        before the next ones, and that others may do so first.

        Raises: StageError when this sentence can't be spoken; the next one may.
        """

    def close(self) -> None:
        """End what runs beside the voice. Callable twice, and while a sentence is being spoken."""


class Cast(NamedTuple):
    """Who says a sentence, and in which language (an espeak-ng or ISO code)."""

    speaker: str
    language: str


@runtime_checkable
class ManyLanguages(Protocol):
    """What a voice has besides when its speakers speak different languages."""

    def cast(self, text: str, speaker: str) -> Cast:
        """Who says a sentence that was asked of ``speaker``, "" for the default one. Takes well under a millisecond."""


def cast(voice: Voiced, text: str, speaker: str) -> Cast:
    """Who says a sentence that was asked of ``speaker``."""
    return voice.cast(text, speaker) if isinstance(voice, ManyLanguages) else Cast(speaker, voice.language)


def check_speaker(voice: Voice, place: object, speaker: str) -> None:
    """Raises: VoiceError when the voice, which lies at ``place``, has no such speaker; "" is the default one."""
    if speaker and speaker not in voice.speakers:
        known = ", ".join(voice.speakers) or "only one, without a name"
        raise VoiceError(f"The voice {place} has no speaker {speaker!r}; there is {known}.")
