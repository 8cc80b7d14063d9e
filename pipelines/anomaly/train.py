"""How a detector comes to be: from the bundled recipe's corpora, or from an operator's own messages."""

import hashlib
import json
import random
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines import embed
from pipelines.anomaly import generate, surface
from pipelines.anomaly.calibrate import CELLS, Calibration, HeadName, cell
from pipelines.anomaly.detector import Detector, Examples, Injections, Scaled, passages
from pipelines.anomaly.language import Language
from pipelines.anomaly.text import LONGEST, normalise, pieces, windows
from pipelines.anomaly.vae import VAE, Shape
from pipelines.embed import DIMENSIONS, Embedding, MiniLM, Passage
from pipelines.packages import Progress, Stopped, cache_folder

Floats = NDArray[np.float32]

SURFACE = (64, 6)  # hidden and latent sizes
SEMANTIC = (128, 32)
# Of the false alarms, by head. A narrow assistant cares for what is off its topic.
OPEN: dict[HeadName, float] = {"surface": 0.06, "letters": 0.15, "order": 0.17, "injection": 0.57, "semantic": 0.05}
NARROW: dict[HeadName, float] = {"surface": 0.05, "letters": 0.05, "order": 0.05, "injection": 0.05, "semantic": 0.8}
EXAMPLES = 2048  # normal messages that a detector keeps
OWN_EPOCHS = 200  # at most, of an operator's own messages: there are few in an epoch
FEWEST = 100  # own messages that are worth training on
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
    digest = hashlib.sha256(json.dumps([embed.NAME, "pieces with windows", texts]).encode()).hexdigest()
    path = cache_folder() / "anomaly" / f"{digest[:32]}.npz"
    if path.is_file():
        with np.load(path, allow_pickle=False) as kept:
            whole, parts, ends = kept["whole"], kept["windows"], kept["ends"]
        return [Embedding(whole[n], parts[ends[n - 1] if n else 0 : ends[n]], 0) for n in range(len(texts))]
    found: list[Embedding] = []
    for start in range(0, len(texts), TOGETHER):
        if stop.is_set():
            raise Stopped
        split = [passages(text) for text in texts[start : start + TOGETHER]]
        embedded = iter(_in_batches([each for piece in split for each in piece], model, threads))
        found += [_joined([next(embedded) for _ in piece]) for piece in split]
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


def _in_batches(found: Sequence[Passage], model: MiniLM, threads: int) -> Iterator[Embedding]:
    for start in range(0, len(found), TOGETHER):
        yield from model.embed(found[start : start + TOGETHER], threads=threads)


def _joined(embeddings: Sequence[Embedding]) -> Embedding:
    """A message's pieces as one: the first is the whole, the others stand among the windows."""
    parts = [part for each in embeddings[1:] for part in (each.whole[None], each.windows)]
    return Embedding(embeddings[0].whole, np.concatenate([embeddings[0].windows, *parts]), 0)


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
        text = pieces(text)[0]
        at = text.find(injection[:40]) + 5
        spans = windows(text)
        if len(spans) == len(parts):
            found += [part for (start, end), part in zip(spans, parts, strict=True) if start <= at < end]
    return np.array(found, dtype=np.float32).reshape(-1, DIMENSIONS)


def calibrate(detector: Detector, messages: Messages, shares: Mapping[HeadName, float]) -> Calibration:
    """From normal messages that no head was trained on."""
    return Calibration.of(score(detector, messages), [cell(text) for text in messages.texts], shares)


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


@dataclass(frozen=True, slots=True)
class Own:
    """An operator's own messages."""

    texts: tuple[str, ...]
    ids: tuple[str, ...]


def read_own(path: Path) -> Own:
    """Messages from a file with a JSON object a line: ``{"text": …}``, and ``"id"`` if it has one.

    Raises: TrainingError that names the line which is wrong.
    """
    texts: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                try:
                    entry = json.loads(line)
                    text, id = entry["text"], entry.get("id", f"{path.name}:{number}")
                except (ValueError, KeyError, TypeError, AttributeError):
                    raise TrainingError(f'{path}, line {number}: this is no {{"text": "a message"}}.') from None
                if not isinstance(text, str) or not isinstance(id, str | int):
                    raise TrainingError(f"{path}, line {number}: text must be a string, and id a string or a number.")
                if not _can_be_written(text):
                    raise TrainingError(f"{path}, line {number}: the text holds half a character.")
                if text.strip():
                    texts.setdefault(text.strip()[: 2 * LONGEST], str(id))
    except OSError as error:
        raise TrainingError(f"{path} can't be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise TrainingError(f"{path} is not UTF-8.") from None
    if len(texts) < FEWEST:
        raise TrainingError(
            f"{path} has {len(texts)} different messages; it takes {FEWEST} at least, and 500 for a calibration "
            "that can be trusted at 1 % false alarms."
        )
    return Own(tuple(texts), tuple(texts.values()))


def _can_be_written(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def own(
    messages: Own,
    base: Detector,
    model: MiniLM,
    stop: threading.Event,
    *,
    narrow: bool,
    alpha: float,
    seed: int,
    threads: int,
) -> Generator[Progress, None, Trained]:
    """Train both VAEs and calibrate all heads on an operator's own messages; letters, words and injections stay as
    they are.

    Unless the assistant is a ``narrow`` one, the examples that ``base`` keeps join in, so that other normal talk
    stays normal.

    Raises: Stopped.
    """
    read_messages = yield from read(messages.texts, model, stop, threads=threads)
    order = np.random.default_rng(seed).permutation(len(read_messages))
    held, used = order[: len(order) * 3 // 10], order[len(order) * 3 // 10 :]
    numbers = features(read_messages.texts, base.language)
    kept = base.examples
    whole, looks = read_messages.whole[used], numbers[used]
    if not narrow:
        whole = np.concatenate([whole, kept.embeddings[~kept.held_out]])
        looks = np.concatenate([looks, kept.surface[~kept.held_out]])
    looked = yield from fit(looks, SURFACE, stop, seed=seed, what="surface", epochs=OWN_EPOCHS)
    meant = yield from fit(whole, SEMANTIC, stop, seed=seed, what="semantic", epochs=OWN_EPOCHS)
    detector = replace(base, surface=looked.head, semantic=meant.head, alpha=alpha, narrow=narrow, name="own")
    yield Progress("calibrating")
    scores = score(detector, read_messages.pick(held))
    cells = [cell(read_messages.texts[n]) for n in held]
    if narrow:
        cells = [CELLS[0]] * len(cells)  # one topic is one kind of message: all of them judge together
    else:
        _join_examples(scores, cells, kept, detector)
    detector = replace(
        detector,
        calibration=Calibration.of(scores, cells, NARROW if narrow else OPEN),
        examples=_examples(messages.ids, read_messages, numbers, score(detector, read_messages), held, seed),
    )
    yield Progress("looking for attacks among the messages")
    return Trained(
        detector, {"surface": looked.losses, "semantic": meant.losses}, _suspicious(messages, read_messages, base)
    )


def _suspicious(messages: Own, read_messages: Messages, base: Detector) -> tuple[str, ...]:
    """The messages in which ``base`` finds an injection, or what its checks look for."""
    torch.set_num_threads(1)
    found = []
    for id, text, embeddings in zip(messages.ids, messages.texts, read_messages.embeddings, strict=True):
        causes = base.judge(base.prepare(text), embeddings).causes
        if "injection" in causes or "checks" in causes:
            found.append(id)
    return tuple(found)


def _join_examples(scores: dict[HeadName, list[float]], cells: list[str], kept: Examples, detector: Detector) -> None:
    """Add what the base's examples score now."""
    looks, means = detector.surface.score(kept.surface), detector.semantic.score(kept.embeddings)
    for n in np.flatnonzero(kept.held_out):
        cells.append(kept.cells[n])
        letters, order, injection = (float(value) for value in kept.scores[n])
        each: dict[HeadName, float] = {
            "surface": float(looks[0][n] + looks[1][n]),
            "letters": letters,
            "order": order,
            "injection": injection,
            "semantic": float(means[0][n] + means[1][n]),
        }
        for head, value in each.items():
            scores[head].append(value)


def _examples(
    ids: Sequence[str],
    messages: Messages,
    numbers: Floats,
    scores: Mapping[HeadName, Sequence[float]],
    held: Any,
    seed: int,
) -> Examples:
    """At most ``EXAMPLES`` of the messages."""
    chosen = np.random.default_rng(seed).permutation(len(messages))[:EXAMPLES]
    held_out = np.isin(chosen, held)
    return Examples(
        tuple(ids[n] for n in chosen),
        messages.whole[chosen],
        numbers[chosen],
        np.array([[scores[head][n] for head in ("letters", "order", "injection")] for n in chosen], dtype=np.float32),
        tuple(cell(messages.texts[n]) for n in chosen),
        held_out,
    )
