"""Words: how many of them the recogniser gets wrong, by language, in noise, and with other windows and models."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench.heard import noises
from bench.heard.live import hearing, room
from bench.heard.measures import errors, mixed, spoken
from bench.heard.notes import note
from bench.heard.speakers import ENGLISH, GERMAN, JOE, Speakers, dealt, lines, pcm
from bench.pace import Pace
from bench.results import Figures
from pipelines.listening.audio import Decoder
from pipelines.listening.hearing import Hearing
from pipelines.listening.interface import Request
from pipelines.listening.models import whisper

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]

Sentence = tuple[str, str]  # the text, and who says it

FOREIGN = {"de": ("german", GERMAN), "es": ("spanish", ("ef_dora", "em_alex")), "fr": ("french", ("ff_siwis",))}
NOISE = 10.0  # dB below the speech
WINDOWS = (6, 15, 30)
SHORT = 40  # sentences that the windows are compared with


async def measure(pace: Pace, figures: Figures) -> list[tuple[str, str]]:
    """The rows of the table: what, and the figure."""
    speakers = Speakers()
    share = 5 if pace.quick else 1
    corpus = dealt(lines("heard-english.txt"), (JOE, *ENGLISH))[::share]
    rows: list[tuple[str, str]] = []

    def row(what: str, name: str, found: tuple[float, float]) -> None:
        figures[name], figures[f"{name}/seconds"] = found
        rows.append((what, f"{found[0]:.1f} %, {found[1]:.2f} s a sentence"))
        note(" | ".join(rows[-1]))

    async with hearing() as ears:
        row(
            f"English, {len(corpus)} sentences of {len({who for _, who in corpus})} voices",
            "english",
            await wer(ears, speakers, corpus, "en"),
        )
        for language, (name, who) in FOREIGN.items():
            texts = dealt(lines(f"heard-{name}.txt"), who)[::share]
            row(f"{name.capitalize()}, {len(texts)} sentences", name, await wer(ears, speakers, texts, language))
            row(
                f"{name.capitalize()}, the language unknown",
                f"{name}/unknown",
                await wer(ears, speakers, texts, language, told=False),
            )
        for name, noise in (("babble", noises.babble(speakers, 12, 20.0)), ("street", noises.street(20.0))):
            row(f"English, {name} of {NOISE:.0f} dB", name, await wer(ears, speakers, corpus, "en", noise=noise))
        for seconds in WINDOWS:
            whisper.SHORTEST = seconds
            row(
                f"English, {SHORT} sentences, windows of {seconds} s",
                f"window/{seconds}",
                await wer(ears, speakers, corpus[:SHORT], "en"),
            )
        whisper.SHORTEST = 10
        row(
            f"English, {SHORT} sentences, windows of 10 s", "window/10", await wer(ears, speakers, corpus[:SHORT], "en")
        )
    async with hearing("whisper-tiny.en") as ears:
        row("English, whisper-tiny.en", "tiny", await wer(ears, speakers, corpus, "en"))
        noise = noises.babble(speakers, 12, 20.0)
        row("English, whisper-tiny.en, babble", "tiny/babble", await wer(ears, speakers, corpus, "en", noise=noise))
    speakers.close()
    return rows


async def wer(
    ears: Hearing,
    speakers: Speakers,
    corpus: Sequence[Sentence],
    language: str,
    *,
    told: bool = True,
    noise: "Floats | None" = None,
) -> tuple[float, float]:
    """The share of words that are wrong, in per cent, and seconds of recognising a sentence."""
    wrong = total = 0
    took = 0.0
    for text, who in corpus:
        audio = room(speakers.say(text, who), 0.3, 0.5)
        if noise is not None:
            audio = mixed(audio, noise, NOISE)
        made = Decoder("audio/pcm")(pcm(audio)).tobytes()
        begun = time.perf_counter()
        transcript = await ears.transcribe(made, Request(language if told else "", likely=language if told else "en"))
        took += time.perf_counter() - begun
        said, heard = spoken(text, language), spoken(transcript.text, language)
        found = errors(said, heard)
        if found:
            note(f"  {who}: {text!r} -> {transcript.text!r} ({found})")
        wrong, total = wrong + found, total + len(said)
    return 100 * wrong / total, took / len(corpus)
