"""The threads that speak, and whose next piece of sound they compute first.

Sound is needed by a time: before what was sent has been played. So first comes whoever would fall silent soon, then
whoever has not been heard yet, in the order in which they came, and then whoever has least in store. A voice computes a
sentence piece by piece, and between two pieces its thread may turn to somebody else.
"""

import asyncio
import logging
import threading
import time
import traceback
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

from pipelines.cores import Cores, Share
from pipelines.events import StageError
from pipelines.speech.voices.interface import Samples, Voice
from pipelines.worker import told_by_thread

log = logging.getLogger(__name__)

# Seconds of sound in store, with less of which a reply comes before those that have not begun: what one piece may take,
# and for each of the others, whose turn may come first, another one.
PRESSING = 0.25
PRESSING_EACH = 0.12
AHEAD = 2  # pieces of a sentence that may wait for whoever asked for it
JOIN_PATIENCE = 5.0  # seconds that a closing pool waits for the piece in progress


def _closing() -> StageError:
    return StageError("unavailable", "server_shutting_down", "The server is shutting down.")


@dataclass(frozen=True, slots=True)
class Sentence:
    """What to say, how, and by when its sound is needed."""

    text: str
    speaker: str = ""
    speed: float = 1.0
    due: float | None = None  # on the clock of ``time.monotonic``; None while nothing of the reply was heard


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
        with suppress(RuntimeError):  # the event loop is gone, and whoever waited with it
            self.loop.call_soon_threadsafe(self.pieces.put_nowait, piece)


class Workers:
    """Speaks for many at once, with a voice that is loaded on the first of its threads."""

    def __init__(self, load: Callable[[], Voice], *, threads: int = 1, share: Share | None = None) -> None:
        self._load = load
        self._share = share or Cores().share(1)  # of the cores
        self._computing = 0  # threads
        self._count = threads
        self._pool: list[threading.Thread] = []
        self._jobs: list[_Job] = []  # bounded by whoever asks: one sentence for each reply
        self._wake = threading.Condition()
        self._closing = False
        self.voice: Voice | None = None
        # Counted since the start, for metrics.
        self.busy_seconds = 0.0
        self.spoken_seconds = 0.0

    async def start(self) -> None:
        """Load the voice; returns when it can speak. Raises what loading raises."""
        loaded, tell = told_by_thread()

        def run() -> None:
            error: BaseException | None = None
            try:
                self.voice = self._load()
            except BaseException as raised:  # raised again where it was asked for
                error = raised
            tell(error)
            if error is None:
                self._serve()
            if self._closing and self.voice is not None:  # it was loaded too late for ``close``
                self.voice.close()

        self._spawn(run)
        await loaded
        for _ in range(self._count - 1):
            self._spawn(self._serve)

    async def close(self) -> None:
        """End every sentence, then the threads."""
        with self._wake:
            self._closing = True
            for job in self._jobs:
                job.put(_End(_closing()))
            self._jobs.clear()
            self._wake.notify_all()
        if self.voice is not None:
            await asyncio.to_thread(self.voice.close)
        await asyncio.gather(*(asyncio.to_thread(thread.join, JOIN_PATIENCE) for thread in self._pool))

    def check_open(self) -> None:
        """Raises: StageError ``server_shutting_down`` once the workers close."""
        if self._closing:
            raise _closing()

    @property
    def waiting(self) -> int:
        """Sentences in the making."""
        return len(self._jobs)

    async def say(self, sentence: Sentence) -> AsyncGenerator[Samples]:
        """Speak a sentence, piece by piece; closing the generator drops it.

        Raises: StageError when the voice fails or the workers close.
        """
        job = _Job(sentence, asyncio.get_running_loop(), due=sentence.due)
        with self._wake:
            self.check_open()
            if self.voice is None:
                raise StageError("unavailable", "voice_not_ready", "The voice is not ready.")
            self._jobs.append(job)
            self._wake.notify()
        try:
            while not isinstance(piece := await job.pieces.get(), _End):
                with self._wake:
                    job.room += 1
                    self._wake.notify()
                yield piece
            if piece.error is not None:
                raise piece.error
        finally:
            with self._wake:
                if job in self._jobs:
                    self._jobs.remove(job)  # a thread that has it gives it back to nobody

    def _spawn(self, run: Callable[[], None]) -> None:
        thread = threading.Thread(target=run, name=f"speech-{len(self._pool)}", daemon=True)
        self._pool.append(thread)
        thread.start()

    def _serve(self) -> None:
        while (job := self._take()) is not None:
            begun = time.perf_counter()
            piece = self._make(job)
            self._give_back(job, piece, time.perf_counter() - begun)

    def _take(self) -> _Job | None:
        """The most urgent job, among those whose reader has taken most of what there is."""
        with self._wake:
            while not self._closing:
                ready = [job for job in self._jobs if job.room > 0 and not job.taken]
                if ready:
                    pressing = time.monotonic() + PRESSING + PRESSING_EACH * len(self._jobs)
                    job = min(ready, key=lambda job: job.urgency(pressing))
                    job.taken = True
                    self._computing += 1
                    self._share.active = True
                    return job
                self._share.active = self._computing > 0
                self._wake.wait()
            return None

    def _threads(self) -> int:
        return max(self._share.threads // max(self._computing, 1), 1)

    def _make(self, job: _Job) -> Samples | _End | None:
        assert self.voice is not None  # noqa: S101 - threads serve only once it is loaded
        try:
            if job.making is None:
                asked = job.sentence
                job.making = iter(self.voice.say(asked.text, asked.speaker, asked.speed, self._threads))
            return next(job.making, _End())
        except StageError as error:
            log.warning("a sentence could not be spoken: %s", error.code)
            return _End(error)
        except BaseException as error:  # nothing may end this thread
            # Without the error's own words: libraries put what they were to say into them.
            where = "".join(traceback.format_tb(error.__traceback__))
            log.error("a sentence could not be spoken: %s\n%s", type(error).__name__, where)
            return _End(StageError("internal", "speech_failed", "The voice failed on this reply."))

    def _give_back(self, job: _Job, piece: Samples | _End | None, seconds: float) -> None:
        with self._wake:
            self._computing -= 1
            self.busy_seconds += seconds
            job.taken = False
            if job not in self._jobs:  # its reader left, or was told that the workers close
                return
            if isinstance(piece, Samples) and self.voice is not None:
                sound = len(piece.audio) / self.voice.rate
                self.spoken_seconds += sound
                job.due = (time.monotonic() if job.due is None else job.due) + sound
                job.room -= 1
            elif isinstance(piece, _End):
                self._jobs.remove(job)
            if piece is not None:
                job.put(piece)
