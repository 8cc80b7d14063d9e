"""The language model as a part of the pipeline."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from prometheus_client.registry import Collector

from pipelines.chat.answering import Measured
from pipelines.chat.calls.choice import Chooser
from pipelines.chat.defaults import ENGINE, of_model
from pipelines.chat.engine.admission import EngineLimits
from pipelines.chat.engine.engine import Engine
from pipelines.chat.model.files import prepare
from pipelines.chat.model.interface import LanguageModel
from pipelines.chat.settings import ChatSettings
from pipelines.chat.stage import ChatStage
from pipelines.downloads.progress import Progress
from pipelines.embedding.names import MINILM
from pipelines.events import Sampling
from pipelines.metrics import counter, gauge
from pipelines.part import Part, Shared
from pipelines.stages import StageUnavailableError


def part(settings: ChatSettings, shared: Shared) -> Part:
    """The chat stage, on the model that the settings name, or over a server elsewhere."""
    if settings.engine == "openai":
        from pipelines.chat.upstream.part import part as over_upstreams

        return over_upstreams(settings, shared)
    if find_spec("torch") is None:
        text = "[chat] engine = \"builtin\" needs PyTorch: pip install 'loquent[server]', or have a server elsewhere"
        raise StageUnavailableError(f"{text} answer: loquent serve --engine URL")
    folder = Path()
    defaults = ENGINE

    def put_on_disk(stop: threading.Event) -> Iterator[Progress]:
        nonlocal folder, defaults
        folder = yield from prepare(settings.model, stop)
        defaults = of_model(settings.model, folder)
        if guide is not None:
            yield from guide.prepare(stop)

    def load_model() -> LanguageModel:
        from pipelines.chat.model.load import load  # on the engine's thread: the server answers meanwhile

        return load(folder, settings)

    limits = EngineLimits(settings.streams, settings.waiting, settings.waiting_tokens)
    engine = Engine(load_model, limits, share=shared.cores.share(max(shared.cores.total // 2, 1)))
    guide = shared.embeds() if settings.tools == "guided" else None  # else another stage brings one, or none

    async def start() -> None:
        await engine.start()
        if guide is not None:
            await guide.start()

    chooser = Chooser(lambda: shared.embedders.get(MINILM))
    return replace(
        assemble(engine, settings, lambda: defaults, chooser),
        prepare=put_on_disk,
        start=start,
        imports=(
            "torch",
            "transformers.generation",
            "pipelines.chat.model.load",
            *(guide.imports if guide else ()),
        ),
    )


def assemble(
    engine: Engine,
    settings: ChatSettings,
    defaults: Callable[[], Sampling] = lambda: ENGINE,
    chooser: Chooser | None = None,
) -> Part:
    """The chat stage around an engine that loads its own model, which draws by these defaults."""
    measured = Measured()
    stage = ChatStage(engine, settings, defaults=defaults, chooser=chooser, observer=measured)
    return Part(
        "chat",
        stage,
        start=engine.start,
        close=stage.close,
        ready=lambda: engine.ready,
        metrics=(*measured.collectors, *metrics(engine)),
    )


def metrics(engine: Engine) -> tuple[Collector, ...]:
    """What the engine counts."""

    return (
        gauge("loquent_requests_running", "Requests that generate.", lambda: engine.running),
        gauge("loquent_requests_waiting", "Requests that wait to run.", lambda: engine.queued),
        counter(
            "loquent_engine_restarts", "Times that the model's worker died and was restarted.", lambda: engine.restarts
        ),
        gauge("loquent_kv_tokens", "Tokens in the KV cache slots of running requests.", lambda: engine.held_tokens),
        counter("loquent_engine_steps", "Forward passes.", lambda: engine.steps),
        counter("loquent_prompt_tokens_computed", "Prompt tokens prefilled.", lambda: engine.prefilled_tokens),
        counter(
            "loquent_prefix_cache_tokens",
            "Prompt tokens that were cached.",
            lambda: engine.cached_prompt_tokens,
        ),
        counter("loquent_prefix_cache_hits", "Requests that found some of their prompt.", lambda: engine.prefix_hits),
        counter("loquent_refusals", "Requests refused for lack of capacity.", lambda: engine.refusals),
        counter("loquent_aborted", "Requests that were cancelled, or whose reader left.", lambda: engine.aborted),
    )
