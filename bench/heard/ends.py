"""Ends: how often a pause inside a sentence is taken for its end, and how long a finished one waits."""

import asyncio
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.heard.live import hearing, listening, room
from bench.heard.measures import Pause, Waiting, faded, last_sound, soonest, spliced
from bench.heard.speakers import ENGLISH, JOE, Speakers, dealt, lines, pcm
from bench.pace import Pace
from bench.results import Figures
from pipelines.events import AUDIO_RATE
from pipelines.listening.audio import Decoder, floats
from pipelines.listening.events import Ended, Hears
from pipelines.listening.hearing import Hearing
from pipelines.listening.interface import FRAME, RATE, Request
from pipelines.listening.turns import AGAIN, COMPLETE, PAUSE, SENTENCE, Policy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

PAUSES = (0.3, 0.5, 0.7, 0.9, 1.2, 1.5)  # seconds, one after the other
LOOKS = (0.1, *(PAUSE / RATE + number * AGAIN / RATE for number in range(5)))  # seconds of silence
ENDINGS = (".", "?", "!")  # of words that end a sentence, as the turns take them
MOST = 0.05  # of the pauses, that a way may cut whose wait is compared
SEMANTIC = Policy("semantic_vad", silence_ms=200, patience_ms=4000)
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
    return Pause(seconds, tuple(scores), transcript.text.endswith(ENDINGS))


async def cuts(ears: Hearing, parts: "Sequence[Floats]", pause: float, policy: Policy) -> int:
    """Turns that the ears make of a sentence with this pause in it, beyond one; through the whole listener."""
    audio = spliced(waits(parts[0], 0.0), parts[1], pause=pause)
    async with listening(ears, Hears(policy)) as heard:
        await heard.quickly(room(audio, 0.0, 0.0), 0.04)
        await asyncio.sleep(0)
        return len(heard.of(Ended))


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
            pauses += [Pause(each, found.scores, found.sentence) for each in PAUSES]
            print(f"  {who}: {text} {[round(p, 2) for _, p in found.scores]} {found.sentence}", flush=True)
        for audio in finished:
            pauses.append(await look(ears, audio, None))
            print(f"  finished {[round(p, 2) for _, p in pauses[-1].scores]} {pauses[-1].sentence}", flush=True)
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
    for place, at in enumerate(LOOKS[:4]):
        wrong = 100 * sum(pause.scores[place][1] >= COMPLETE for pause in inside) / len(inside)
        right = 100 * sum(pause.scores[place][1] >= COMPLETE for pause in over) / len(over)
        figures[f"ends/{at:.1f}/inside"], figures[f"ends/{at:.1f}/over"] = wrong, right
        rows.append(
            (
                f"Smart Turn, {at:.1f} s into the silence: over, of pauses inside and of ends",
                f"{wrong:.0f} % and {right:.0f} %",
            )
        )
    words = 100 * sum(pause.sentence for pause in inside) / len(inside)
    right = 100 * sum(pause.sentence for pause in over) / len(over)
    figures["ends/words/inside"], figures["ends/words/over"] = words, right
    rows.append(("the words end a sentence, of pauses inside and of ends", f"{words:.0f} % and {right:.0f} %"))
    shipped = Waiting(COMPLETE, SEMANTIC.patience_ms / 1000, 0.2, 1 / SENTENCE)
    for name, way in (
        ("semantic_vad as shipped", shipped),
        ("VAD with 300 ms", Waiting(2, 0.3)),
        ("VAD with 500 ms", Waiting(2, 0.5)),
    ):
        cut, wait = way.judge(pauses)
        rows.append(
            (
                f"{name}: pauses of {PAUSES[0]} to {PAUSES[-1]} s cut, and the mean wait at an end",
                f"{100 * cut:.0f} %, {1000 * wait:.0f} ms",
            )
        )
        if way is shipped:
            figures["cutoffs"], figures["wait"] = 100 * cut, 1000 * wait
    plain = [Waiting(2, patience / 100) for patience in range(20, 200, 5)]
    shares = (1.0, 0.75, 0.5, 1 / 3, 0.25)
    ways = [Waiting(*each) for each in itertools.product(THRESHOLDS, PATIENCES, (0.1, 0.2, 0.3, 0.4), shares)]
    alone = [way for way in ways if way.share == 1.0]
    for name, path, able in (
        ("plain VAD", "vad5", plain),
        ("Smart Turn", "alone5", alone),
        ("Smart Turn with the words", "wait5", ways),
    ):
        best = soonest(pauses, able, MOST)
        if best is not None:
            figures[path] = 1000 * best[1]
            rows.append(
                (f"the mean wait at {100 * MOST:.0f} % cut pauses, {name}", f"{1000 * best[1]:.0f} ms: {best[0]}")
            )
    return rows
