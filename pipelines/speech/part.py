"""Speech as a part of the pipeline."""

import threading
from collections.abc import Iterator
from dataclasses import replace

from prometheus_client.registry import Collector

from pipelines.downloads.progress import Progress
from pipelines.metrics import counter, gauge, latency
from pipelines.part import Part, Shared
from pipelines.speech.settings import SpeechSettings
from pipelines.speech.stage import SpeechStage
from pipelines.speech.voices.available import Load, prepare, why_silent
from pipelines.speech.voices.interface import Voice
from pipelines.speech.workers import Workers


def part(settings: SpeechSettings, shared: Shared) -> Part:
    """The speech stage, with the voice that the settings name; without one installed, replies come as text."""
    load_voice: Load | None = None
    missing = why_silent(settings)

    def put_on_disk(stop: threading.Event) -> Iterator[Progress]:
        nonlocal load_voice
        if not missing:
            load_voice = yield from prepare(settings, stop)

    def open_voice() -> Voice:
        assert load_voice is not None  # noqa: S101 - prepared before it is loaded
        return load_voice()

    cores = shared.cores
    share = cores.share(min(settings.workers, max(cores.total // 2, 1)))
    workers = Workers(open_voice, threads=settings.workers, share=share)
    return replace(assemble(SpeechStage(workers, settings, missing=missing)), prepare=put_on_disk)


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
