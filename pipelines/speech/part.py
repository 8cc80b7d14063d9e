"""Speech as a part of the pipeline."""

import threading
from collections.abc import Iterator
from dataclasses import replace

from prometheus_client.registry import Collector

from pipelines.downloads.progress import Progress
from pipelines.metrics import counter, gauge, latency
from pipelines.part import Part, Prepare, Shared, has_been
from pipelines.speech.interface import Speaks
from pipelines.speech.settings import SpeechSettings
from pipelines.speech.stage import SpeechStage
from pipelines.speech.voices.available import Load, prepare, why_silent, why_unheard
from pipelines.speech.voices.interface import Voice
from pipelines.speech.workers import Workers


def part(settings: SpeechSettings, shared: Shared) -> Part:
    """The speech stage, with the voice that the settings name, or one that is elsewhere; without one installed, replies
    come as text."""
    elsewhere: Speaks | None = shared.elsewhere.get("speech")
    if elsewhere is not None:
        part = assemble(SpeechStage(elsewhere, settings, missing=why_unheard(settings)))
        return replace(part, ready=has_been(part.ready), why=lambda: shared.why_not("speech"))
    missing = why_silent(settings)
    workers, put_on_disk = voiced(settings, shared)
    made = assemble(SpeechStage(workers, settings, missing=missing))
    return made if missing else replace(made, prepare=put_on_disk)


def voiced(settings: SpeechSettings, shared: Shared) -> tuple[Workers, Prepare]:
    """What speaks with the voice that the settings name, and what puts that on the disk."""
    load_voice: Load | None = None

    def put_on_disk(stop: threading.Event) -> Iterator[Progress]:
        nonlocal load_voice
        load_voice = yield from prepare(settings, stop)

    def open_voice() -> Voice:
        assert load_voice is not None  # noqa: S101 - prepared before it is loaded
        return load_voice()

    cores = shared.cores
    share = cores.share(min(settings.workers, max(cores.total // 2, 1)))
    return Workers(open_voice, threads=settings.workers, share=share), put_on_disk


def assemble(stage: SpeechStage) -> Part:
    """The part of a speech stage whose voice lies on the disk."""
    return Part(
        "speech",
        stage,
        required=not stage.missing,
        start=stage.start,
        close=stage.close,
        ready=lambda: stage.ready,
        missing=stage.missing,
        metrics=metrics(stage),
    )


def metrics(stage: SpeechStage) -> tuple[Collector, ...]:
    """What the stage and its workers count."""
    workers = stage.workers
    ttfa = latency("loquent_time_to_first_audio_seconds", "From the turn to its first sound.")
    stage.on_first_sound = ttfa.observe

    def real_time_factor() -> float:
        return workers.busy_seconds / workers.spoken_seconds if workers.spoken_seconds else 0.0

    return (
        ttfa,
        gauge("loquent_speech_speaking", "Replies that are being spoken.", lambda: stage.speaking),
        gauge("loquent_speech_waiting", "Replies that wait to be spoken.", lambda: stage.capacity.waiting),
        gauge("loquent_speech_queue", "Sentences in the making.", lambda: workers.waiting),
        gauge("loquent_speech_real_time_factor", "Seconds of computing for a second of sound.", real_time_factor),
        counter("loquent_speech_busy_seconds", "Computing sound.", lambda: workers.busy_seconds),
        counter("loquent_speech_audio_seconds", "Sound computed.", lambda: workers.spoken_seconds),
        counter("loquent_speech_underruns", "Times that a listener had to wait for more.", lambda: stage.underruns),
    )
