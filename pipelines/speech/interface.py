"""The seam between the speech stage and what speaks for it: threads of this process, or replicas elsewhere."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from pipelines.events import StageError
from pipelines.speech.voices.interface import Samples, Voiced


@dataclass(frozen=True, slots=True)
class Sentence:
    """What to say, how, and by when its sound is needed."""

    text: str
    speaker: str = ""
    speed: float = 1.0
    due: float | None = None  # on the clock of ``time.monotonic``; None while nothing of the reply was heard
    rate: int = 0  # samples a second that its reader counts on; 0: those of the voice that speaks


class Speaks(Protocol):
    """Speaks for many at once."""

    @property
    def voice(self) -> Voiced | None:
        """The voice, while it can speak."""

    @property
    def waiting(self) -> int:
        """Sentences in the making."""

    @property
    def busy_seconds(self) -> float:
        """Computed here so far."""

    @property
    def spoken_seconds(self) -> float:
        """Of sound so far."""

    async def start(self) -> None:
        """Returns once there is a voice that can speak. Raises: VoiceError when it can't be used."""

    async def close(self) -> None:
        """End every sentence."""

    @property
    def closing(self) -> bool:
        """Whether it takes nothing more."""

    def say(self, sentence: Sentence) -> AsyncGenerator[Samples]:
        """Speak a sentence, piece by piece; closing the generator drops it.

        Raises: StageError when the voice fails or this closes.
        """


def not_ready() -> StageError:
    """That there is no voice now."""
    return StageError("unavailable", "voice_not_ready", "The voice is not ready; try again.")
