"""The threads that speak, and whose next piece of sound they compute first.

Sound has a deadline: the moment at which all that was sent has been played. Replies whose buffer would underrun soon
come first, then those that have not begun, in the order of arrival, then the earliest deadline. A voice computes a
sentence piece by piece, and its thread may serve another reply between two pieces.
"""

import asyncio
import logging
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from pipelines.cores import Cores, Share
from pipelines.events import StageError, shutting_down
from pipelines.speech.interface import Sentence, not_ready
from pipelines.speech.voices.interface import Samples, Voice
from pipelines.worker import Worker

log = logging.getLogger(__name__)

# Seconds of sound in store, with less of which a reply comes before those that have not begun: what one piece may take,
# and for each of the others, whose turn may come first, another one.
PRESSING = 0.25
PRESSING_EACH = 0.12
AHEAD = 2  # pieces of a sentence that may wait for their reader


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None = None


@dataclass(eq=False, slots=True)
class _Job:
    """A sentence in the making."""

    sentence: Sentence
    loop: asyncio.AbstractEventLoop
    pieces: asyncio.Queue[Samples | _End] = field(default_factory=asyncio.Queue)  # bounded by ``room``
    due: float | None = None
    room: int = AHEAD
    making: Iterator[Samples | None] | None = None
    taken: bool = False  # a thread computes its next piece
    arrived: float = field(default_factory=time.monotonic)

    def urgency(self, pressing: float) -> tuple[int, float]:
        """The least goes first; what is due before ``pressing`` can't wait."""
        if self.due is None:
            return 1, self.arrived
        return (0 if self.due < pressing else 2), self.due

    def put(self, piece: Samples | _End) -> None:
        with suppress(RuntimeError):  # the event loop is closed, and its tasks with it
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)


class Workers:
    """Speaks for many at once, with a voice that is loaded on the first of its threads."""

    def __init__(self, load: Callable[[], Voice], *, threads: int = 1, share: Share | None = None) -> None:
        self._share = share or Cores().share(1)  # of the cores
        self._jobs: list[_Job] = []  # one sentence for each reply, and their capacity is bounded
        self._worker: Worker[Voice, _Job] = Worker(
            "speech",
            load,
            take=self._take,
            work=self._work,
            abandon=self._abandon,
            unload=lambda voice: voice.close(),
            threads=threads,
            share=self._share,
        )
        # Counted since the start, for metrics.
        self.busy_seconds = 0.0
        self.spoken_seconds = 0.0

    @property
    def voice(self) -> Voice | None:
        """The voice, once it is loaded."""
        return self._worker.model

    async def start(self) -> None:
        """Load the voice; returns when it can speak. Raises what loading raises."""
        await self._worker.start()

    async def close(self) -> None:
        """End every sentence, then the threads."""
        await self._worker.close()

    @property
    def closing(self) -> bool:
        """Whether no sentence is taken any more."""
        return self._worker.closing

    @property
    def waiting(self) -> int:
        """Sentences in the making."""
        return len(self._jobs)

    async def say(self, sentence: Sentence) -> AsyncGenerator[Samples]:
        """Speak a sentence, piece by piece; closing the generator drops it.

        Raises: StageError when the voice fails or the workers close.
        """
        job = _Job(sentence, asyncio.get_running_loop(), due=sentence.due)
        with self._worker.changed:
            if self.closing:
                raise shutting_down()
            if not self._worker.ready:
                raise not_ready()
            self._jobs.append(job)
            self._worker.changed.notify()
        try:
            while not isinstance(piece := await job.pieces.get(), _End):
                with self._worker.changed:
                    job.room += 1
                    self._worker.changed.notify()
                yield piece
            if piece.error is not None:
                raise piece.error
        finally:
            with self._worker.changed:
                if job in self._jobs:
                    self._jobs.remove(job)  # a thread that has it drops its piece

    def _take(self) -> _Job | None:
        """The most urgent job, among those whose reader has taken most of what there is."""
        ready = [job for job in self._jobs if job.room > 0 and not job.taken]
        if not ready:
            return None
        pressing = time.monotonic() + PRESSING + PRESSING_EACH * len(self._jobs)
        job = min(ready, key=lambda job: job.urgency(pressing))
        job.taken = True
        return job

    def _abandon(self, error: StageError) -> None:
        for job in self._jobs:
            job.put(_End(error))
        self._jobs.clear()

    def _work(self, voice: Voice, job: _Job) -> None:
        begun = time.perf_counter()
        piece = self._make(voice, job)
        self._give_back(voice, job, piece, time.perf_counter() - begun)

    def _threads(self) -> int:
        return max(self._share.threads // max(self._worker.computing, 1), 1)

    def _make(self, voice: Voice, job: _Job) -> Samples | _End | None:
        try:
            if job.making is None:
                asked = job.sentence
                job.making = iter(voice.say(asked.text, asked.speaker, asked.speed, self._threads))
            return next(job.making, _End())
        except StageError as error:
            log.warning("a sentence could not be spoken: %s", error.code)
            return _End(error)
        except BaseException as error:  # nothing may end this thread
            # Without the error's own words: libraries put what they were to say into them.
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error("a sentence could not be spoken: %s\n%s", type(error).__name__, where)
            return _End(StageError("internal", "speech_failed", "The voice failed on this reply."))

    def _give_back(self, voice: Voice, job: _Job, piece: Samples | _End | None, seconds: float) -> None:
        with self._worker.changed:
            self.busy_seconds += seconds
            job.taken = False
            if job not in self._jobs:  # its reader has left, or the workers close
                return
            if isinstance(piece, Samples):
                sound = len(piece.audio) / voice.rate
                self.spoken_seconds += sound
                job.due = (time.monotonic() if job.due is None else job.due) + sound
                job.room -= 1
            elif isinstance(piece, _End):
                self._jobs.remove(job)
            if piece is not None:
                job.put(piece)
