"""The ears of one session: feed ``Turns`` with what the models hear, and report what follows.

One task, ``run``, owns the turns. Whoever pushes audio never waits; ``room`` is where a client's socket is held back.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pipelines.events import AUDIO_RATE, StageError
from pipelines.listening import events, turn_taking
from pipelines.listening.audio import Decoder, Recording, level
from pipelines.listening.events import Hears, Report
from pipelines.listening.hearing import Hearing
from pipelines.listening.interface import FRAME, RATE, Activity, Request, Transcript
from pipelines.listening.turn_taking import Step
from pipelines.listening.turns import (
    Await,
    Decision,
    Dropped,
    Ended,
    Idled,
    Judge,
    Partly,
    Policy,
    Recognise,
    Started,
    Turns,
    milliseconds,
    samples,
)

if TYPE_CHECKING:
    from pipelines.listening.interface import Samples

ROOM = 1 << 20  # bytes of audio that wait to be heard, beyond which a client's socket is held back
SLICE = 8192  # bytes that are heard at once: others have their turn between
BEFORE = 2 * RATE  # samples that are there of the time before speech
ANSWER_SECONDS = 15.0  # that words may take


@dataclass(frozen=True, slots=True)
class _Commit:
    serial: int


@dataclass(frozen=True, slots=True)
class _Clear:
    pass


class Listener:
    """Hears one session. ``report`` is awaited for each report, in order."""

    def __init__(
        self,
        hearing: Hearing,
        hears: Hears,
        report: Callable[[Report], Awaitable[None]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._hearing = hearing
        self._report = report
        self._clock = clock
        self._hears = hears
        self._given: deque[bytearray | Hears | _Commit | _Clear] = deque()  # bounded by ``room`` and who waits for it
        self._bytes = 0  # of audio in it
        self._changed = asyncio.Event()
        self._freed = asyncio.Event()
        self._turns = Turns(self._policy(hears), hearing.vocabulary)
        self._decoder = Decoder(hears.encoding)
        self._activity: Activity | None = None
        self._recording = Recording()
        self._frames: deque[tuple[float, float]] = deque()  # heard and not considered; at most those of a slice
        self._heard_out = float("-inf")  # when all sound that was sent will have been played
        self._asked: dict[int, asyncio.Task[Transcript | None]] = {}  # by generation; at most two
        self._awaited: int | None = None
        self._hears_now = False  # a step is being taken
        self._spoken = False  # since the last turn that the client ended, somebody did

    def push(self, data: bytes) -> None:
        """More audio, as the client encodes it."""
        last = self._given[-1] if self._given else None
        if isinstance(last, bytearray):
            last += data
        else:
            self._given.append(bytearray(data))
        self._bytes += len(data)
        self._changed.set()

    async def room(self) -> None:
        """Wait until little audio waits to be heard."""
        while self._bytes > ROOM:
            self._freed.clear()
            await self._freed.wait()

    @property
    def behind(self) -> bool:
        """Whether something that was pushed, or its words, is still to be considered."""
        return bool(self._given or self._frames or self._asked or self._hears_now)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of audio that wait to be heard."""
        return self._bytes

    @property
    def recorded_bytes(self) -> int:
        """Bytes of audio that may still belong to a turn."""
        return 2 * (self._recording.end - self._recording.begin)

    def configure(self, hears: Hears) -> None:
        """Hear what is pushed from now on in this way."""
        self._given.append(hears)
        self._changed.set()

    def commit(self, serial: int) -> None:
        """The client's turn is over: ``Transcribed`` with this serial follows."""
        self._given.append(_Commit(serial))
        self._changed.set()

    def clear(self) -> None:
        """Forget what was pushed since the last turn."""
        self._given.append(_Clear())
        self._changed.set()

    def replying(self, *, active: bool) -> None:
        """A reply is being made from now on, or no longer."""
        self._turns = turn_taking.replying(self._turns, active=active)

    def sounded(self, count: int, text: str) -> None:
        """So many samples of a reply were sent, of AUDIO_RATE, and this text with them."""
        if count:
            self._heard_out = max(self._heard_out, self._clock()) + count / AUDIO_RATE
        self._turns = turn_taking.sounded(self._turns, text)

    def silenced(self) -> None:
        """The reply has stopped, and its client plays no more of it."""
        self._heard_out = float("-inf")
        self._turns = turn_taking.silenced(self._turns)

    async def run(self) -> None:
        """Hear, until cancelled. Raises: what ``report`` raises."""
        try:
            while True:
                await self._step()
        finally:
            for task in self._asked.values():
                task.cancel()
            await asyncio.gather(*self._asked.values(), return_exceptions=True)

    async def _step(self) -> None:
        """Take the next thing that happened: an answer, a frame, or what the client sent."""
        if (answer := next((each for each in self._asked if self._asked[each].done()), None)) is not None:
            await self._answered(answer)
        elif self._awaited is not None:
            await asyncio.wait(self._asked.values(), return_when=asyncio.FIRST_COMPLETED)
        elif self._frames:
            await self._follow(turn_taking.hear(self._turns, *self._frames.popleft(), self._unheard()))
            if not self._frames:
                self._forget()
        elif self._given:
            await self._take()
        else:
            self._changed.clear()
            changed = asyncio.ensure_future(self._changed.wait())
            try:
                await asyncio.wait([changed, *self._asked.values()], return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()

    async def _take(self) -> None:
        self._hears_now = True
        try:
            await self._take_next()
        finally:
            self._hears_now = False

    async def _take_next(self) -> None:
        match self._given[0]:
            case bytearray() as audio:
                data = bytes(audio[:SLICE])
                del audio[:SLICE]
                if not audio:
                    self._given.popleft()
                self._bytes -= len(data)
                self._freed.set()
                await self._hear(data)
            case Hears() as hears:
                self._given.popleft()
                self._configure(hears)
            case _Commit(serial):
                self._given.popleft()
                await self._commit(serial)
            case _Clear():
                self._given.popleft()
                self._restart()

    def _configure(self, hears: Hears) -> None:
        if hears.encoding != self._hears.encoding:
            self._decoder = Decoder(hears.encoding)
        if (hears.policy is None) != (self._hears.policy is None):
            self._restart()
        self._hears = hears
        self._turns = replace(self._turns, policy=self._policy(hears))

    def _policy(self, hears: Hears) -> Policy:
        policy = hears.policy or Policy()
        settings = self._hearing.settings
        return replace(
            policy,
            interrupt_ms=settings.interrupt_ms,
            grace_ms=settings.grace_ms,
            longest_ms=hears.longest_ms,
        )

    async def _hear(self, data: bytes) -> None:
        """Hear a slice of audio: its frames are considered one by one."""
        self._recording.add(self._decoder(data))
        count = (self._recording.end - self._turns.now) // FRAME
        if not count:
            return
        heard = self._recording.samples(self._turns.now, self._turns.now + count * FRAME)
        try:
            if self._activity is None:
                self._activity = await self._hearing.activity()
            probabilities = await self._hearing.hear(self._activity, heard)
        except StageError:  # the server shuts down: its sessions are ended elsewhere
            probabilities = [0.0] * count
        frames = zip(probabilities, heard.reshape(-1, FRAME), strict=True)
        if self._hears.policy is not None:
            self._frames.extend((probability, level(frame)) for probability, frame in frames)
            return
        self._turns = replace(self._turns, now=self._turns.now + count * FRAME)
        self._spoken = self._spoken or any(probability >= Policy().threshold for probability in probabilities)
        self._recording.forget(self._turns.now - samples(self._hears.longest_ms))  # the session refuses what is beyond

    def _unheard(self) -> int:
        """Samples of the reply that are not played yet."""
        return max(int((self._heard_out - self._clock()) * RATE), 0) if self._heard_out > float("-inf") else 0

    def _forget(self) -> None:
        """Drop the audio that can no longer belong to a turn."""
        speech = self._turns.speech
        begun = self._turns.now if speech is None else speech.begun
        self._recording.forget(begun - BEFORE)

    def _restart(self) -> None:
        self._turns = turn_taking.cleared(self._turns)
        self._frames.clear()
        self._turns = replace(self._turns, now=self._recording.end)
        self._spoken = False
        self._recording.forget(self._recording.end)
        self._awaited = None

    async def _commit(self, serial: int) -> None:
        """Recognise the turn that the client has ended, or what a voice was heard in of it."""
        speech = self._turns.speech
        begin = self._recording.begin if self._hears.policy is None or speech is None else max(speech.begun - BEFORE, 0)
        spoken = self._spoken or speech is not None
        pcm = self._recording.pcm(begin, self._recording.end)
        self._restart()
        transcript: Transcript | None = Transcript("")
        if spoken:
            with suppress(StageError):
                transcript = await self._hearing.transcribe(pcm, self._hears.request)
        await self._report(events.Transcribed(serial, pcm, transcript))

    async def _follow(self, step: Step) -> None:
        """Do what was decided, and what follows from the answers to it."""
        self._turns, decisions = step
        for decision in decisions:
            await self._perform(decision)

    async def _perform(self, decision: Decision) -> None:
        match decision:
            case Recognise():
                self._recognise(decision)
            case Judge(generation, begin, end):
                probability = await self._hearing.judge(self._recording.samples(begin, end))
                await self._follow(turn_taking.judged(self._turns, generation, probability))
            case Await(generation):
                self._awaited = generation if generation in self._asked else None
            case Started(at, interrupts):
                unheard = self._turns.unheard * 1000 // RATE if interrupts else 0
                if interrupts:
                    self.silenced()
                await self._report(events.SpeechStarted(milliseconds(at), interrupts, unheard))
            case Partly(text):
                if self._hears.looks:
                    await self._report(events.Partial(text))
            case Ended(begin, end, transcript, order):
                await self._report(events.SpeechStopped(milliseconds(end)))
                pcm = self._recording.pcm(begin, end)
                if transcript is not None and transcript.language:
                    request = replace(self._hears.request, likely=transcript.language)
                    self._hears = replace(self._hears, request=request)
                await self._report(events.Ended(milliseconds(begin), milliseconds(end), pcm, transcript, order))
            case Dropped(announced, why):
                self._hearing.dropped(why)
                if announced:
                    await self._report(events.SpeechStopped(milliseconds(self._turns.now)))
                    await self._report(events.SpeechDropped())
            case Idled(begin, end):
                await self._report(events.Idle(milliseconds(begin), milliseconds(end)))

    def _recognise(self, ask: Recognise) -> None:
        """Ask for words in the background; at most two questions at a time, of which the older one is given up."""
        speech = self._turns.speech
        looks = not ask.urgent
        if looks and (self._asked or not self._hears.looks):
            return
        for generation in list(self._asked)[:-1]:
            self._asked.pop(generation).cancel()
        before = speech.before.text if speech is not None and speech.before is not None else ""
        prompt = f"{self._hears.request.prompt} {before}".strip()
        heard = self._recording.samples(ask.begin, ask.end)
        request = replace(self._hears.request, prompt=prompt, thorough=ask.thorough)
        recognising = self._patiently(heard, request, urgent=ask.urgent)
        self._asked[ask.generation] = asyncio.create_task(recognising, name="recognise")

    async def _patiently(self, heard: "Samples", request: Request, *, urgent: bool) -> Transcript | None:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await self._hearing.recognise(heard, request, urgent=urgent)
        except (TimeoutError, StageError):
            return None

    async def _answered(self, generation: int) -> None:
        transcript = self._asked.pop(generation).result()
        if generation == self._awaited:
            self._awaited = None
        await self._follow(turn_taking.recognised(self._turns, generation, transcript))
