"""Half an hour in which nobody speaks to the assistant: what turns and what words the ears make of it."""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from bench.heard import noises
from bench.heard.live import hearing, listening, room
from bench.heard.notes import note
from bench.heard.speakers import Speakers
from bench.pace import Pace
from bench.results import Figures
from pipelines.events import AUDIO_RATE
from pipelines.listening.events import Ended, Hears, SpeechStarted
from pipelines.listening.turns import Policy

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

MINUTES = 30.0
BABBLE = ((20, -32.0), (14, -30.0), (8, -30.0))  # people, and their level in dB of full scale


def sounds(speakers: Speakers, minutes: float) -> "Iterator[tuple[str, Floats]]":
    """What is heard, each kind with its share of the time."""
    part = minutes * 60 / 15
    yield "silence", room(np.zeros(0, np.float32), 2 * part, 0.0)
    yield "digital silence", np.zeros(round(part * AUDIO_RATE), np.float32)
    yield "hum", noises.hum(part)
    yield "white noise", noises.white(part)
    yield "pink noise", noises.pink(part, -35.0)
    yield "street", noises.street(part, -28.0)
    yield "typing, doors, clicks", _things(part)
    yield "synthesised music", noises.music(part)
    yield "recorded music", _recorded(part * 2)
    yield "coughs and laughter", _voices(part)
    for people, level in BABBLE:
        yield f"{people} people at {level:.0f} dB", noises.babble(speakers, people, part, level, people)


def _things(seconds: float) -> "Floats":
    parts: list[Floats] = []
    for seed in range(int(seconds / 6) + 1):
        parts += [noises.typing(3.0, seed), noises.slam(seed), noises.click(seed), noises.throat(seed)]
    return room(np.concatenate(parts), 0.0, 0.0)[: round(seconds * AUDIO_RATE)]


def _recorded(seconds: float) -> "Floats":
    """Music on hold and loops; synthesised music where they can't be had."""
    pieces = [audio for _, audio in noises.recordings("asterisk-moh-opsound-wav", "*.wav", seconds / 8, -26.0)]
    pieces += [audio for _, audio in noises.recordings("sonic-pi-samples", "loop_*.flac", seconds / 30, -26.0)]
    pieces += [audio for _, audio in noises.recordings("sonic-pi-samples", "ambi_*.flac", seconds / 30, -26.0)]
    return np.concatenate(pieces or [noises.music(seconds, seed=1)])[: round(seconds * AUDIO_RATE)]


def _voices(seconds: float) -> "Floats":
    """Coughs, laughter and groans, a second apart."""
    parts: list[Floats] = []
    for voice in noises.VOICES:
        for kind in ("PoisonCough", "Laugh", "Hmm", "Ooff1", "PoisonMoan"):
            parts += [audio for _, audio in noises.recordings("hedgewars-data", f"voices/{voice}/{kind}.ogg", 5.0)]
    spaced = [piece for part in parts for piece in (part, np.zeros(AUDIO_RATE, np.float32))]
    whole = np.concatenate(spaced or [noises.throat()])
    return room(np.resize(whole, round(seconds * AUDIO_RATE)), 0.0, 0.0)


async def measure(pace: Pace, figures: Figures) -> list[tuple[str, str]]:
    """What was heard of each kind, and how many turns there were in all."""
    speakers = Speakers()
    minutes = MINUTES / 5 if pace.quick else MINUTES
    rows: list[tuple[str, str]] = []
    begun = ended = 0
    async with hearing() as ears:
        for name, audio in sounds(speakers, minutes):
            async with listening(ears, Hears(Policy())) as heard:
                await heard.quickly(audio)
                await heard.quickly(np.zeros(2 * AUDIO_RATE, np.float32))
                turns = [each for _, each in heard.of(Ended) if isinstance(each, Ended)]
                starts = len(heard.of(SpeechStarted))
            begun, ended = begun + starts, ended + len(turns)
            words = "; ".join(turn.transcript.text for turn in turns if turn.transcript is not None)
            found = f"{len(turns)} turns, {starts} began" + (f": {words}" if words else "")
            rows.append((f"{name}, {len(audio) / AUDIO_RATE:.0f} s", found))
            note(" | ".join(rows[-1]))
            await asyncio.sleep(0)
    speakers.close()
    figures["ghosts"], figures["ghosts/begun"] = ended, begun
    rows.append((f"turns in {minutes:.0f} minutes without speech to the assistant", f"{ended}, and {begun} began"))
    return rows
