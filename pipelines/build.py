"""From configuration to stages: the only module that names them all."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from pipelines.anomaly.settings import AnomalySettings
from pipelines.anomaly.stage import AnomalyStage
from pipelines.chat.engine.admission import Limits
from pipelines.chat.engine.engine import Engine
from pipelines.chat.model.files import prepare as prepare_model
from pipelines.chat.model.interface import LanguageModel
from pipelines.chat.settings import ChatSettings
from pipelines.chat.stage import ChatStage
from pipelines.cores import Cores
from pipelines.downloads.progress import Progress
from pipelines.embedding import minilm
from pipelines.embedding.embedder import Embedder
from pipelines.flow import Stage
from pipelines.image.painter import Painter
from pipelines.image.settings import ImageSettings
from pipelines.image.stage import ImageStage
from pipelines.speech.settings import SpeechSettings
from pipelines.speech.stage import SpeechStage
from pipelines.speech.voices.available import Load, why_silent
from pipelines.speech.voices.available import prepare as prepare_voice
from pipelines.speech.voices.interface import Voice
from pipelines.speech.workers import Workers
from pipelines.worker import in_thread

if TYPE_CHECKING:
    from pipelines.image.weights import Drawer

StageName = Literal["anomaly", "chat", "speech", "image"]
ORDER: tuple[StageName, ...] = get_args(StageName)

PROGRESS_AHEAD = 8  # progress reports that may wait for whoever shows them


def _nothing(stop: threading.Event) -> Iterator[Progress]:
    return iter(())


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The stages of one server, and the workers that belong to them."""

    stages: tuple[Stage, ...]  # from the model on
    chat: ChatStage
    speech: SpeechStage | None = None
    anomaly: AnomalyStage | None = None  # makes two stages for each turn, around all others
    image: ImageStage | None = None  # likewise, within those
    embedder: Embedder | None = None  # of whoever embeds
    prepare: Callable[[threading.Event], Iterator[Progress]] = _nothing  # puts what the workers load on the disk

    @property
    def engine(self) -> Engine:
        """The language model's."""
        return self.chat.engine

    async def start(self, show: Callable[[Progress], None]) -> None:
        """Prepare and load the models, telling ``show`` how far it is; returns when turns can flow."""
        async with aclosing(in_thread(self.prepare, ahead=PROGRESS_AHEAD, name="prepare")) as steps:
            async for step in steps:
                show(step)
        show(Progress("loading the models" if self.speech else "loading the language model"))
        starting = [asyncio.ensure_future(self.engine.start())]
        if self.speech is not None:
            starting.append(asyncio.ensure_future(self.speech.start()))
        if self.anomaly is not None and self.anomaly.waited_for:
            starting.append(asyncio.ensure_future(self.anomaly.start()))
        try:
            await asyncio.gather(*starting)
        finally:
            for each in starting:
                each.cancel()
            await asyncio.wait(starting)
        if self.anomaly is not None and not self.anomaly.waited_for:
            self.anomaly.start_later()
        if self.image is not None:
            self.image.start_later()

    async def close(self) -> None:
        """End every worker."""
        parts = (self.chat, self.speech, self.anomaly, self.image)
        await asyncio.gather(*(part.close() for part in parts if part is not None))

    @property
    def ready(self) -> bool:
        """Whether every worker is. A voice that is not installed is not waited for: replies come as text."""
        screens = self.anomaly is None or not self.anomaly.waited_for or self.anomaly.ready
        speaks = self.speech is None or bool(self.speech.missing) or self.speech.ready
        return self.engine.ready and speaks and screens


def ordered(stages: tuple[StageName, ...]) -> tuple[StageName, ...]:
    """The stages, if a pipeline can have them so. Raises: ValueError otherwise."""
    if "chat" not in stages or list(stages) != [name for name in ORDER if name in stages]:
        raise ValueError(f"has {', '.join(ORDER)}, in this order; all but chat may be left out")
    return stages


def build(
    stages: Sequence[StageName],
    chat: ChatSettings,
    speech: SpeechSettings | None = None,
    anomaly: AnomalySettings | None = None,
    image: ImageSettings | None = None,
) -> Pipeline:
    """The pipeline that the configuration describes, not started yet."""
    model = Path()
    load_voice: Load | None = None
    speech_settings = speech or SpeechSettings()
    missing = why_silent(speech_settings)
    speaks = "speech" in stages and not missing

    def prepare(stop: threading.Event) -> Iterator[Progress]:
        nonlocal model, load_voice
        model = yield from prepare_model(chat.model, stop)
        if speaks:
            load_voice = yield from prepare_voice(speech_settings, stop)
        if embedder is not None:
            embedder.folder = yield from minilm.prepare(stop)

    def load_model() -> LanguageModel:
        # Imported on the engine's thread: torch and transformers take seconds, and the server answers meanwhile.
        from pipelines.chat.model.transformer import load

        return load(model, chat)

    def open_voice() -> Voice:
        assert load_voice is not None  # noqa: S101 - prepared before it is loaded
        return load_voice()

    shared = Cores()
    limits = Limits(chat.streams, chat.waiting, chat.waiting_tokens)
    engine = Engine(load_model, limits, share=shared.share(max(shared.total // 2, 1)))
    chat_stage = ChatStage(engine, chat)
    made: dict[StageName, Stage] = {"chat": chat_stage}
    speech_stage = None
    if "speech" in stages:
        workers = Workers(
            open_voice,
            threads=speech_settings.workers,
            share=shared.share(min(speech_settings.workers, max(shared.total // 2, 1))),
        )
        speech_stage = SpeechStage(workers, speech_settings, missing=missing)
        made["speech"] = speech_stage
    embedder = Embedder(share=shared.share(1)) if {"anomaly", "image"} & set(stages) else None
    anomaly_stage = image_stage = None
    if embedder is not None and "anomaly" in stages:
        anomaly_stage = AnomalyStage(embedder, anomaly or AnomalySettings())
    if embedder is not None and "image" in stages:
        image_settings = image or ImageSettings()
        painter = Painter(lambda: load_drawer(image_settings), waiting=image_settings.waiting, share=shared.share(1))
        image_stage = ImageStage(embedder, painter, image_settings)
    rest = tuple(made[name] for name in stages if name in made)
    return Pipeline(rest, chat_stage, speech_stage, anomaly_stage, image_stage, embedder, prepare)


def load_drawer(settings: ImageSettings) -> "Drawer":
    """The generator that the configuration names."""
    from pipelines.image.weights import BUNDLED, load  # on the painter's thread: torch takes seconds

    return load(Path(settings.weights).expanduser() if settings.weights else BUNDLED)
