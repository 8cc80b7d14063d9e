"""The anomaly detector as a part of the pipeline."""

from dataclasses import replace

from prometheus_client import Counter, Histogram
from prometheus_client.registry import Collector

from pipelines.anomaly.calibrate import HEADS
from pipelines.anomaly.judge import Judge, Judges
from pipelines.anomaly.settings import AnomalySettings
from pipelines.anomaly.stage import AnomalyStage
from pipelines.anomaly.verdict import Action, Verdict
from pipelines.embedding.names import E5
from pipelines.metrics import counter, gauge, gauges, latency
from pipelines.part import Part, Shared, has_been

JUDGES_WITH = ("py3langid",)  # modules that take seconds, beside what the embedder imports
P_VALUES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


def part(settings: AnomalySettings, shared: Shared) -> Part:
    """The anomaly stage, with the detector that the settings name, or the bundled one, or one that is elsewhere."""
    embedder = shared.embeds(E5)  # also for who asks for embeddings
    elsewhere: Judges | None = shared.elsewhere.get("screening")
    if elsewhere is not None:
        part = assemble(AnomalyStage(elsewhere, settings, urgent=lambda: shared.cores.urgent))
        return replace(part, ready=has_been(part.ready), why=lambda: shared.why_not("screening"))
    part = assemble(AnomalyStage(Judge(embedder, settings), settings, urgent=lambda: shared.cores.urgent))
    return replace(part, prepare=embedder.prepare, imports=(*embedder.imports, *JUDGES_WITH))


def assemble(stage: AnomalyStage) -> Part:
    """The part of an anomaly stage whose embedder's model lies on the disk."""
    return Part(
        "anomaly",
        stage,
        required=stage.waited_for,
        start=stage.start,
        close=stage.close,
        ready=lambda: stage.ready,
        metrics=metrics(stage),
    )


def metrics(stage: AnomalyStage) -> tuple[Collector, ...]:
    """What the stage finds."""
    texts = Counter("loquent_anomaly_texts", "Texts screened, by what follows.", ["action"], registry=None)
    causes = Counter("loquent_anomaly_causes", "What found something.", ["cause"], registry=None)
    p_values = Histogram("loquent_anomaly_p_value", "P-values, by head.", ["head"], buckets=P_VALUES, registry=None)
    took = latency("loquent_anomaly_seconds", "From a text to its verdict.")

    def verdict(found: Verdict, action: Action, seconds: float) -> None:
        texts.labels(action).inc()
        took.observe(seconds)
        for cause in found.causes:
            causes.labels(cause).inc()
        for each in found.judgements:
            p_values.labels(each.head).observe(each.p_value)

    stage.on_verdict = verdict
    return (
        texts,
        causes,
        p_values,
        took,
        gauge("loquent_anomaly_ready", "1 while texts are screened.", lambda: float(stage.ready)),
        gauge("loquent_anomaly_alpha", "The share of false alarms that is allowed.", lambda: stage.settings.alpha),
        gauge("loquent_anomaly_flag_rate", "Of recent texts, found by a head.", lambda: stage.flag_rate),
        gauges(
            "loquent_anomaly_drift",
            "Of recent p-values from uniform ones: Kolmogorov-Smirnov.",
            "head",
            lambda: {head: stage.drift(head) for head in HEADS},
        ),
        counter("loquent_anomaly_failures", "Texts without a verdict.", lambda: stage.failures.total()),
    )
