"""From configuration to stages: the only module that names them all."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.chat.admission import Limits
from pipelines.chat.engine import Engine
from pipelines.chat.language_model import LanguageModel
from pipelines.chat.models import prepare
from pipelines.chat.settings import ChatSettings
from pipelines.chat.stage import ChatStage
from pipelines.flow import Stage
from pipelines.packages import Progress
from pipelines.threads import in_thread

StageName = Literal["chat"]

PROGRESS_AHEAD = 8  # progress reports that may wait for whoever shows them


def _nothing(stop: threading.Event) -> Iterator[Progress]:
    return iter(())


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The stages of one server, and the workers that belong to them."""

    stages: tuple[Stage, ...]
    chat: ChatStage
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
        show(Progress("loading the language model"))
        await self.engine.start()

    async def close(self) -> None:
        """End every worker."""
        await self.chat.close()

    @property
    def ready(self) -> bool:
        """Whether every worker is."""
        return self.engine.ready


def build(stages: Sequence[StageName], chat: ChatSettings) -> Pipeline:
    """The pipeline that the configuration describes, not started yet."""
    folder = Path()

    def prepare_models(stop: threading.Event) -> Iterator[Progress]:
        nonlocal folder
        folder = yield from prepare(chat.model, stop)

    def load_model() -> LanguageModel:
        # Imported on the engine's thread: torch and transformers take seconds, and the server answers meanwhile.
        from pipelines.chat.transformer import load

        return load(folder, chat)

    engine = Engine(load_model, Limits(chat.streams, chat.waiting, chat.waiting_tokens))
    chat_stage = ChatStage(engine, chat)
    made: dict[StageName, Stage] = {"chat": chat_stage}
    return Pipeline(tuple(made[name] for name in stages), chat_stage, prepare_models)
