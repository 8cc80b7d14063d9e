"""How a detector comes to be: from the bundled recipe's corpora, or from an operator's own messages."""

import hashlib
import json
import math
import random
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.anomaly import surface
from pipelines.anomaly.calibrate import ALL, EVERY, HEADS, Calibration, HeadName, Level, Scored
from pipelines.anomaly.detector import Detector, Examples, Scaled, passage, passage_of_message
from pipelines.anomaly.kinds import LENGTHS, Kind
from pipelines.anomaly.language import Language
from pipelines.anomaly.pasted import pasted, without
from pipelines.anomaly.text import normalise, plain
from pipelines.anomaly.training import generate
from pipelines.anomaly.vae import VAE, Shape
from pipelines.downloads.cache import cache_folder
from pipelines.downloads.progress import Progress, Stopped
from pipelines.embedding.model import RECIPE, EmbeddingModel
from pipelines.embedding.passages import DIMENSIONS, Embedding, Passage, Span

if TYPE_CHECKING:
    from pipelines.anomaly.training.results import Result

Floats = NDArray[np.float32]

SURFACE = (64, 6)  # hidden and latent sizes
SEMANTIC = (128, 32)
# Of the false alarms, by head. A narrow assistant cares for what is off its topic.
OPEN: dict[HeadName, float] = {"surface": 0.08, "letters": 0.25, "order": 0.12, "injection": 0.5, "semantic": 0.05}
NARROW: dict[HeadName, float] = {"surface": 0.05, "letters": 0.05, "order": 0.05, "injection": 0.05, "semantic": 0.8}
EXAMPLES = 2048  # normal messages that a detector keeps
PIECE = 1024  # texts embedded between two looks at the cache
TOGETHER = 48  # texts of one batch
LEAST_DEVIATION = 1e-2


class TrainingError(Exception):
    """There is nothing to train on; the message says what to do."""


class Excerpts(NamedTuple):
    """Texts, or windows of such, as classifiers read them."""

    texts: tuple[str, ...]
    embeddings: Floats  # (N, DIMENSIONS)

    def pick(self, where: Sequence[int] | NDArray[np.int64]) -> "Excerpts":
        """Some of them."""
        return Excerpts(tuple(self.texts[n] for n in where), self.embeddings[list(where)])

    @staticmethod
    def join(parts: Sequence["Excerpts"]) -> "Excerpts":
        """Several as one."""
        none = np.zeros((0, DIMENSIONS), dtype=np.float32)
        return Excerpts(
            tuple(text for part in parts for text in part.texts),
            np.concatenate([none, *(part.embeddings for part in parts)]),
        )


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages as the heads read them."""

    texts: tuple[str, ...]  # normalised
    embedded: tuple[str, ...]  # as they are embedded
    whole: Floats  # (N, DIMENSIONS)
    windows: tuple[Floats, ...]  # of each: (windows, DIMENSIONS)
    spans: tuple[tuple[Span, ...], ...]  # of each: where its windows are

    def __len__(self) -> int:
        return len(self.texts)

    def pick(self, where: Sequence[int] | NDArray[np.int64]) -> "Messages":
        """Some of them."""
        return Messages(
            tuple(self.texts[n] for n in where),
            tuple(self.embedded[n] for n in where),
            self.whole[list(where)],
            tuple(self.windows[n] for n in where),
            tuple(self.spans[n] for n in where),
        )

    @property
    def excerpts(self) -> Excerpts:
        """Each as a whole."""
        return Excerpts(self.embedded, self.whole)

    @property
    def every_window(self) -> Excerpts:
        """The windows of all of them."""
        texts = tuple(
            text[start:end] for text, spans in zip(self.embedded, self.spans, strict=True) for start, end in spans
        )
        return Excerpts(texts, np.concatenate([np.zeros((0, DIMENSIONS), dtype=np.float32), *self.windows]))

    @property
    def embeddings(self) -> list[list[Embedding]]:
        """As the detector takes them."""
        return [
            [Embedding(whole, parts, spans=spans)]
            for whole, parts, spans in zip(self.whole, self.windows, self.spans, strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Fitted:
    """A trained head, and how its training went."""

    head: Scaled
    losses: tuple[tuple[float, float], ...]  # by epoch: negative ELBO of what was trained on, and of what was not


@dataclass(frozen=True, slots=True)
class Trained:
    """A detector and the course of its training."""

    detector: Detector
    curves: Mapping[str, tuple[tuple[float, float], ...]] = field(default_factory=dict)
    suspicious: tuple[str, ...] = ()  # ids of messages that another detector takes for attacks
    scarce: tuple[tuple[str, int], ...] = ()  # languages with too few messages, and how many these are
    result: "Result | None" = None  # what it was measured at


def read(
    texts: Sequence[str],
    model: EmbeddingModel,
    stop: threading.Event,
    *,
    threads: int,
    what: str = "messages",
    documents: bool = False,
) -> Generator[Progress, None, Messages]:
    """Normalise and embed messages, or documents; what was embedded before comes from the cache, so that a stopped run
    goes on.

    Raises: Stopped.
    """
    normal = [normalise(text) for text in texts]
    passages = [passage(text) if documents else passage_of_message(text) for text in normal]
    order = sorted(range(len(normal)), key=lambda n: (len(normal[n]), normal[n]))
    whole = np.zeros((len(normal), DIMENSIONS), dtype=np.float32)
    parts: list[Floats] = [np.zeros((0, DIMENSIONS), dtype=np.float32)] * len(normal)
    spans: list[tuple[Span, ...]] = [()] * len(normal)
    for start in range(0, len(order), PIECE):
        yield Progress(f"embedding {what}", start, len(order))
        piece = order[start : start + PIECE]
        embeddings = _cached([passages[n] for n in piece], model, stop, threads)
        for n, embedding in zip(piece, embeddings, strict=True):
            whole[n], parts[n], spans[n] = embedding.whole, embedding.windows, embedding.spans
    return Messages(tuple(normal), tuple(each.text for each in passages), whole, tuple(parts), tuple(spans))


def join(parts: Sequence[Messages]) -> Messages:
    """Several sets of messages as one."""
    return Messages(
        tuple(text for part in parts for text in part.texts),
        tuple(text for part in parts for text in part.embedded),
        np.concatenate([part.whole for part in parts]),
        tuple(window for part in parts for window in part.windows),
        tuple(spans for part in parts for spans in part.spans),
    )


def _cached(passages: Sequence[Passage], model: EmbeddingModel, stop: threading.Event, threads: int) -> list[Embedding]:
    read = [(each.text, each.windows) for each in passages]
    digest = hashlib.sha256(json.dumps([model.name, RECIPE, read]).encode()).hexdigest()
    path = cache_folder() / "anomaly" / f"{digest[:32]}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as kept:
            whole, parts, spans, ends = kept["whole"], kept["windows"], kept["spans"], [0, *kept["ends"]]
        return [
            Embedding(
                whole[n], parts[start:end], spans=tuple((int(left), int(right)) for left, right in spans[start:end])
            )
            for n, (start, end) in enumerate(pairwise(ends))
        ]
    found: list[Embedding] = []
    for start in range(0, len(passages), TOGETHER):
        if stop.is_set():
            raise Stopped
        found += model.embed(passages[start : start + TOGETHER], threads=threads)
    path.parent.mkdir(parents=True, exist_ok=True)
    making = path.with_suffix(".making.npz")
    np.savez(
        making,
        whole=np.stack([each.whole for each in found]),
        windows=np.concatenate([each.windows for each in found]),
        spans=np.array([span for each in found for span in each.spans], dtype=np.int32).reshape(-1, 2),
        ends=np.cumsum([len(each.windows) for each in found]),
    )
    making.replace(path)
    return found


def fit(
    inputs: Floats, shape: tuple[int, int], stop: threading.Event, *, seed: int, what: str, epochs: int = 60
) -> Generator[Progress, None, Fitted]:
    """Train a VAE, and keep the epoch that was best on a tenth of the inputs that it was not trained on.

    Raises: Stopped.
    """
    torch.manual_seed(seed)
    order = np.random.default_rng(seed).permutation(len(inputs))
    held, used = order[: max(len(inputs) // 10, 1)], order[max(len(inputs) // 10, 1) :]
    mean = inputs[used].mean(0).astype(np.float32)
    deviation = np.maximum(inputs[used].std(0), LEAST_DEVIATION).astype(np.float32)
    head = Scaled(VAE(Shape(inputs.shape[1], *shape)), mean, deviation)
    training = torch.from_numpy(head.standard(inputs[used]))
    optimizer = torch.optim.AdamW(head.vae.parameters(), lr=2e-3, weight_decay=1e-5)
    losses: list[tuple[float, float]] = []
    best, kept, since = float("inf"), head.vae.state_dict(), 0
    for epoch in range(epochs):
        if stop.is_set():
            raise Stopped
        yield Progress(f"training the {what} head", epoch, epochs)
        beta = min(1.0, (epoch + 1) / 10)  # the divergence counts from little to all, or the latent stays unused
        total = 0.0
        for batch in torch.randperm(len(training)).split(256):
            loss = head.vae.negative_elbo(training[batch], beta=beta).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(batch)
        reconstruction, divergence = head.score(inputs[held])
        losses.append((total / len(training), float((reconstruction + divergence).mean())))
        if beta == 1.0:
            if losses[-1][1] < best - 0.01:
                best, since = losses[-1][1], 0
                kept = {name: value.clone() for name, value in head.vae.state_dict().items()}
            elif (since := since + 1) >= 6:
                break
    head.vae.load_state_dict(kept)
    return Fitted(Scaled(head.vae.eval(), mean, deviation), tuple(losses))


def hidden_among(
    injections: Sequence[str],
    harmless: Sequence[str],
    count: int,
    model: EmbeddingModel,
    stop: threading.Event,
    *,
    seed: int,
    threads: int,
) -> Generator[Progress, None, Excerpts]:
    """About ``count`` windows that hold an injection, in messages harmless but for it."""
    rng = random.Random(seed)
    told = [normalise(injections[n % len(injections)]) for n in range(count)]
    messages = yield from read([generate.padded(rng, text, harmless) for text in told], model, stop, threads=threads)
    return windows_of(messages, told)[0]


def windows_of(messages: Messages, told: Sequence[str]) -> tuple[Excerpts, Excerpts]:
    """The windows in which what is ``told`` begins, one text in each message, and those that hold nothing of it."""
    inside: list[Excerpts] = []
    outside: list[Excerpts] = []
    for n, each in enumerate(told):
        said, message = plain(normalise(each)), messages.pick([n])
        at = messages.embedded[n].find(said[:40])
        if at < 0:
            continue
        if not messages.spans[n]:
            inside.append(message.excerpts)
            continue
        windows, spans = message.every_window, messages.spans[n]
        inside.append(windows.pick([m for m, (start, end) in enumerate(spans) if start <= at + 5 < end]))
        outside.append(
            windows.pick([m for m, (start, end) in enumerate(spans) if end <= at or start >= at + len(said)])
        )
    return Excerpts.join(inside), Excerpts.join(outside)


def uncalibrated(shares: Mapping[HeadName, float]) -> Calibration:
    """What stands in a detector until it has its calibration."""
    levels = {length: Level(0.0, 1.0, 0) for length in LENGTHS}
    pools = {(head, ALL): np.zeros(1, dtype=np.float32) for head in EVERY}
    return Calibration(dict.fromkeys(EVERY, levels), pools, shares)


class Scores:
    """Every head's scores of normal messages, and their kinds."""

    def __init__(self) -> None:
        self.of: dict[HeadName, tuple[list[float], list[Kind]]] = {head: ([], []) for head in EVERY}

    def add(self, head: HeadName, score: float, kind: Kind) -> None:
        """Take note of a score, unless the head had nothing to judge."""
        if not math.isnan(score):
            scores, kinds = self.of[head]
            scores.append(score)
            kinds.append(kind)

    def scored(self) -> dict[HeadName, Scored]:
        """As calibration takes them."""
        return {head: Scored(*each) for head, each in self.of.items()}


def score(detector: Detector, messages: Messages, scores: Scores, heads: Sequence[HeadName] = HEADS) -> Scores:
    """Add these heads' scores of every message."""
    torch.set_num_threads(1)  # a message alone is too little for several: they would wait for each other
    for text, embeddings in zip(messages.texts, messages.embeddings, strict=True):
        prepared = detector.prepare(text)
        found = detector.scores(prepared, embeddings)
        for head in heads:
            scores.add(head, found[head], prepared.judged_as(head))
    return scores


def read_scores(detector: Detector, texts: Sequence[str], scores: Scores) -> Scores:
    """Add the scores of the heads that need no embedding, of normalised texts."""
    prepared = [detector.prepare(text) for text in texts]
    looks, apart = detector.surface.score(np.stack([each.features for each in prepared]))
    for each, looked in zip(prepared, (looks + apart).tolist(), strict=True):
        found: dict[HeadName, float] = {
            "surface": looked,
            "letters": detector.letters(each),
            "order": detector.language.order_score(each.words),
        }
        for head, value in found.items():
            if not each.says_nothing_to(head):
                scores.add(head, value, each.judged_as(head))
    return scores


def score_documents(detector: Detector, documents: Messages, scores: Scores) -> Scores:
    """Add the scores of clean documents."""
    for text, embeddings in zip(documents.texts, documents.embeddings, strict=True):
        prepared = detector.prepare(text, document=True)
        scores.add("documents", detector.document_score(prepared, embeddings)[0], prepared.judged_as("documents"))
    return scores


def examples(
    detector: Detector, ids: Sequence[str], messages: Messages, looks: Floats, held_out: NDArray[np.bool_]
) -> Examples:
    """Normal messages as a detector keeps them, without their texts; ``looks`` are their features."""
    prepared = [detector.prepare(text) for text in messages.texts]
    found = [detector.scores(*each) for each in zip(prepared, messages.embeddings, strict=True)]
    return Examples(
        tuple(ids),
        messages.whole,
        looks,
        np.array([[each["letters"], each["order"], each["injection"]] for each in found], dtype=np.float32),
        tuple((each.kind, each.kind_of_words) for each in prepared),
        held_out,
        (),
    )


def features(texts: Sequence[str], language: Language) -> Floats:
    """(N, features), of what is not pasted in normalised texts."""
    return np.stack([surface.features(without(text, pasted(text)), language) for text in texts])
