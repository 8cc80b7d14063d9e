"""Ends: how often a pause inside a sentence is taken for its end, and how long a finished one waits."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from bench.heard.live import hearing, listening, room
from bench.heard.measures import Pause, Waiting, faded, last_sound, soonest, spliced
from bench.heard.notes import note
from bench.heard.speakers import ENGLISH, JOE, Speakers, dealt, lines, pcm
from bench.pace import Pace
from bench.results import Figures
from pipelines.events import AUDIO_RATE
from pipelines.listening.audio import Decoder, floats
from pipelines.listening.events import Ended, Hears
from pipelines.listening.hearing import Hearing
from pipelines.listening.interface import FRAME, RATE, Request
from pipelines.listening.turns import AGAIN, COMPLETE, PAUSE, SENTENCE, UNFINISHED, Policy
from pipelines.listening.unfinished import unfinished

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

PAUSES = (0.3, 0.5, 0.7, 0.9, 1.2, 1.5)  # seconds, one after the other
LOOKS = (0.1, *(PAUSE / RATE + number * AGAIN / RATE for number in range(5)))  # seconds of silence
ENDINGS = (".", "?", "!")  # of words that end a sentence, as the turns take them
MOST = (0.05, 0.25)  # of the pauses, that a way may cut whose wait is compared
SOON = 0.3  # seconds of silence
LEASTS = (0.2, 0.3, 0.4)
SEMANTIC = Policy("semantic_vad", silence_ms=200, patience_ms=4000)
SHIPPED = Waiting(COMPLETE, SEMANTIC.patience_ms / 1000, SEMANTIC.silence_ms / 1000, 1 / SENTENCE, 1 / UNFINISHED)
THRESHOLDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
PATIENCES = (0.8, 1.0, 1.2, 1.4, 1.6, 2.0, 3.0, 4.0)


def waits(audio: "Floats", silence: float) -> "Floats":
    """The sound in a room, and so much silence behind its last sample that is heard."""
    return room(faded(audio[: round(last_sound(audio) * AUDIO_RATE)]), 0.5, silence)


async def look(ears: Hearing, audio: "Floats", seconds: float | None) -> Pause:
    """What the models say of the silence behind this sound."""
    samples = floats(Decoder("audio/pcm")(pcm(waits(audio, LOOKS[-1] + 0.3))).tobytes())
    samples = samples[: len(samples) // FRAME * FRAME]
    probabilities = await ears.hear(await ears.activity(), samples)
    voiced = [place for place, probability in enumerate(probabilities) if probability >= 0.35]
    begin = max(voiced[0] * FRAME - RATE * 3 // 10, 0) if voiced else 0
    last = (voiced[-1] + 1) * FRAME if voiced else len(samples)
    scores = [(at, await ears.judge(samples[begin : last + round(at * RATE)])) for at in LOOKS]
    transcript = await ears.recognise(samples[begin : last + PAUSE], Request("en"))
    more = unfinished(transcript.text, transcript.language)
    return Pause(seconds, tuple(scores), transcript.text.endswith(ENDINGS), more)


async def cuts(ears: Hearing, parts: "Sequence[Floats]", pause: float, policy: Policy) -> int:
    """Turns that end before the second part of a sentence, at this pause or one of its own; by the whole listener."""
    first = waits(parts[0], 0.0)
    audio = room(spliced(first, parts[1], pause=pause), 0.0, 0.0)
    async with listening(ears, Hears(policy)) as heard:
        await heard.quickly(audio, 0.04)
        ended = [each for _, each in heard.of(Ended) if isinstance(each, Ended)]
    return sum(each.end < 1000 * (len(first) / AUDIO_RATE + pause) for each in ended)


async def measure(pace: Pace, figures: Figures) -> list[tuple[str, str]]:
    """What Smart Turn says, what the ears do, and what would be best."""
    speakers = Speakers()
    share = 5 if pace.quick else 1
    rows: list[tuple[str, str]] = []
    texts = dealt(lines("heard-pauses.txt"), (JOE, *ENGLISH))[::share]
    split = [speakers.parts(*each) for each in texts]
    finished = [speakers.say(*each) for each in dealt(lines("heard-english.txt"), (JOE, *ENGLISH))[:60:share]]
    async with hearing() as ears:
        pauses: list[Pause] = []
        for (text, who), parts, seconds in zip(texts, split, itertools.cycle(PAUSES), strict=False):
            found = await look(ears, parts[0], seconds)
            pauses += [replace(found, seconds=each) for each in PAUSES]
            note(f"  {who}: {text} {[round(p, 2) for _, p in found.scores]} {found.sentence}")
        for audio in finished:
            pauses.append(await look(ears, audio, None))
            note(f"  finished {[round(p, 2) for _, p in pauses[-1].scores]} {pauses[-1].sentence}")
        rows += scored(pauses, figures)
        for name, policy in (("semantic", SEMANTIC), ("vad", Policy(silence_ms=300)), ("vad500", Policy())):
            made = [
                await cuts(ears, parts, pause, policy) > 0
                for parts, pause in zip(split, itertools.cycle(PAUSES), strict=False)
            ]
            figures[f"cut/{name}"] = 100 * sum(made) / len(made)
            rows.append(
                (
                    f"{name}, through the listener: cut of {len(made)} sentences with a pause",
                    f"{figures[f'cut/{name}']:.0f} %",
                )
            )
    speakers.close()
    return rows


def scored(pauses: Sequence[Pause], figures: Figures) -> list[tuple[str, str]]:
    """What follows from the scores: every sentence with every pause, and the sentences that are over."""
    inside = [pause for pause in pauses if pause.seconds == PAUSES[0]]
    over = [pause for pause in pauses if pause.seconds is None]
    rows = []

    def shares(what: str, name: str, true: Callable[[Pause], bool]) -> None:
        wrong, right = (100 * sum(map(true, each)) / len(each) for each in (inside, over))
        figures[f"ends/{name}/inside"], figures[f"ends/{name}/over"] = wrong, right
        rows.append((f"{what}, of pauses inside and of ends", f"{wrong:.0f} % and {right:.0f} %"))

    for place, at in enumerate(LOOKS[:4]):
        shares(f"Smart Turn, {at:.1f} s into the silence: over", f"{at:.1f}", partial(_scores, place))
    shares("the words end a sentence", "words", lambda pause: pause.sentence)
    shares("the words want more", "more", lambda pause: pause.more)
    for name, path, way in (
        ("semantic_vad", "cutoffs", SHIPPED),
        ("semantic_vad without what the words want", "cutoffs/without", replace(SHIPPED, wanting=0.0)),
        ("VAD of 300 ms", "cutoffs/vad300", Waiting(2, 0.3)),
        ("VAD of 500 ms", "cutoffs/vad500", Waiting(2, 0.5)),
    ):
        cut, wait = way.judge(pauses)
        soon = sum(way.wait(pause) <= SOON for pause in inside) / len(inside)
        figures[path], figures[f"{path}/all"], figures[f"{path}/wait"] = 100 * soon, 100 * cut, 1000 * wait
        what = f"{name}: cut within {1000 * SOON:.0f} ms; of pauses of {PAUSES[0]} to {PAUSES[-1]} s; wait at an end"
        rows.append((what, f"{100 * soon:.0f} %; {100 * cut:.0f} %; {1000 * wait:.0f} ms"))
    return rows + compared(pauses, figures)


def _scores(place: int, pause: Pause) -> bool:
    return pause.scores[place][1] >= COMPLETE


def compared(pauses: Sequence[Pause], figures: Figures) -> list[tuple[str, str]]:
    """The mean wait of the best way of each kind that cuts few pauses."""
    plain = [Waiting(2, patience / 100) for patience in range(20, 200, 5)]
    alone = [Waiting(*each) for each in itertools.product(THRESHOLDS, PATIENCES, LEASTS)]
    words = [replace(way, share=share) for way in alone for share in (1.0, 0.5, 0.25)]
    more = [replace(way, wanting=wanting) for way in words for wanting in (0.5, 1.0)]
    rows = []
    for name, path, ways in (
        ("plain VAD", "few/vad", plain),
        ("Smart Turn", "few/alone", alone),
        ("Smart Turn, and whether the words end a sentence", "few/words", words),
        ("Smart Turn, and whether the words want more", "few/more", more),
    ):
        for most in MOST:
            best = soonest(pauses, ways, most)
            found = "there is none"
            if best is not None:
                figures[f"{path}/{100 * most:.0f}"] = 1000 * best[1]
                found = f"{1000 * best[1]:.0f} ms, {best[0]}"
            rows.append((f"mean wait at an end where {100 * most:.0f} % of pauses are cut, {name}", found))
    return rows
