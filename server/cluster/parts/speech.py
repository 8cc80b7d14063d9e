"""Speech, for gateways whose voice is elsewhere: both ends of it."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipelines.events import StageError
from pipelines.speech.interface import Sentence, Speaks
from pipelines.speech.settings import SpeechSettings
from pipelines.speech.voices.casting import Casting
from pipelines.speech.voices.interface import UNREADABLE, Cast, ManyLanguages, Samples, Voiced, WordEnd
from server.cluster.parts.answering import Load
from server.cluster.parts.asking import BrokenOffError, Replicas
from server.cluster.parts.wire import Frame, MalformedError, floats

SAY = "say"
Whole = Annotated[int, Field(ge=0)]


class _Asked(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    text: Annotated[str, Field(max_length=100_000)]
    speaker: str
    speed: Annotated[float, Field(gt=0, le=100)]
    due: Annotated[float, Field(ge=-3600, le=3600)] | None  # seconds from now: clocks differ


class _Piece(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: Whole
    words: list[tuple[Whole, Whole]]


class _Described(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    rate: Annotated[int, Field(ge=4000, le=384_000)]
    language: str
    speakers: tuple[str, ...]
    casts: bool


@dataclass(frozen=True, slots=True)
class RemoteVoice:
    """What is known of the replicas' voice."""

    rate: int
    language: str
    speakers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RemoteCast:
    """The same, of one whose speakers speak several languages."""

    rate: int
    language: str
    speakers: tuple[str, ...]
    casting: Casting

    def cast(self, text: str, speaker: str) -> Cast:
        """See ``ManyLanguages``."""
        return self.casting.cast(text, speaker)


def unheard() -> StageError:
    """That a sentence can't be spoken now; a reply goes on without its sound."""
    return StageError("unavailable", UNREADABLE, "The voice can't be reached; try again in a moment.")


class SpeechAnswers:
    """Speaks for gateways, on a replica."""

    def __init__(self, workers: Speaks, load: Load) -> None:
        self._workers = workers
        self._load = load

    def describe(self) -> Frame:
        """The voice, for ``RemoteWorkers``."""
        voice = self._voice()
        casts = isinstance(voice, ManyLanguages)
        return Frame({"rate": voice.rate, "language": voice.language, "speakers": voice.speakers, "casts": casts})

    def _voice(self) -> Voiced:
        if self._workers.voice is None:
            raise StageError("unavailable", "voice_not_ready", "The voice is not loaded.")
        return self._workers.voice

    async def __call__(self, request: Frame) -> AsyncGenerator[Frame]:
        """An answer to ``RemoteWorkers``."""
        asked = _Asked.model_validate(request.head)
        due = None if asked.due is None else time.monotonic() + asked.due
        rate = self._voice().rate
        with self._load.of(1):
            async with aclosing(
                self._workers.say(Sentence(asked.text, asked.speaker, asked.speed, due, rate))
            ) as pieces:
                async for piece in pieces:
                    words = [(each.character, each.sample) for each in piece.words]
                    yield Frame({"rate": rate, "words": words}, piece.audio.astype("<f4").tobytes())


class RemoteWorkers:
    """Has sentences spoken by replicas; see ``Speaks``."""

    def __init__(self, replicas: Replicas, settings: SpeechSettings) -> None:
        self.busy_seconds = 0.0  # nothing is computed here
        self.spoken_seconds = 0.0
        self._replicas = replicas
        self._settings = settings
        self._learned: Voiced | None = None

    def learn(self, said: Frame) -> None:
        """Take note of what a replica says of its voice. Raises: MalformedError."""
        try:
            described = _Described.model_validate(said.head)
            found = RemoteVoice(described.rate, described.language, described.speakers)
            if described.casts:
                casting = Casting(found.speakers, self._settings)
                self._learned = RemoteCast(found.rate, found.language, found.speakers, casting)
            else:
                self._learned = found
        except (ValidationError, LookupError):
            raise MalformedError("a voice that can't be read") from None

    @property
    def voice(self) -> Voiced | None:
        """The voice, while a replica may be asked."""
        return self._learned if self._replicas.ready else None

    @property
    def waiting(self) -> int:
        """Sentences in the making."""
        return self._replicas.requests

    async def start(self) -> None:
        """Wait for the first replica."""
        await self._replicas.start()

    async def close(self) -> None:
        """End every sentence."""
        await self._replicas.close()

    @property
    def closing(self) -> bool:
        """See ``Speaks``."""
        return self._replicas.closing

    async def say(self, sentence: Sentence) -> AsyncGenerator[Samples]:
        """See ``Speaks``. Raises: StageError ``sentence_failed`` where no replica answers, or the one that did dies."""
        due = None if sentence.due is None else max(sentence.due - time.monotonic(), -3600.0)
        asked = {"text": sentence.text, "speaker": sentence.speaker, "speed": sentence.speed, "due": due}
        try:
            async with aclosing(self._replicas.ask(SAY, asked)) as frames:
                async for frame in frames:
                    samples, rate = unpack(frame)
                    if sentence.rate not in (0, rate):  # the voice was replaced, and what reads it goes on as it began
                        raise unheard()
                    self.spoken_seconds += len(samples.audio) / rate
                    yield samples
        except BrokenOffError:
            raise unheard() from None
        except MalformedError:
            raise self._replicas.unreadable() from None


def unpack(frame: Frame) -> tuple[Samples, int]:
    """A piece of sound, and its samples a second. Raises: MalformedError."""
    try:
        said = _Piece.model_validate(frame.head)
    except ValidationError:
        raise MalformedError("a piece of sound that can't be read") from None
    if not said.rate:
        raise MalformedError("a piece of sound without a rate")
    return Samples(floats(frame.body), tuple(WordEnd(*each) for each in said.words)), said.rate
