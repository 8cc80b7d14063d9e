"""The detector: from a message, and its embeddings, to a verdict. No thread, no clock, no file."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.anomaly import surface
from pipelines.anomaly.calibrate import HEADS, Calibration, HeadName
from pipelines.anomaly.checks import Checked, Finding, check
from pipelines.anomaly.classifier import Classifier
from pipelines.anomaly.kinds import UNLIKELY, Identifier, Kind
from pipelines.anomaly.language import Language
from pipelines.anomaly.pasted import Pasted, opaque, pasted, without
from pipelines.anomaly.text import LONGEST, normalise, plain, windows
from pipelines.anomaly.vae import VAE
from pipelines.anomaly.verdict import Cause, Deviation, Judgement, Neighbour, Segment, Verdict
from pipelines.embedding.passages import Embedding, Passage

Floats = NDArray[np.float32]

NEIGHBOURS = 3  # normal messages that a verdict names
DEVIATIONS = 3  # surface features that a verdict names
NOTEWORTHY = 3.0  # standard deviations from which on a feature is named
NOISE = 1.5  # of the logarithm of how likely a text is of no language, in its letters' score
LEAST_LETTERS = 12  # besides what is pasted, from which on a message is judged by its letters
# Of alpha, that a document is judged by: documents from elsewhere than those it was calibrated with have more alarms.
OF_DOCUMENTS = 0.5
# What the checks find in a message, and does not count in a document: data repeats itself for good reasons.
NOT_IN_DOCUMENTS = ("repetition",)


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
class Examples:
    """Normal messages, for the one that is nearest: a verdict names it."""

    ids: tuple[str, ...]
    embeddings: Floats  # (N, DIMENSIONS)
    surface: Floats  # (N, features), to train on again
    scores: Floats  # (N, 3): letters, order, injection
    kinds: tuple[tuple[Kind, Kind], ...]  # of the message, and of its words
    held_out: NDArray[np.bool_]  # (N,): not trained on
    texts: tuple[str, ...]  # their beginnings; empty where they are an operator's

    def nearest(self, embedding: Floats) -> tuple[Neighbour, ...]:
        """The messages most like the one with this embedding (DIMENSIONS,), the nearest first."""
        similarities = self.embeddings @ embedding
        order = np.argsort(-similarities)[:NEIGHBOURS]
        return tuple(Neighbour(self.ids[n], float(similarities[n]), self.texts[n] if self.texts else "") for n in order)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A message on its way: what needs no embedding is known."""

    text: str
    words: str  # besides what is pasted
    pasted: bool  # whether anything is
    kind: Kind
    kind_of_words: Kind
    noise: float  # how likely its words are of no language, in nats above the least
    checked: Checked
    features: Floats
    passages: tuple[Passage, ...]  # the message with its windows; then what was hidden in it

    def judged_as(self, head: HeadName) -> Kind:
        """The kind of message that this head compares it with."""
        if head in ("injection", "documents"):  # what means the same lies at the same place, in any language
            return Kind(self.kind.length, "latin", ())
        return self.kind if head == "semantic" else self.kind_of_words

    def says_nothing_to(self, head: HeadName) -> bool:
        """Whether there is nothing here that the head could judge."""
        if head in ("injection", "documents"):  # a message that shows nothing may hide something
            return not any(each.text for each in self.passages)
        if not self.text:
            return True
        if head == "order":  # it knows English alone
            return "en" not in self.kind_of_words.languages
        return head in ("surface", "letters") and self.pasted and _letters(self.words) < LEAST_LETTERS


def _letters(text: str) -> int:
    return sum(map(str.isalpha, text))


def passage(text: str) -> Passage:
    """A normalised text as it is embedded."""
    text = plain(text)
    return Passage(text, tuple(windows(text)))


def passage_of_message(text: str, spans: Sequence[Pasted] | None = None) -> Passage:
    """A normalised message as it is embedded: without codes, unless it is nothing else. Documents keep theirs.

    ``spans`` are what is pasted into it, if that is known: where there is nothing, there are no codes.
    """
    said = without(text, opaque(text) if spans is None or spans else ())
    return passage(said if _letters(said) else text)


@dataclass(frozen=True, slots=True)
class Detector:
    """Five heads for messages and one for documents, and what calibrates them."""

    identifier: Identifier
    language: Language
    surface: Scaled
    semantic: Scaled
    injections: Classifier  # in what users say
    documents: Classifier  # in what an assistant reads
    examples: Examples
    calibration: Calibration
    alpha: float = 0.01
    name: str = "bundled"
    narrow: bool = False

    def prepare(self, raw: str, *, longest: int = LONGEST, document: bool = False) -> Prepared:
        """Everything about a message, or a piece of a document, that its embedding is not needed for."""
        checked = check(raw, longest=longest, log_likelihood=self.language.log_likelihood)
        text = normalise(raw)
        spans = pasted(text)
        words = without(text, spans)
        kind, noise = self.identifier.identify(words)
        hidden = [passage(normalise(each)) for each in checked.hidden]
        looks = np.zeros(0, np.float32) if document else surface.features(words, self.language)
        passages = (passage(text) if document else passage_of_message(text, spans), *hidden)
        return Prepared(
            text, words, bool(spans), kind.as_long_as(text), kind, noise - UNLIKELY, checked, looks, passages
        )

    def letters(self, prepared: Prepared) -> float:
        """How unusual a message's letters are, in nats."""
        return self.language.log_perplexity(prepared.words) + NOISE * prepared.noise

    def scores(self, prepared: Prepared, embeddings: Sequence[Embedding]) -> dict[HeadName, float]:
        """Every head's score; the higher, the less normal. NaN where a head has nothing to judge."""
        return self._measure(prepared, embeddings)[0]

    def judge(self, prepared: Prepared, embeddings: Sequence[Embedding], findings: Sequence[Finding] = ()) -> Verdict:
        """The verdict; ``findings`` are what checks beyond the message itself found."""
        scores, reconstruction, divergence = self._measure(prepared, embeddings)
        p_values = {head: self._p_value(head, prepared, scores[head]) for head in HEADS}
        shares = self.calibration.shares
        causes: list[Cause] = [head for head in HEADS if p_values[head] <= self.alpha * shares[head]]
        found = (*prepared.checked.findings, *findings)
        return Verdict(
            causes=(*causes, *(("checks",) if found else ())),
            p_value=self.calibration.combined(p_values)[0],
            judgements=tuple(
                Judgement(head, 0.0 if math.isnan(scores[head]) else scores[head], p_values[head]) for head in HEADS
            ),
            findings=found,
            deviations=() if prepared.says_nothing_to("surface") else self._deviations(prepared.features),
            neighbours=self.examples.nearest(embeddings[0].whole),
            reconstruction=reconstruction,
            divergence=divergence,
            languages=prepared.kind.languages,
            known=all(self.calibration.knows(head, prepared.judged_as(head)) for head in ("letters", "semantic")),
            segment=_segment(prepared, embeddings, self.injections)[1] if "injection" in causes else None,
        )

    def judge_document(
        self, prepared: Prepared, embeddings: Sequence[Embedding], findings: Sequence[Finding] = ()
    ) -> Verdict:
        """The verdict of a document or a tool's result: whether a part of it gives an assistant instructions."""
        score, segment = self.document_score(prepared, embeddings)
        p_value = self._p_value("documents", prepared, score)
        found = tuple(each for each in (*prepared.checked.findings, *findings) if each.check not in NOT_IN_DOCUMENTS)
        causes: list[Cause] = ["documents"] if p_value <= self.alpha * OF_DOCUMENTS else []
        return Verdict(
            causes=(*causes, *(("checks",) if found else ())),
            p_value=p_value,
            judgements=(Judgement("documents", score, p_value),),
            findings=found,
            languages=prepared.kind.languages,
            segment=segment if causes else None,
        )

    def document_score(self, prepared: Prepared, embeddings: Sequence[Embedding]) -> tuple[float, Segment]:
        """The score of the segment that is most like an instruction, and which one that is."""
        return _segment(prepared, embeddings, self.documents)

    def _p_value(self, head: HeadName, prepared: Prepared, score: float) -> float:
        if prepared.says_nothing_to(head):
            return 1.0
        return self.calibration.p_value(head, prepared.judged_as(head), score)

    def _measure(
        self, prepared: Prepared, embeddings: Sequence[Embedding]
    ) -> tuple[dict[HeadName, float], float, float]:
        """The scores, and the terms of the semantic VAE: reconstruction error, which is its score, and divergence."""
        whole = embeddings[0].whole[None]
        looked, looks_apart = self.surface.score(prepared.features[None])
        reconstruction, divergence = (float(term[0]) for term in self.semantic.score(whole))
        scores: dict[HeadName, float] = {
            "surface": float(looked[0] + looks_apart[0]),
            "letters": self.letters(prepared),
            "order": self.language.order_score(prepared.words),
            "injection": self._injection(prepared, embeddings),
            "semantic": reconstruction,  # without the divergence, which finds nothing of its own
        }
        for head in HEADS:
            if prepared.says_nothing_to(head):
                scores[head] = math.nan
        return scores, reconstruction, divergence

    def _injection(self, prepared: Prepared, embeddings: Sequence[Embedding]) -> float:
        """The highest score of the message, its windows, what is hidden in it, and the windows of that."""
        parts = np.concatenate([part for each in embeddings for part in (each.whole[None], each.windows)])
        texts = [
            text
            for passage, each in zip(prepared.passages, embeddings, strict=False)  # training embeds nothing hidden
            for text in (passage.text, *(passage.text[start:end] for start, end in each.spans))
        ]
        return float(self.injections.score(parts, texts).max())

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


def _segment(prepared: Prepared, embeddings: Sequence[Embedding], classifier: Classifier) -> tuple[float, Segment]:
    """The highest score of a text's segments and of what is hidden in it, and the segment: of one that is hidden, the
    whole."""
    text, first = prepared.passages[0].text, embeddings[0]
    spans = first.spans or ((0, len(text)),)
    parts = first.windows if first.spans else first.whole[None]
    scores = classifier.score(parts, [text[start:end] for start, end in spans])
    place = int(scores.argmax())
    hidden = max(
        (
            float(classifier.score(each.whole[None], [passage.text])[0])
            for passage, each in zip(prepared.passages[1:], embeddings[1:], strict=False)
        ),
        default=-math.inf,
    )
    if hidden > scores[place]:
        return hidden, Segment(0, len(text))
    return float(scores[place]), Segment(*spans[place])
