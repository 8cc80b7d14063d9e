"""What a replica of a part computes with, and what it answers gateways."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pipelines.anomaly.judge import Judge
from pipelines.anomaly.part import JUDGES_WITH
from pipelines.build import Pipeline
from pipelines.embedding.interface import Embeds
from pipelines.embedding.names import E5, MINILM
from pipelines.image.interface import Paints
from pipelines.image.part import PAINTS_WITH, painter
from pipelines.part import Part, Prepare, Shared
from pipelines.speech.interface import Speaks
from pipelines.speech.part import voiced
from pipelines.speech.voices.available import why_silent
from pipelines.stages import StageUnavailableError
from server.cluster.parts.answering import Answer, Answering, Load
from server.cluster.parts.embedding import EMBED, EmbeddingAnswers
from server.cluster.parts.image import PAINT, ImageAnswers
from server.cluster.parts.screening import JUDGE, ScreeningAnswers
from server.cluster.parts.speech import SAY, SpeechAnswers
from server.cluster.parts.wire import Frame
from server.cluster.settings import PartKind
from server.config import Settings

EMBEDDED = 64  # texts that one replica embeds or judges at a time, before there is to be another one


@dataclass(frozen=True, slots=True)
class Here:
    """A part by itself."""

    pipeline: Pipeline  # of no stages: it starts and ends what computes
    answering: Answering
    load: Load


def parts_of(settings: Settings) -> tuple[PartKind, ...]:
    """The parts that have replicas of their own."""
    ray, stages = settings.ray, settings.pipeline.stages
    found: dict[PartKind, bool] = {
        "embedding": ray.embedding[1] > 0 and bool(models_of(settings)),
        "image": ray.image[1] > 0 and "image" in stages,
        "speech": ray.speech[1] > 0 and "speech" in stages,
    }
    return tuple(kind for kind, wanted in found.items() if wanted)


def models_of(settings: Settings) -> tuple[str, ...]:
    """The embedding models that gateways ask for."""
    stages = settings.pipeline.stages
    unknown = any(name not in Settings.model_fields for name in stages)  # another package's may embed with either
    english = "image" in stages or settings.chat.tools == "guided"
    wanted = {MINILM: english or unknown, E5: "anomaly" in stages or unknown}
    return tuple(name for name, is_wanted in wanted.items() if is_wanted)


def here(kind: PartKind, settings: Settings) -> Here:
    """What computes a part, not started. Raises: StageUnavailableError where it is not installed."""
    return {"embedding": _embedding, "image": _image, "speech": _speech}[kind](settings)


def _embedding(settings: Settings) -> Here:
    shared, load = Shared(), Load()
    models = {name: shared.embeds(name) for name in models_of(settings)}
    parts = [_embedder(each) for each in models.values()]
    answers: dict[str, Answer] = {EMBED: EmbeddingAnswers(models, load)}
    judge = Judge(models[E5], settings.anomaly) if "anomaly" in settings.pipeline.stages else None
    if judge is not None:
        imports = (*models[E5].imports, *JUDGES_WITH)
        parts.append(
            Part("screening", None, imports=imports, start=judge.start, close=judge.close, ready=lambda: judge.ready)
        )
        answers[JUDGE] = ScreeningAnswers(judge, load)

    def describe() -> Frame:
        return Frame({"models": tuple(models), "shares": None if judge is None else dict(judge.shares)})

    return Here(Pipeline(parts, shared), Answering(answers, describe), load)


def _embedder(embeds: Embeds) -> Part:
    return Part(
        embeds.name,
        None,
        prepare=embeds.prepare,
        imports=embeds.imports,
        start=embeds.start,
        ready=lambda: embeds.ready,
    )


def _image(settings: Settings) -> Here:
    return drawing(painter(settings.image, Shared()))


def drawing(paints: Paints) -> Here:
    """Pictures, drawn by this."""
    load = Load()
    answers = ImageAnswers(paints, load)
    part = Part("image", None, imports=PAINTS_WITH, start=paints.start, close=paints.close, ready=lambda: paints.ready)
    return Here(Pipeline([part]), Answering({PAINT: answers}, answers.describe), load)


def _speech(settings: Settings) -> Here:
    if missing := why_silent(settings.speech):
        raise StageUnavailableError(missing)
    return speaking(*voiced(settings.speech, Shared()))


def speaking(speaks: Speaks, prepare: Prepare | None = None) -> Here:
    """Speech, by this; ``prepare`` puts on the disk what it loads."""
    load = Load()
    answers = SpeechAnswers(speaks, load)
    part = Part("speech", None, start=speaks.start, close=speaks.close, ready=lambda: speaks.voice is not None)
    made = part if prepare is None else replace(part, prepare=prepare)
    return Here(Pipeline([made]), Answering({SAY: answers}, answers.describe), load)


def at_once(settings: Settings) -> Mapping[PartKind, int]:
    """How much one replica of each part takes at a time, before there is to be another one."""
    return {"embedding": EMBEDDED, "image": settings.image.waiting, "speech": settings.speech.streams}
