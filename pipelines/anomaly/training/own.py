"""A detector for an operator's own traffic: trained on it, calibrated with it, judged by it."""

import json
import threading
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from pipelines.anomaly.calibrate import Calibration, HeadName
from pipelines.anomaly.detector import Detector, Examples
from pipelines.anomaly.kinds import Kind
from pipelines.anomaly.text import LONGEST
from pipelines.anomaly.training import generate, measure, train
from pipelines.anomaly.training.results import Result, Row
from pipelines.anomaly.training.train import Floats, Messages, Scores, Trained, TrainingError
from pipelines.downloads.progress import Progress
from pipelines.embedding.model import EmbeddingModel

EPOCHS = 200  # at most: few messages make a short epoch
FEWEST = 150  # messages: a sixth of them calibrate, and of fewer no p-value is as low as the stage's canaries must have
JUDGING, CALIBRATING = 0.1, 0.3  # of the messages; the others are trained on
FEW = 3  # messages of a language from which on it is spoken
EACH = 50  # made-up anomalies of a class, to judge by


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
        with path.open(encoding="utf-8-sig") as file:
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
            f"{path} has {len(texts)} different messages; it takes {FEWEST} at least, and 1,000 for a calibration "
            "that can be trusted at 1 % false alarms."
        )
    return Own(tuple(texts), tuple(texts.values()))


def _can_be_written(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def run(
    messages: Own,
    base: Detector,
    model: EmbeddingModel,
    stop: threading.Event,
    *,
    narrow: bool,
    alpha: float,
    seed: int,
    threads: int,
) -> Generator[Progress, None, Trained]:
    """Train both VAEs and calibrate all heads on an operator's own messages; the other heads stay as they are.

    Unless the assistant is a ``narrow`` one, the examples that ``base`` keeps join in, so that other normal talk
    stays normal.

    Raises: Stopped.
    """
    read_messages = yield from train.read(messages.texts, model, stop, threads=threads)
    order = np.random.default_rng(seed).permutation(len(read_messages))
    judged, held, used = np.split(order, np.cumsum([int(len(order) * JUDGING), int(len(order) * CALIBRATING)]))
    numbers = train.features(read_messages.texts, base.language)
    kept = base.examples
    whole, looks = read_messages.whole[used], numbers[used]
    if not narrow:
        whole = np.concatenate([whole, kept.embeddings[~kept.held_out]])
        looks = np.concatenate([looks, kept.surface[~kept.held_out]])
    looked = yield from train.fit(looks, train.SURFACE, stop, seed=seed, what="surface", epochs=EPOCHS)
    meant = yield from train.fit(whole, train.SEMANTIC, stop, seed=seed, what="semantic", epochs=EPOCHS)
    detector = replace(base, surface=looked.head, semantic=meant.head, alpha=alpha, narrow=narrow, name="own")
    yield Progress("calibrating")
    scores = train.score(detector, read_messages.pick(held), train.Scores())
    if not narrow:
        _join_examples(scores, kept, detector)
    detector = replace(
        detector,
        calibration=Calibration.fit(scores.scored(), train.NARROW if narrow else train.OPEN, base.calibration),
        examples=_examples(
            [messages.ids[n] for n in (*held, *used)],
            read_messages.pick(np.concatenate([held, used])),
            numbers[np.concatenate([held, used])],
            len(held),
            detector,
            seed,
        ),
    )
    scarce = _scarce(detector, read_messages)
    yield Progress("looking for attacks among the messages")
    suspicious = _suspicious(messages, read_messages, base)
    yield Progress("judging")
    return Trained(
        detector,
        {"surface": looked.losses, "semantic": meant.losses},
        suspicious,
        scarce,
        _judged(detector, read_messages.pick(judged), base, model, narrow=narrow, seed=seed, threads=threads),
    )


def _judged(
    detector: Detector, own: Messages, base: Detector, model: EmbeddingModel, *, narrow: bool, seed: int, threads: int
) -> Result:
    """How the detector does on own messages that it has not seen, on made-up anomalies, and on other people's talk."""
    calm = measure.verdicts(detector, own)
    rows = [Row("own messages: alarms", sum(verdict.anomalous for verdict in calm), len(calm))]
    made = generate.anomalies(generate.TEST, own.texts, EACH, seed)
    classes = {
        kind: measure.screen(detector, model, [text for _, text in pairs], threads=threads)
        for kind, pairs in made.items()
    }
    classes["injection"] = measure.screen(detector, model, generate.injections(EACH, seed), threads=threads)
    rows += [
        Row(f"{kind}: found", sum(verdict.anomalous for verdict in found), len(found))
        for kind, found in classes.items()
    ]
    other = base.examples.embeddings[base.examples.held_out]
    what = "off topic: other people's talk" if narrow else "other people's talk, which is normal here"
    return Result(
        tuple(rows),
        (measure.compare(what, detector, own.whole, other),),
        measure.project(detector, np.concatenate([own.whole, other])),
        ("own",) * len(own) + ("other people's",) * len(other),
        measure.curves(calm, classes),
    )


def _scarce(detector: Detector, messages: Messages) -> tuple[tuple[str, int], ...]:
    """Languages that are spoken here and that no calibration knows well enough, each with its number of messages."""
    kinds = [detector.prepare(text).kind for text in messages.texts]
    spoken = Counter(kind.languages[0] for kind in kinds if kind.languages)
    unknown = {
        kind.languages[0] for kind in kinds if kind.languages and not detector.calibration.knows("semantic", kind)
    }
    often = max(FEW, len(kinds) // 200)  # what is rarer is mostly a language that was taken for another one
    return tuple(
        (language, count) for language, count in spoken.most_common() if language in unknown and count >= often
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


KEPT: tuple[HeadName, ...] = ("letters", "order", "injection")  # heads whose scores of the examples stay as they are


def _join_examples(scores: Scores, kept: Examples, detector: Detector) -> None:
    """Add what the base's examples score now."""
    looks, means = detector.surface.score(kept.surface), detector.semantic.score(kept.embeddings)
    for n in np.flatnonzero(kept.held_out):
        whole, words = kept.kinds[n]
        for head, value in zip(KEPT, kept.scores[n], strict=True):
            scores.add(head, float(value), Kind(whole.length, "latin", ()) if head == "injection" else words)
        if not np.isnan(kept.scores[n][0]):  # else there were no letters to look at
            scores.add("surface", float(looks[0][n] + looks[1][n]), words)
        scores.add("semantic", float(means[0][n]), whole)


def _examples(
    ids: Sequence[str], messages: Messages, numbers: Floats, held: int, detector: Detector, seed: int
) -> Examples:
    """At most ``train.EXAMPLES`` of the messages, of which the first ``held`` were not trained on."""
    chosen = np.random.default_rng(seed).permutation(len(messages))[: train.EXAMPLES]
    return train.examples(detector, [ids[n] for n in chosen], messages.pick(chosen), numbers[chosen], chosen < held)
