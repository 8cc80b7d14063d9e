"""Interruptions: who stops a reply that is being said, how soon, and what must not stop it; in real time."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from bench.heard import noises
from bench.heard.live import Heard, Reply, hearing, listening, room
from bench.heard.measures import last_sound
from bench.heard.notes import note
from bench.heard.speakers import ENGLISH, JOE, Speakers, dealt, lines
from bench.loads import percentile
from bench.pace import Pace
from bench.results import Figures
from pipelines.events import AUDIO_RATE
from pipelines.listening.events import Hears, SpeechStarted
from pipelines.listening.hearing import Hearing
from pipelines.listening.interface import Transcript
from pipelines.listening.turns import Policy
from pipelines.listening.words import Meaning, Said

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

BEFORE, AFTER = 1.6, 2.0  # seconds of the reply around what is said over it
SECONDS = 20.0  # of the reply
TEXT = (
    "The steam engine changed the way in which people worked, because it was no longer the water or the wind that "
    "moved the wheels of a mill. Within a few decades towns had grown around the factories, and the first railways "
    "joined them."
)
INTERRUPT = 0.5  # seconds of speech that mean something, by the defaults


@dataclass(frozen=True, slots=True)
class Over:
    """What is heard over a reply, and the seconds into it at which it is clear that it is meant."""

    name: str
    audio: "Floats"
    meant: float = 0.0


def said(hearing: Hearing, speakers: Speakers, text: str, who: str) -> Over:
    """An utterance that means to interrupt: a "|" ends its order to stop, where more follows."""
    order, _, rest = text.partition("|")
    whole = f"{order}{rest}"
    audio = speakers.say(whole, who)
    stops = hearing.vocabulary.meaning(Transcript(whole), Said(), 1.0) is Meaning.STOP
    if rest:
        return Over(f"{whole} ({who})", audio, last_sound(speakers.parts(text, who)[0]))
    end = last_sound(audio)
    return Over(f"{whole} ({who})", audio, end if stops else min(first_sound(audio) + INTERRUPT, end))


def first_sound(audio: "Floats") -> float:
    """Seconds to the first sample above -40 dB of full scale."""
    return len(audio) / AUDIO_RATE - last_sound(audio[::-1])


async def over(ears: Hearing, what: Over) -> float | None:
    """Seconds from the moment that it is clear to the interruption; None where there is none."""
    async with listening(ears, Hears(Policy())) as heard:
        reply = Reply(heard.listener, TEXT, SECONDS)

        def each(at: float) -> bool:
            reply.send(at)
            return bool(_interruption(heard))

        begun = await heard.really(room(what.audio, BEFORE, AFTER), each)
        at = _interruption(heard)
    return at - begun - BEFORE - what.meant if at is not None else None


def _interruption(heard: Heard) -> float | None:
    found = [at for at, each in heard.reports if isinstance(each, SpeechStarted) and each.interrupts]
    return found[0] if found else None


async def measure(pace: Pace, figures: Figures) -> list[tuple[str, str]]:
    """Those that mean it, then those that do not."""
    speakers = Speakers()
    share = 5 if pace.quick else 1
    rows: list[tuple[str, str]] = []
    async with hearing() as ears:
        meant = [
            said(ears, speakers, *each) for each in dealt(lines("heard-interruptions.txt"), (JOE, *ENGLISH))[::share]
        ]
        waits: list[float] = []
        missed: list[str] = []
        for each in meant:
            wait = await over(ears, each)
            note(f"  {each.name}: {wait if wait is None else round(wait * 1000)}")
            if wait is None:
                missed.append(each.name)
            else:
                waits.append(wait)
        soon = sum(wait <= 0.25 for wait in waits)
        figures["interrupting"] = 100 * len(waits) / len(meant)
        figures["interrupting/p50"], figures["interrupting/p95"] = percentile(waits, 0.5), percentile(waits, 0.95)
        figures["soon"] = 100 * soon / len(meant)
        rows.append(
            ("speech that means it interrupts", f"{len(waits)} of {len(meant)}; missed: {'; '.join(missed) or 'none'}")
        )
        rows.append(
            (
                "from the moment that it is meant, p50 and p95",
                f"{percentile(waits, 0.5):.0f} and {percentile(waits, 0.95):.0f} ms; {soon} within 250 ms",
            )
        )
        wrong: list[str] = []
        disturbing = noises.disturbances(speakers)[::share]
        for name, audio in disturbing:
            wait = await over(ears, Over(name, audio))
            note(f"  {name}: {wait}")
            wrong += [name] if wait is not None else []
        figures["disturbed"] = len(wrong)
        rows.append((f"of {len(disturbing)} that do not mean it, interrupt", f"{len(wrong)}: {'; '.join(wrong)}"))
    speakers.close()
    return rows
