"""What a detector is measured by: shares with their intervals, areas, curves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipelines.anomaly.detector import Detector
from pipelines.anomaly.training.train import Floats, Messages
from pipelines.anomaly.verdict import Verdict
from pipelines.embedding.minilm import MiniLM


@dataclass(frozen=True, slots=True)
class Row:
    """One measured share: what of, how many of how many, and what must be reached."""

    measure: str
    hits: int
    of: int
    least: float | None = None
    most: float | None = None

    @property
    def share(self) -> float:
        return self.hits / self.of if self.of else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's, for 95 %."""
        if not self.of:
            return 0.0, 1.0
        z, n, p = 1.96, self.of, self.share
        middle, spread = p + z * z / (2 * n), z * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
        return (middle - spread) / (1 + z * z / n), (middle + spread) / (1 + z * z / n)

    @property
    def met(self) -> bool:
        return (self.least is None or self.share >= self.least) and (self.most is None or self.share <= self.most)


@dataclass(frozen=True, slots=True)
class Area:
    """An area under the ROC curve: the VAE's, and its baseline's, the distance to the five nearest normal messages."""

    measure: str
    vae: float
    nearest: float
    least: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What the detector was measured at."""

    rows: tuple[Row, ...]
    areas: tuple[Area, ...]
    latent: Floats  # (N, 2): latent means of the semantic head, projected, for a picture
    labels: tuple[str, ...]
    curves: "dict[str, tuple[Floats, Floats]]"  # of each class: false and true positives of all heads together


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


def screen(detector: Detector, model: MiniLM, texts: Sequence[str], *, threads: int) -> list[Verdict]:
    """The verdicts of texts as they come, hidden payloads and all."""
    prepared = [detector.prepare(text) for text in texts]
    embeddings = [model.embed(each.passages, threads=threads) for each in prepared]
    torch.set_num_threads(1)
    return [detector.judge(each, found) for each, found in zip(prepared, embeddings, strict=True)]


def compare(measure: str, detector: Detector, normal: Floats, other: Floats, least: float | None = None) -> Area:
    """How well the VAE tells two sets of embeddings apart, and how well its baseline does."""

    def vae(whole: Floats) -> Floats:
        reconstruction, divergence = detector.semantic.score(whole)
        return np.asarray(reconstruction + divergence, dtype=np.float32)

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
