"""Pictures as a part of the pipeline."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.registry import Collector

from pipelines.image.interface import Paints
from pipelines.image.painter import Painter
from pipelines.image.settings import ImageSettings
from pipelines.image.stage import ImageStage
from pipelines.loading import one_at_a_time
from pipelines.metrics import counter, counters, gauge, latency
from pipelines.part import Part, Shared

if TYPE_CHECKING:
    from pipelines.image.weights import Drawer

PAINTS_WITH = ("torch",)  # modules that take seconds


def part(settings: ImageSettings, shared: Shared) -> Part:
    """The image stage, with the generator that the settings name, or the bundled one, or one that is elsewhere."""
    embedder = shared.embeds()
    elsewhere: Paints | None = shared.elsewhere.get("image")
    imports = embedder.imports if elsewhere is not None else (*embedder.imports, *PAINTS_WITH)
    part = assemble(ImageStage(embedder, elsewhere or painter(settings, shared), settings))
    return replace(part, prepare=embedder.prepare, imports=imports)


def painter(settings: ImageSettings, shared: Shared) -> Painter:
    """A painter with the generator that the settings name, or the bundled one."""
    return Painter(lambda: load_drawer(settings), waiting=settings.waiting, share=shared.cores.share(0))


def assemble(stage: ImageStage) -> Part:
    """The part of an image stage whose embedder's model lies on the disk."""
    return Part(
        "image",
        stage,
        required=False,
        start=stage.start,
        close=stage.close,
        ready=lambda: stage.ready,
        metrics=metrics(stage),
    )


def load_drawer(settings: ImageSettings) -> "Drawer":
    """The generator that the settings name. Raises: WeightsError when it can't be used."""
    from pipelines.image.weights import BUNDLED, load  # on the painter's thread: torch takes seconds

    with one_at_a_time:
        return load(Path(settings.weights).expanduser() if settings.weights else BUNDLED)


def metrics(stage: ImageStage) -> tuple[Collector, ...]:
    """What the stage and its painter count."""
    painter = stage.painter
    took = latency("loquent_image_seconds", "From a caption to its pictures.")
    stage.on_picture = took.observe
    return (
        took,
        gauge("loquent_image_ready", "1 while pictures are drawn.", lambda: float(stage.ready)),
        gauge("loquent_image_queue", "Pictures that wait to be drawn.", lambda: painter.waiting),
        counter("loquent_images", "Pictures drawn.", lambda: painter.drawn),
        counters("loquent_image_turns", "Turns that wanted a picture.", "outcome", lambda: stage.outcomes),
    )
