"""The detector: from a message, and its embeddings, to a verdict. No thread, no clock, no file."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.anomaly import surface
from pipelines.anomaly.calibrate import HEADS, Calibration, HeadName, cell
from pipelines.anomaly.checks import Checked, Finding, check
from pipelines.anomaly.language import Language
from pipelines.anomaly.text import LONGEST, normalise, plain, windows
from pipelines.anomaly.vae import VAE
from pipelines.anomaly.verdict import Cause, Deviation, Judgement, Verdict
from pipelines.embedding.minilm import Embedding, Passage

Floats = NDArray[np.float32]

DEVIATIONS = 3  # surface features that a verdict names
NOTEWORTHY = 3.0  # standard deviations from which on a feature is named


@dataclass(frozen=True, slots=True)
class Scaled:
    """A VAE, and how its inputs are brought to mean 0 and deviation 1."""

    vae: VAE
    mean: Floats
    deviation: Floats  # nowhere 0: some dimensions of the embedding never change

    def standard(self, inputs: Floats) -> Floats:
        """(N, inputs) → (N, inputs), in standard deviations."""
        return ((inputs - self.mean) / self.deviation).astype(np.float32)

    def score(self, inputs: Floats) -> tuple[Floats, Floats]:
        """(N, inputs) → reconstruction error (N,) and divergence (N,), in nats; their sum is the negative ELBO."""
        reconstruction, divergence = self.vae.score(torch.from_numpy(self.standard(inputs)))
        return reconstruction.sum(1).numpy(), divergence.numpy()


@dataclass(frozen=True, slots=True)
class Injections:
    """Two logistic regressions on embeddings, one of injections and one of jailbreaks, on one scale: 1 is rare."""

    weights: Floats  # (2, DIMENSIONS)
    bias: Floats  # (2,)

    def score(self, embeddings: Floats) -> Floats:
        """(N, DIMENSIONS) → (N,), the larger of both."""
        both: Floats = embeddings @ self.weights.T + self.bias
        return np.asarray(both.max(1), dtype=np.float32)


@dataclass(frozen=True, slots=True)
class Examples:
    """Normal messages, for the one that is nearest: a verdict names it."""

    ids: tuple[str, ...]
    embeddings: Floats  # (N, DIMENSIONS)
    surface: Floats  # (N, features), to train on again
    scores: Floats  # (N, 3): letters, order, injection
    cells: tuple[str, ...]
    held_out: NDArray[np.bool_]  # (N,): not trained on


@dataclass(frozen=True, slots=True)
class Prepared:
    """A message on its way: what needs no embedding is known."""

    text: str
    cell: str
    checked: Checked
    features: Floats
    passages: tuple[Passage, ...]  # the message with its windows; then what was hidden in it


def passage(text: str) -> Passage:
    """A normalised text as it is embedded."""
    text = plain(text)
    return Passage(text, tuple(windows(text)))


@dataclass(frozen=True, slots=True)
class Detector:
    """Five heads, and what calibrates them."""

    language: Language
    surface: Scaled
    semantic: Scaled
    injections: Injections
    examples: Examples
    calibration: Calibration
    alpha: float = 0.01
    name: str = "bundled"
    narrow: bool = False

    def prepare(self, raw: str, *, longest: int = LONGEST) -> Prepared:
        """Everything about a message that its embedding is not needed for."""
        checked = check(raw, longest=longest, log_likelihood=self.language.log_likelihood)
        text = normalise(raw)
        hidden = [passage(normalise(each)) for each in checked.hidden]
        looks = surface.features(text, self.language)
        return Prepared(text, cell(text), checked, looks, (passage(text), *hidden))

    def scores(self, prepared: Prepared, embeddings: Sequence[Embedding]) -> dict[HeadName, float]:
        """Every head's score; the higher, the less normal."""
        return self._measure(prepared, embeddings)[0]

    def judge(self, prepared: Prepared, embeddings: Sequence[Embedding], findings: Sequence[Finding] = ()) -> Verdict:
        """The verdict; ``findings`` are what checks beyond the message itself found."""
        scores, reconstruction, divergence = self._measure(prepared, embeddings)
        p_values = {head: self.calibration.p_value(head, prepared.cell, scores[head], self.alpha) for head in HEADS}
        shares = self.calibration.shares
        if not prepared.text:  # nothing is said, so nothing is unusual
            p_values = dict.fromkeys(HEADS, 1.0)
        causes: list[Cause] = [head for head in HEADS if p_values[head] <= self.alpha * shares[head]]
        found = (*prepared.checked.findings, *findings)
        similarities = self.examples.embeddings @ embeddings[0].whole
        nearest = int(similarities.argmax())
        return Verdict(
            causes=(*causes, *(("checks",) if found else ())),
            p_value=self.calibration.combined(p_values)[0],
            judgements=tuple(Judgement(head, scores[head], p_values[head]) for head in HEADS),
            findings=found,
            deviations=self._deviations(prepared.features),
            nearest=self.examples.ids[nearest],
            similarity=float(similarities[nearest]),
            reconstruction=reconstruction,
            divergence=divergence,
        )

    def _measure(
        self, prepared: Prepared, embeddings: Sequence[Embedding]
    ) -> tuple[dict[HeadName, float], float, float]:
        """The scores, and the two parts of the semantic one: reconstruction error and divergence."""
        whole = embeddings[0].whole[None]
        parts = np.concatenate([part for each in embeddings for part in (each.whole[None], each.windows)])
        looked, looks_apart = self.surface.score(prepared.features[None])
        reconstruction, divergence = (float(term[0]) for term in self.semantic.score(whole))
        scores: dict[HeadName, float] = {
            "surface": float(looked[0] + looks_apart[0]),
            "letters": self.language.log_perplexity(prepared.text),
            "order": self.language.order_score(prepared.text),
            "injection": float(self.injections.score(parts).max()),
            "semantic": reconstruction + divergence,
        }
        return scores, reconstruction, divergence

    def _deviations(self, features: Floats) -> tuple[Deviation, ...]:
        apart = self.surface.standard(features[None])[0]
        order = np.argsort(-np.abs(apart))[:DEVIATIONS]
        return tuple(
            Deviation(surface.FEATURES[n], float(features[n]), float(apart[n]))
            for n in order
            if abs(apart[n]) >= NOTEWORTHY
        )

    def at(self, alpha: float) -> "Detector":
        """The same with another budget of false alarms."""
        return replace(self, alpha=alpha)
