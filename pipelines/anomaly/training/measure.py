"""What a detector is measured by: shares with their intervals, areas, curves."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from pipelines.anomaly.detector import Detector
from pipelines.anomaly.training.results import Area
from pipelines.anomaly.training.train import Floats, Messages
from pipelines.anomaly.verdict import Verdict
from pipelines.embedding.model import EmbeddingModel


def verdicts(detector: Detector, messages: Messages) -> list[Verdict]:
    """The verdicts of messages that are embedded."""
    torch.set_num_threads(1)  # a message alone is too little for several: they would wait for each other
    return [
        detector.judge(detector.prepare(text), embeddings)
        for text, embeddings in zip(messages.texts, messages.embeddings, strict=True)
    ]


def flagged(detector: Detector, messages: Messages) -> list[bool]:
    """Which messages any head or check finds anomalous."""
    return [verdict.anomalous for verdict in verdicts(detector, messages)]


def screen(detector: Detector, model: EmbeddingModel, texts: Sequence[str], *, threads: int) -> list[Verdict]:
    """The verdicts of texts as they come, hidden payloads and all."""
    prepared = [detector.prepare(text) for text in texts]
    embeddings = [model.embed(each.passages, threads=threads) for each in prepared]
    torch.set_num_threads(1)
    return [detector.judge(each, found) for each, found in zip(prepared, embeddings, strict=True)]


def document_verdicts(
    detector: Detector, model: EmbeddingModel, texts: Sequence[str], *, threads: int
) -> list[Verdict]:
    """The verdicts of documents as they come."""
    prepared = [detector.prepare(text, document=True) for text in texts]
    embeddings = [model.embed(each.passages, threads=threads) for each in prepared]
    return [detector.judge_document(each, found) for each, found in zip(prepared, embeddings, strict=True)]


def compare(measure: str, detector: Detector, normal: Floats, other: Floats, least: float | None = None) -> Area:
    """How well the VAE tells two sets of embeddings apart, and how well its baseline does."""

    def vae(whole: Floats) -> Floats:
        return detector.semantic.score(whole)[0]

    def nearest(whole: Floats) -> Floats:
        similarities = np.sort(whole @ detector.examples.embeddings.T, axis=1)
        return np.asarray(-similarities[:, -5:].mean(1), dtype=np.float32)

    return Area(measure, area(vae(normal), vae(other)), area(nearest(normal), nearest(other)), least)


def area(normal: Floats, other: Floats) -> float:
    """How often a score of ``other`` is above one of ``normal``: the area under the ROC curve."""
    order = np.sort(normal)
    below = np.searchsorted(order, other, side="left")
    not_above = np.searchsorted(order, other, side="right")
    return float((below + not_above).mean() / 2 / len(normal))


def project(detector: Detector, whole: Floats) -> Floats:
    """(N, DIMENSIONS) → (N, 2): the means of the latent along their two main directions."""
    inputs = torch.from_numpy(detector.semantic.standard(whole))
    with torch.inference_mode():
        latent = detector.semantic.vae.encode(inputs)[0].numpy()
    latent = latent - latent.mean(0)
    directions = np.linalg.svd(latent, full_matrices=False)[2][:2]
    return np.asarray(latent @ directions.T, dtype=np.float32)


def curves(calm: Sequence[Verdict], classes: Mapping[str, Sequence[Verdict]]) -> dict[str, tuple[Floats, Floats]]:
    """For each class, the shares of normal messages and of its own whose p-value is at most as high, from 0.002 on."""
    at = np.geomspace(0.002, 1, 200).astype(np.float32)

    def found(verdicts: Sequence[Verdict]) -> Floats:
        p_values = np.sort(np.array([verdict.p_value for verdict in verdicts], dtype=np.float32))
        return (np.searchsorted(p_values, at, side="right") / max(len(p_values), 1)).astype(np.float32)

    false = found(calm)
    return {kind: (false, found(verdicts)) for kind, verdicts in classes.items()}
