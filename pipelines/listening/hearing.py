"""What the sessions of one server share to listen with: the models, their threads, and how many may listen."""

import logging
import time
import traceback
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pipelines.capacity import Capacity
from pipelines.cores import Cores
from pipelines.events import StageError
from pipelines.listening.audio import floats
from pipelines.listening.interface import (
    RATE,
    Activity,
    ActivityModel,
    EndModel,
    Reading,
    Recogniser,
    Request,
    Segment,
    Transcript,
)
from pipelines.listening.settings import ListeningSettings
from pipelines.listening.words import Vocabulary, imagined
from pipelines.listening.workers import ModelThread

if TYPE_CHECKING:
    from pipelines.listening.interface import Samples

log = logging.getLogger(__name__)

PIECE = 24 * RATE  # samples that are recognised at once, at most
WINDOW = 3 * RATE  # at whose end, where the quietest place is the cut between two pieces
QUIET = RATE // 10  # samples of such a place


class Hearing:
    """The models that listen, each on its thread."""

    def __init__(
        self,
        settings: ListeningSettings,
        *,
        activity: Callable[[], tuple[ActivityModel, EndModel]],
        recogniser: Callable[[], Recogniser],
        cores: Cores | None = None,
        missing: str = "",
    ) -> None:
        cores = cores or Cores()
        self.settings = settings
        self.missing = missing  # why nothing is heard and will not be
        self.vocabulary = Vocabulary.of(settings.stop_words, settings.agreement)
        self.capacity = Capacity(settings.streams, "sessions that are listened to")
        self._ears = ModelThread("hear", activity)
        self._words = ModelThread("recognise", recogniser, cores.share(settings.threads))
        self.observe: Callable[[float], None] = lambda seconds: None  # of recognising
        self.drops: Counter[str] = Counter()  # what was no turn, by the reason; its reasons are few
        self.heard_seconds = 0.0
        self.busy_seconds = 0.0

    async def start(self) -> None:
        """Load the models, where there are some. Raises: ListeningError when one can't be used."""
        if self.missing:
            log.warning("speech is not heard. %s", self.missing)
            return
        await self._ears.start()
        await self._words.start()

    async def close(self) -> None:
        """End the threads."""
        await self._ears.close()
        await self._words.close()

    @property
    def ready(self) -> bool:
        """Whether speech is heard."""
        return self._ears.ready and self._words.ready

    @property
    def waiting(self) -> int:
        """Pieces of audio whose words are waited for."""
        return self._words.waiting

    def check(self) -> None:
        """Raises: StageError while nothing is heard."""
        if not self.ready:
            code = "listening_not_available" if self.missing else "listening_not_ready"
            raise StageError("unavailable", code, self.missing or "Speech recognition is not ready; try again.")

    def dropped(self, why: str) -> None:
        """Count what was no turn."""
        self.drops[why] += 1

    async def activity(self) -> Activity:
        """A new stream's. Raises: StageError."""
        return await self._ears.ask(lambda models: models[0].stream())

    async def hear(self, activity: Activity, frames: "Samples") -> Sequence[float]:
        """The probability of speech in each frame. Raises: StageError."""
        self.heard_seconds += len(frames) / RATE
        return await self._ears.ask(lambda models: activity(frames))

    async def judge(self, samples: "Samples") -> float:
        """The probability that a turn is over; one that can't be judged is. Raises: nothing."""
        try:
            return await self._ears.ask(lambda models: models[1](samples))
        except Exception as error:
            _report("the end of a turn", error)
            return 1.0

    async def recognise(self, samples: "Samples", request: Request, *, urgent: bool = True) -> Transcript:
        """The words of at most 30 seconds. Raises: StageError."""

        def work(model: Recogniser) -> Transcript:
            begun = time.perf_counter()
            made = model(samples, request)
            seconds = time.perf_counter() - begun
            self.busy_seconds += seconds
            self.observe(seconds)
            return made

        try:
            return await self._words.ask(work, urgent=urgent)
        except StageError:
            raise
        except Exception as error:
            _report("speech", error)
            text = "The speech could not be recognised."
            raise StageError("internal", "transcription_failed", text) from None

    async def transcribe(self, pcm: bytes, request: Request) -> Transcript:
        """The words of any length, without imagined ones. Raises: StageError."""
        samples = floats(pcm)
        whole = Transcript("", request.language)
        while len(samples):
            cut = _cut(samples)
            prompt = f"{request.prompt} {whole.text}".strip()
            made = await self.recognise(samples[:cut], replace(request, prompt=prompt))
            if not imagined(made):
                whole = whole + made if whole.text else made
            samples = samples[cut:]
        return whole

    async def read(self, pcm: bytes, reading: Reading) -> AsyncGenerator[Segment]:
        """What is said in a recording of any length; sessions that wait for words come between its steps.

        Raises: StageError.
        """
        self.check()
        model = self._words.model
        if reading.translate and model is not None and not model.translates:
            raise StageError("invalid_request", "unsupported_value", "The configured model does not translate.")
        samples = floats(pcm)
        steps: Iterator[Segment] = iter(())

        def begin(model: Recogniser) -> None:
            nonlocal steps
            steps = model.read(samples, reading)

        def step(model: Recogniser) -> Segment | None:
            begun = time.perf_counter()
            try:
                return next(steps, None)
            finally:
                self.busy_seconds += time.perf_counter() - begun

        try:
            await self._words.ask(begin, urgent=False)
            while (segment := await self._words.ask(step, urgent=False)) is not None:
                heard = Transcript(segment.text, logprob=segment.logprob, no_speech=segment.no_speech)
                if not imagined(heard):
                    yield segment
        except StageError:
            raise
        except Exception as error:
            _report("a recording", error)
            text = "The recording could not be recognised."
            raise StageError("internal", "transcription_failed", text) from None


def _cut(samples: "Samples") -> int:
    """Where the first piece ends: at the quietest place near the most that is recognised at once."""
    if len(samples) <= PIECE:
        return len(samples)
    window = samples[PIECE - WINDOW : PIECE].reshape(-1, QUIET)
    return PIECE - WINDOW + int(np.argmin(np.square(window).sum(axis=1))) * QUIET + QUIET // 2


def _report(what: str, error: Exception) -> None:
    """Log a fault, without the error's own words: they may be what was said."""
    where = "".join(traceback.format_tb(error.__traceback__))
    log.error("%s could not be recognised: %s\n%s", what, type(error).__name__, where)
