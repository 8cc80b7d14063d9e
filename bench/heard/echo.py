"""Echo: the assistant's own voice in the microphone, -12 dB and 80 ms later; and people who speak over it."""

from typing import TYPE_CHECKING

import numpy as np

from bench.heard.interruptions import Over, said
from bench.heard.live import AHEAD, Reply, hearing, listening, room
from bench.heard.notes import note
from bench.heard.speakers import ENGLISH, JOE, Speakers, dealt, lines
from bench.pace import Pace
from bench.results import Figures
from pipelines.events import AUDIO_RATE
from pipelines.listening.events import Hears, SpeechStarted
from pipelines.listening.hearing import Hearing
from pipelines.listening.turns import Policy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

QUIETER = 10 ** (-12 / 20)
DELAY = 0.08  # seconds
AT = 3.0  # seconds into a reply, where somebody speaks
SPOKEN = (*range(0, 10, 2), *range(20, 30, 2))  # lines of the interruptions: orders to stop, and others


async def reply(ears: Hearing, text: str, voice: "Floats", over: Over | None = None) -> float | None:
    """Seconds into the reply at which it is interrupted; None where it is not."""
    seconds = len(voice) / AUDIO_RATE
    heard_back = room(voice * np.float32(QUIETER), DELAY, 1.5)
    if over is not None:
        begin = round(AT * AUDIO_RATE)
        audio = over.audio[: len(heard_back) - begin]
        heard_back[begin : begin + len(audio)] += audio
    async with listening(ears, Hears(Policy())) as heard:
        sent = Reply(heard.listener, text, seconds)

        def each(at: float) -> bool:
            sent.send(at)
            return any(isinstance(report, SpeechStarted) for _, report in heard.reports)

        begun = await heard.really(heard_back, each)
        found = [at for at, report in heard.reports if isinstance(report, SpeechStarted)]
    return found[0] - begun if found else None


async def measure(pace: Pace, figures: Figures) -> list[tuple[str, str]]:
    """Replies that are heard back, then people over them."""
    assert AHEAD > AT
    speakers = Speakers()
    texts = lines("heard-replies.txt")[:: 5 if pace.quick else 1]
    rows: list[tuple[str, str]] = []
    async with hearing() as ears:
        own: list[str] = []
        for text in texts:
            found = await reply(ears, text, speakers.say(text, JOE))
            note(f"  {text[:40]}: {found}")
            own += [f"{text[:40]} at {found:.1f} s"] if found is not None else []
        figures["echo"] = len(own)
        rows.append(
            (
                f"{len(texts)} replies, each heard back at -12 dB, 80 ms later: interrupted by themselves",
                f"{len(own)} {'; '.join(own)}",
            )
        )
        orders = lines("heard-interruptions.txt")
        asked = dealt([orders[place] for place in SPOKEN], ENGLISH)[:: 5 if pace.quick else 1]
        caught: list[float] = []
        missed: list[str] = []
        for number, each in enumerate(asked):
            over, text = said(ears, speakers, *each), texts[number % len(texts)]
            found = await reply(ears, text, speakers.say(text, JOE), over)
            note(f"  {over.name}: {found}")
            if found is None or found < AT:
                missed.append(over.name)
            else:
                caught.append(found - AT - over.meant)
        figures["echo/caught"] = 100 * len(caught) / len(asked)
        late = f"; the latest {1000 * max(caught):.0f} ms after it was meant" if caught else ""
        rows.append(
            (
                f"{len(asked)} people who mean it, over that echo: interrupt",
                f"{len(caught)}{late}; missed: {'; '.join(missed) or 'none'}",
            )
        )
    speakers.close()
    return rows
