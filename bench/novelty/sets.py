"""What the scores are measured on: messages of the parts "train", "calibrate" and "validate", never of "test"."""

import threading
from collections.abc import Generator, Mapping
from dataclasses import dataclass

import numpy as np

from bench.novelty.scores import Score
from pipelines.anomaly.training import generate, train
from pipelines.anomaly.training.measure import area
from pipelines.anomaly.training.recipe import Corpus
from pipelines.anomaly.training.train import Floats
from pipelines.downloads.progress import Progress
from pipelines.embedding.model import EmbeddingModel

EACH = 300  # made-up anomalies of a class
FALSE_ALARMS = 0.01
NARROW_SOURCE = "house, English"
OFF_TOPIC = ("chitchat", "FreshQA")


@dataclass(frozen=True, slots=True)
class Found:
    """How well a score tells one class from normal messages."""

    area: float  # under the ROC curve
    share: float  # above the threshold


@dataclass(frozen=True, slots=True)
class Task:
    """Embeddings to train on, to set a threshold with, and to judge by."""

    known: Floats
    calm: Floats  # sets the threshold
    normal: Floats  # of the same sources
    classes: Mapping[str, Floats]  # anomalies
    strange: Floats  # normal, of sources that nothing was trained on; none in a narrow task
    epochs: int

    def measure(self, score: Score) -> dict[str, Found]:
        """Of every class; those of normal messages are false alarms."""
        threshold = np.quantile(score(self.calm), 1 - FALSE_ALARMS)
        normal = score(self.normal)
        scored = {name: score(each) for name, each in self.classes.items()}
        if len(self.strange):
            scored = {"false alarms": normal, "false alarms, unseen sources": score(self.strange)} | scored
        return {name: Found(area(normal, each), float((each > threshold).mean())) for name, each in scored.items()}


def tasks(corpus: Corpus, made: Mapping[str, Floats]) -> tuple[Task, Task]:
    """The task of the bundled detector, and that of a narrow assistant, which must find what is off its topic."""
    whole = corpus.messages.whole
    classes = {
        "injections": whole[corpus.where(kind="injection", part="train")],
        "jailbreaks": whole[corpus.where(kind="jailbreak", part="train")],
        "harmful": whole[corpus.where(kind="harmful", part="train")],
        "spam": whole[corpus.where(kind="spam", part="train")],
        **made,
    }
    wide = Task(
        whole[corpus.normal("train")],
        whole[corpus.normal("calibrate")],
        whole[corpus.normal("validate", divided=True)],
        classes,
        whole[corpus.normal("validate", divided=False)],
        60,
    )
    house = {part: whole[corpus.where(source=NARROW_SOURCE, part=part)] for part in ("train", "calibrate", "validate")}
    off = [n for source in OFF_TOPIC for n in corpus.where(source=source, part="validate")]
    return wide, Task(house["train"], house["calibrate"], house["validate"], {"off topic": whole[off]}, whole[:0], 200)


def made_up(
    corpus: Corpus, model: EmbeddingModel, stop: threading.Event, *, threads: int
) -> Generator[Progress, None, dict[str, Floats]]:
    """Embeddings of word salad and of encoded texts, made of normal messages that nothing was trained on.

    Raises: Stopped.
    """
    base = [corpus.messages.texts[n] for n in corpus.where(source="chitchat", part="validate")]
    table = {kind: generate.VALIDATE[kind] for kind in ("word salad", "encoded")}
    found = {}
    for kind, pairs in generate.anomalies(table, base, EACH, 0).items():
        texts = [text for _, text in pairs]
        found[kind] = (yield from train.read(texts, model, stop, threads=threads, what=kind)).whole
    return found
