"""How a detector comes to be: from the bundled recipe's corpora, or from an operator's own messages."""

import hashlib
import json
import random
import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.anomaly import surface
from pipelines.anomaly.calibrate import Calibration, HeadName, Scored, cell
from pipelines.anomaly.detector import Detector, Injections, Scaled, passage
from pipelines.anomaly.language import Language
from pipelines.anomaly.text import normalise, plain, windows
from pipelines.anomaly.training import generate
from pipelines.anomaly.vae import VAE, Shape
from pipelines.downloads.cache import cache_folder
from pipelines.downloads.progress import Progress, Stopped
from pipelines.embedding import minilm
from pipelines.embedding.minilm import DIMENSIONS, Embedding, MiniLM

if TYPE_CHECKING:
    from pipelines.anomaly.training.results import Result

Floats = NDArray[np.float32]

SURFACE = (64, 6)  # hidden and latent sizes
SEMANTIC = (128, 32)
# Of the false alarms, by head. A narrow assistant cares for what is off its topic.
OPEN: dict[HeadName, float] = {"surface": 0.08, "letters": 0.15, "order": 0.13, "injection": 0.6, "semantic": 0.04}
NARROW: dict[HeadName, float] = {"surface": 0.05, "letters": 0.05, "order": 0.05, "injection": 0.05, "semantic": 0.8}
EXAMPLES = 2048  # normal messages that a detector keeps
PIECE = 1024  # texts embedded between two looks at the cache
TOGETHER = 48  # texts of one batch
LEAST_DEVIATION = 1e-2


class TrainingError(Exception):
    """There is nothing to train on; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Messages:
    """Messages as the heads read them."""

    texts: tuple[str, ...]  # normalised
    whole: Floats  # (N, DIMENSIONS)
    windows: tuple[Floats, ...]  # of each: (windows, DIMENSIONS)

    def __len__(self) -> int:
        return len(self.texts)

    def pick(self, where: Sequence[int] | NDArray[np.int64]) -> "Messages":
        """Some of them."""
        return Messages(
            tuple(self.texts[n] for n in where), self.whole[list(where)], tuple(self.windows[n] for n in where)
        )

    @property
    def embeddings(self) -> list[list[Embedding]]:
        """As the detector takes them."""
        return [[Embedding(whole, parts, 0)] for whole, parts in zip(self.whole, self.windows, strict=True)]


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
    result: "Result | None" = None  # what it was measured at


def read(
    texts: Sequence[str], model: MiniLM, stop: threading.Event, *, threads: int, what: str = "messages"
) -> Generator[Progress, None, Messages]:
    """Normalise and embed messages; what was embedded before comes from the cache, so that a stopped run goes on.

    Raises: Stopped.
    """
    normal = [normalise(text) for text in texts]
    order = sorted(range(len(normal)), key=lambda n: (len(normal[n]), normal[n]))
    whole = np.zeros((len(normal), DIMENSIONS), dtype=np.float32)
    parts: list[Floats] = [np.zeros((0, DIMENSIONS), dtype=np.float32)] * len(normal)
    for start in range(0, len(order), PIECE):
        yield Progress(f"embedding {what}", start, len(order))
        piece = order[start : start + PIECE]
        embeddings = _cached(tuple(normal[n] for n in piece), model, stop, threads)
        for n, embedding in zip(piece, embeddings, strict=True):
            whole[n], parts[n] = embedding.whole, embedding.windows
    return Messages(tuple(normal), whole, tuple(parts))


def join(parts: Sequence[Messages]) -> Messages:
    """Several sets of messages as one."""
    return Messages(
        tuple(text for part in parts for text in part.texts),
        np.concatenate([part.whole for part in parts]),
        tuple(window for part in parts for window in part.windows),
    )


def _cached(texts: tuple[str, ...], model: MiniLM, stop: threading.Event, threads: int) -> list[Embedding]:
    read = [(each.text, each.windows) for each in map(passage, texts)]
    digest = hashlib.sha256(json.dumps([minilm.NAME, minilm.RECIPE, read]).encode()).hexdigest()
    path = cache_folder() / "anomaly" / f"{digest[:32]}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as kept:
            whole, parts, ends = kept["whole"], kept["windows"], kept["ends"]
        return [Embedding(whole[n], parts[ends[n - 1] if n else 0 : ends[n]], 0) for n in range(len(texts))]
    found: list[Embedding] = []
    for start in range(0, len(texts), TOGETHER):
        if stop.is_set():
            raise Stopped
        found += model.embed([passage(text) for text in texts[start : start + TOGETHER]], threads=threads)
    path.parent.mkdir(parents=True, exist_ok=True)
    making = path.with_suffix(".making.npz")
    np.savez(
        making,
        whole=np.stack([each.whole for each in found]),
        windows=np.concatenate([each.windows for each in found]),
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


Group = tuple[Floats, bool, float]  # embeddings, whether they are what is looked for, and their weight as a whole


def fit_linear(groups: Sequence[Group]) -> tuple[Floats, float]:
    """Logistic regression: weights (DIMENSIONS,) and bias."""
    from sklearn.linear_model import LogisticRegression

    groups = [group for group in groups if len(group[0])]
    embeddings = np.concatenate([group[0] for group in groups])
    labels = np.concatenate([np.full(len(each), wanted) for each, wanted, _ in groups])
    weights = np.concatenate([np.full(len(each), weight / len(each)) for each, _, weight in groups]) * len(labels)
    model = LogisticRegression(max_iter=3000).fit(embeddings, labels, sample_weight=weights)
    return model.coef_[0].astype(np.float32), float(model.intercept_[0])


RARE = 0.995  # of normal messages score below 1 on the common scale; half of them below 0


def on_one_scale(linear: Sequence[tuple[Floats, float]], calm: Messages) -> Injections:
    """The regressions, so scaled that the same score is as rare for each among these normal messages."""
    scaled = []
    for weights, bias in linear:
        scores = [
            max(float(whole @ weights), float((parts @ weights).max(initial=-np.inf))) + bias
            for whole, parts in zip(calm.whole, calm.windows, strict=True)
        ]
        middle, rare = np.quantile(scores, [0.5, RARE])
        scaled.append((weights / (rare - middle), (bias - middle) / (rare - middle)))
    return Injections(
        np.stack([weights for weights, _ in scaled]).astype(np.float32),
        np.array([bias for _, bias in scaled], dtype=np.float32),
    )


def hidden_among(
    injections: Sequence[str],
    harmless: Sequence[str],
    count: int,
    model: MiniLM,
    stop: threading.Event,
    *,
    seed: int,
    threads: int,
) -> Generator[Progress, None, Floats]:
    """Embeddings of windows that hold an injection, in messages harmless but for it: (about ``count``, DIMENSIONS)."""
    rng = random.Random(seed)
    told = [normalise(injections[n % len(injections)]) for n in range(count)]
    messages = yield from read([generate.padded(rng, text, harmless) for text in told], model, stop, threads=threads)
    found = []
    for injection, text, parts in zip(told, messages.texts, messages.windows, strict=True):
        text = plain(text)
        at = text.find(injection[:40]) + 5
        spans = windows(text)
        if len(spans) == len(parts):
            found += [part for (start, end), part in zip(spans, parts, strict=True) if start <= at < end]
    return np.array(found, dtype=np.float32).reshape(-1, DIMENSIONS)


READ: tuple[HeadName, ...] = ("surface", "letters", "order")  # heads that need no embedding


def calibrate(
    detector: Detector, messages: Messages, texts: Sequence[str], shares: Mapping[HeadName, float]
) -> Calibration:
    """From normal messages that no head was trained on; ``texts`` are more, for the heads that need no embedding."""
    cells = [cell(text) for text in messages.texts]
    scored: dict[HeadName, Scored] = {head: (values, cells) for head, values in score(detector, messages).items()}
    more = read_scores(detector, texts)
    return Calibration.of(scored | {head: (more[head], [cell(text) for text in texts]) for head in READ}, shares)


def read_scores(detector: Detector, texts: Sequence[str]) -> dict[HeadName, list[float]]:
    """The scores of the heads that need no embedding, of normalised texts."""
    looks, apart = detector.surface.score(features(texts, detector.language))
    return {
        "surface": (looks + apart).tolist(),
        "letters": [detector.language.log_perplexity(text) for text in texts],
        "order": [detector.language.order_score(text) for text in texts],
    }


def score(detector: Detector, messages: Messages) -> dict[HeadName, list[float]]:
    """Every head's scores of every message."""
    torch.set_num_threads(1)  # a message alone is too little for several: they would wait for each other
    found: dict[HeadName, list[float]] = {}
    for text, embeddings in zip(messages.texts, messages.embeddings, strict=True):
        for head, value in detector.scores(detector.prepare(text), embeddings).items():
            found.setdefault(head, []).append(value)
    return found


def features(texts: Sequence[str], language: Language) -> Floats:
    """(N, features)."""
    return np.stack([surface.features(text, language) for text in texts])
