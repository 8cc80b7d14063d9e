"""The speech stage: turns the text of a reply that is to be spoken into sound, sentence by sentence."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pipelines.events import (
    AUDIO_RATE,
    AudioDelta,
    Event,
    Finished,
    Heard,
    Speech,
    StageError,
    Started,
    TextDelta,
    TextDone,
    Turn,
    Usage,
    shutting_down,
)
from pipelines.fair_semaphore import FairSemaphore
from pipelines.flow import Next, ahead
from pipelines.speech.interface import Sentence, Speaks, not_ready
from pipelines.speech.normalise import Spoken, speakable
from pipelines.speech.sentences import LONGEST, Piece, SentenceSplitter
from pipelines.speech.settings import SpeechSettings
from pipelines.speech.voices.interface import UNREADABLE, Voiced, WordEnd, cast
from pipelines.tracing import FIRST_AUDIO, FIRST_TOKEN, Trace, traced

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

DELTA = AUDIO_RATE // 5  # samples of one delta at most: 0.2 s
AWAY = "The voice can't be reached: this reply comes as text."
DELTAS_AHEAD = 8  # that are computed before they may be sent


class SpeechStage:
    """A stage that speaks the replies of turns which ask for it; others pass through."""

    def __init__(
        self,
        workers: Speaks,
        settings: SpeechSettings,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        missing: str = "",
    ) -> None:
        self.workers = workers
        self._settings = settings
        self._clock = clock
        self._sleep = sleep
        self.missing = missing  # why there is no voice and will be none
        self.capacity = FairSemaphore(settings.streams, settings.waiting, "spoken replies")
        self.on_first_sound: Callable[[float], None] = lambda seconds: None  # since the turn was accepted
        self.underruns = 0  # times that a listener had to wait for more
        self._spoke = False  # the voice has been there

    async def start(self) -> None:
        """Load the voice, where there is one. Raises: VoiceError when it can't be used."""
        if self.missing:
            log.warning("replies come as text only. %s", self.missing)
        else:
            await self.workers.start()
            self._spoke = True

    async def close(self) -> None:
        """End the voice's threads."""
        await self.workers.close()

    @property
    def ready(self) -> bool:
        """Whether there is a voice that can speak."""
        return self.workers.voice is not None

    @property
    def speaking(self) -> int:
        """Replies that are being spoken."""
        return self.capacity.held

    @property
    def speakers(self) -> tuple[str, ...]:
        """The names of the voice's speakers, where it has several."""
        return self.workers.voice.speakers if self.workers.voice is not None else ()

    def __call__(self, turn: Turn, next: Next) -> AsyncGenerator[Event]:
        """The reply, spoken where the turn asks for it. Raises in the stream: StageError, as ``read``."""
        if turn.speech is None:
            return next(turn)
        return self._in_text(turn, next) if self._away else self._speak(turn, turn.speech, next)

    @property
    def _away(self) -> bool:
        """Whether the voice has been there and is not any more."""
        return self._spoke and self.workers.voice is None and not self.workers.closing

    async def _in_text(self, turn: Turn, next: Next) -> AsyncGenerator[Event]:
        """The reply of a voice that is away: its text, and a notice."""
        async with aclosing(next(turn)) as events:
            async for event in events:
                if isinstance(event, Started):
                    yield replace(event, notices=(*event.notices, AWAY))
                elif isinstance(event, TextDelta):
                    yield AudioDelta(b"", event.text, tokens=event.tokens)
                else:
                    yield event

    async def _speak(self, turn: Turn, speech: Speech, next: Next) -> AsyncGenerator[Event]:
        begun = turn.begun if turn.begun is not None else self._clock()
        silent = True
        if not self._away:  # it may have gone since the turn was taken, and may go while it waits
            self._voice()
        async with self.capacity.permit(turn.tenant), aclosing(self._reply(turn, speech, next)) as reply:
            async for event in reply:
                if silent and isinstance(event, AudioDelta) and event.pcm:
                    silent = False
                    self.on_first_sound(self._clock() - begun)
                    if turn.trace is not None:
                        turn.trace.event(FIRST_AUDIO)
                yield event

    def _reply(self, turn: Turn, speech: Speech, next: Next) -> AsyncGenerator[Event]:
        """The spoken reply, or its text where the voice went while the turn waited."""
        if self._away:
            return self._in_text(turn, next)
        voice = self._voice()
        speaker = _Speaker(self.workers, voice, self._settings, speech, self._clock, forgiving=True, trace=turn.trace)

        async def spoken() -> AsyncGenerator[Event]:
            async with aclosing(next(turn)) as events, aclosing(self._pace(_ahead(speaker(events)))) as sound:
                async for event in sound:
                    yield event

        return spoken()

    async def read(self, text: str, speech: Speech, tenant: str = "") -> AsyncGenerator[AudioDelta]:
        """Speak a text that is there already, as fast as it goes.

        Raises: StageError when there is no voice, too many wait for it, or it fails.
        """

        async def written() -> AsyncGenerator[Event]:
            yield TextDelta(text)
            yield Finished("stop", Usage())

        self._voice()
        async with self.capacity.permit(tenant):
            voice = self._voice()  # which may have gone meanwhile
            speaker = _Speaker(self.workers, voice, self._settings, speech, self._clock)
            async with aclosing(written()) as events, aclosing(_ahead(speaker(events))) as spoken:
                async for event in spoken:
                    if isinstance(event, AudioDelta):
                        yield event

    def _voice(self) -> Voiced:
        if self.workers.closing:
            raise shutting_down()
        if self.missing:
            raise StageError("unavailable", "no_voice", self.missing)
        if self.workers.voice is None:
            raise not_ready()
        return self.workers.voice

    async def _pace(self, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        """Hold sound back that would come more than ``ahead`` seconds before it is played; closes ``events``."""
        heard_out = float("-inf")  # when a listener who plays at once has played everything
        async with aclosing(events):
            async for event in events:
                if isinstance(event, AudioDelta) and event.pcm:
                    now = self._clock()
                    if now > heard_out:
                        self.underruns += heard_out > float("-inf")
                        heard_out = now
                    if (early := heard_out - self._settings.ahead - now) > 0:
                        await self._sleep(early)
                    heard_out += event.samples / AUDIO_RATE
                yield event


def _ahead(events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
    return ahead(events, DELTAS_AHEAD)


class _Speaker:
    """Speaks one reply: from ``TextDelta`` to ``AudioDelta``."""

    def __init__(
        self,
        workers: Speaks,
        voice: Voiced,
        settings: SpeechSettings,
        speech: Speech,
        clock: Callable[[], float],
        *,
        forgiving: bool = False,
        trace: Trace | None = None,
    ) -> None:
        self._workers = workers
        self._settings = settings
        self._voice = voice
        self._speech = speech
        self._clock = clock
        self._forgiving = forgiving  # a sentence that can't be read does not end the reply
        self._trace = trace
        self._written = 0.0  # when the last sentence was, where this is traced
        self._speed = settings.speed * speech.speed
        self._splitter = SentenceSplitter()
        self._sound = _Resampler(self._voice.rate, settings.volume)
        self._tokens = 0  # of text that has no delta yet
        self._characters = 0  # of the transcript so far
        self._samples = 0  # of sound so far
        self._pausing = False  # before the next sentence
        self._begun: float | None = None  # when the first sound was there

    async def __call__(self, events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        """The events, with sound in the place of text; the last sentence is spoken once the text is complete."""
        complete = False
        async for event in events:
            ends = isinstance(event, TextDone | Finished) and not complete
            if isinstance(event, TextDelta):
                self._tokens += event.tokens
            async with aclosing(self._pieces(event, ends)) as pieces:
                async for piece in pieces:
                    async with aclosing(self._say(piece)) as spoken:
                        async for delta in spoken:
                            tokens, self._tokens = self._tokens, 0
                            yield replace(delta, tokens=tokens)
            if ends:
                complete = True
                for delta in self._deltas(self._sound.end()):
                    yield delta
            if not isinstance(event, TextDelta):
                yield event

    async def _pieces(self, event: Event, ends: bool) -> AsyncGenerator[Piece]:
        """The sentences that an event completes. A long text is cut bit by bit: others have their turn between."""
        if isinstance(event, TextDelta):
            for begin in range(0, len(event.text), LONGEST):
                if begin:
                    await asyncio.sleep(0)
                for piece in self._splitter.feed(event.text[begin : begin + LONGEST]):
                    yield piece
        elif ends:
            for piece in self._splitter.finish():
                yield piece

    async def _say(self, piece: Piece) -> AsyncGenerator[AudioDelta]:
        speaker, language = cast(self._voice, piece.text, self._speech.speaker or self._settings.speaker)
        spoken = speakable(piece.text, language) if piece.aloud else Spoken("", ())
        untold = _Untold(piece.text, spoken, self._characters)
        self._characters += len(piece.text)
        self._trace_sentence(len(piece.text))
        if spoken.text:
            if self._pausing:
                for delta in self._deltas(self._sound.silence(self._settings.pause / self._speed)):
                    yield delta
            sentence = Sentence(
                spoken.text,
                speaker,
                self._speed,
                self._due(),
                self._voice.rate,
            )
            begin = self._sound.given
            try:
                with traced(self._trace, "synthesis"):
                    async with aclosing(self._workers.say(sentence)) as sound:
                        async for samples in sound:
                            self._begun = self._begun or self._clock()
                            untold.learn(samples.words, begin, self._sound.ratio)
                            for delta in self._deltas(self._sound.take(samples.audio), untold):
                                yield delta
            except StageError as error:
                if error.code != UNREADABLE or not self._forgiving:
                    raise  # otherwise its text comes without sound, and the reply goes on
            self._pausing = piece.ends
        if rest := untold.rest():
            yield AudioDelta(b"", *rest)

    def _trace_sentence(self, characters: int) -> None:
        """Record how long a sentence took to be written, from the one before it or from the first token."""
        if self._trace is not None:
            begun, self._written = self._written or self._trace.at(FIRST_TOKEN), time.monotonic()
            self._trace.stage("sentence", begun or self._written, self._written, {"loquent.characters": characters})

    def _deltas(self, pcm: bytes, untold: "_Untold | None" = None) -> Iterator[AudioDelta]:
        """The sound in deltas of one size, the last one shorter, each with the text whose sound begins in it."""
        for begin in range(0, len(pcm), 2 * DELTA):
            delta = AudioDelta(pcm[begin : begin + 2 * DELTA])
            self._samples += delta.samples
            if untold is not None:
                text, heard = untold.until(self._samples)
                delta = replace(delta, text=text, heard=heard)
            yield delta

    def _due(self) -> float | None:
        """When the listener will have heard everything so far."""
        if self._begun is None:
            return None
        return self._begun + self._sound.given / self._voice.rate


class _Untold:
    """The text of a sentence that is still to be sent, word by word with its sound."""

    def __init__(self, text: str, spoken: Spoken, characters: int) -> None:
        self._text = text
        self._spoken = spoken
        self._characters = characters  # of the transcript before this sentence
        self._words: list[Heard] = []  # those whose sound has not begun
        self._begins = 0  # sample at which the next of them begins
        self._told = 0  # characters of the sentence

    def learn(self, words: tuple[WordEnd, ...], begin: int, ratio: float) -> None:
        """When the words will have been said; ``begin`` is the sentence's first sample, at the voice's rate."""
        if words:
            self._begins = round(begin * ratio)
            self._words += [
                Heard(round((begin + word.sample) * ratio), self._characters + self._spoken.origins[word.character - 1])
                for word in words
            ]

    def until(self, samples: int) -> tuple[str, tuple[Heard, ...]]:
        """The words whose sound begins before ``samples`` of the reply."""
        heard: list[Heard] = []
        while self._words and self._begins < samples:
            heard.append(self._words.pop(0))
            self._begins = heard[-1].samples
        return self._tell(heard[-1].characters - self._characters if heard else self._told), tuple(heard)

    def rest(self) -> tuple[str, tuple[Heard, ...]] | None:
        """Everything else, when all of the sentence's sound was sent."""
        heard = tuple(self._words)
        self._words = []
        text = self._tell(len(self._text))
        return (text, heard) if text or heard else None

    def _tell(self, end: int) -> str:
        begin, self._told = self._told, max(end, self._told)
        return self._text[begin : self._told]


class _Resampler:
    """The sound of one reply, from the voice's rate to ``AUDIO_RATE`` without seams between its pieces."""

    def __init__(self, rate: int, volume: float) -> None:
        import soxr  # here, because servers without a voice do without it

        self._rate = rate
        self._volume = volume
        self._stream = soxr.ResampleStream(rate, AUDIO_RATE, 1, dtype="float32")
        self.ratio = AUDIO_RATE / rate
        self.given = 0  # samples, at the voice's rate

    def take(self, audio: "NDArray[np.float32]", *, last: bool = False) -> bytes:
        """The sound of these samples; a few of them come with the next ones."""
        self.given += len(audio)
        sound = self._stream.resample_chunk(audio, last=last)
        scaled = np.clip(sound * (self._volume * 32767.0), -32768, 32767)
        return bytes(scaled.astype("<i2").tobytes())

    def silence(self, seconds: float) -> bytes:
        """So much of it."""
        return self.take(np.zeros(round(seconds * self._rate), dtype=np.float32))

    def end(self) -> bytes:
        """What is left."""
        return self.take(np.zeros(0, dtype=np.float32), last=True)
