"""The bundled detector: trained on the corpora. What it is worth is measured in ``judging``."""

import threading
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipelines.anomaly.calibrate import Calibration
from pipelines.anomaly.classifier import Classifier
from pipelines.anomaly.detector import Detector, Examples, Scaled
from pipelines.anomaly.kinds import Identifier
from pipelines.anomaly.language import Language
from pipelines.anomaly.pasted import pasted, without
from pipelines.anomaly.surface import FEATURES
from pipelines.anomaly.text import normalise
from pipelines.anomaly.training import classifier, corpora, documents, generate, multilingual, train
from pipelines.anomaly.training.classifier import Group
from pipelines.anomaly.training.corpora import Part, Sample
from pipelines.anomaly.training.train import Excerpts, Messages, Trained
from pipelines.downloads.progress import Progress
from pipelines.embedding.model import EmbeddingModel

INJECTIONS = 1500  # that are made up
AMONG = 1200  # of them, hidden among harmless sentences
FOREIGN = 300  # injections that are made up in each other language
SHOWN = 100  # characters of an example that a verdict shows
POISONED = 1600  # documents with an instruction
DOCUMENTS: Mapping[Part, int] = {"train": 2500, "calibrate": 2000, "test": 500}  # clean ones that are made
READ_LIKE_DOCUMENTS = ("letters", "tickets", "code")
HARMLESS_WINDOWS = 20_000


@dataclass(frozen=True, slots=True)
class Corpus:
    """All messages, embedded."""

    samples: Sequence[Sample]
    messages: Messages
    documents: Mapping[Part, Messages]  # clean ones, made of prose

    def where(self, **wanted: object) -> list[int]:
        """The numbers of the samples whose fields have these values."""
        return [
            n
            for n, sample in enumerate(self.samples)
            if all(getattr(sample, name) == value for name, value in wanted.items())
        ]

    def of(self, sources: Sequence[str], part: str) -> list[int]:
        """Those of a part of some sources."""
        return [n for n, sample in enumerate(self.samples) if sample.source in sources and sample.part == part]

    def normal(self, part: str, *, divided: bool | None = None) -> list[int]:
        """Normal messages of a part; ``divided``: only of sources that are in every part, or only of the others."""
        sources = {source.name: source.part is None for source in corpora.SOURCES}
        found = [n for n in self.where(kind="normal", part=part) if self.samples[n].source != "blns"]
        return [n for n in found if divided is None or sources[self.samples[n].source] == divided]


def gather(
    model: EmbeddingModel, stop: threading.Event, *, seed: int, threads: int
) -> Generator[Progress, None, Corpus]:
    """Fetch, read and embed every message."""
    samples = yield from corpora.samples(stop)
    parts = []
    for source in dict.fromkeys(sample.source for sample in samples):  # they come in the order of their sources
        texts = [sample.text for sample in samples if sample.source == source]
        parts.append((yield from train.read(texts, model, stop, threads=threads, what=source)))
    made: dict[Part, Messages] = {}
    for part, count in DOCUMENTS.items():
        prose = yield from corpora.passages(part, stop)
        clean = documents.documents(prose, count, seed)
        made[part] = yield from train.read(
            clean, model, stop, threads=threads, what=f"documents, {part}", documents=True
        )
    return Corpus(samples, train.join(parts), made)


def run(
    corpus: Corpus, model: EmbeddingModel, stop: threading.Event, *, alpha: float, seed: int, threads: int
) -> Generator[Progress, None, Trained]:
    """Train every head, and calibrate them. Raises: Stopped."""
    english, others = yield from _words("train", stop)
    yield Progress("counting letters and words")
    language = Language.count(english, others)
    normal = corpus.normal("train")
    looks = train.features([corpus.messages.texts[n] for n in normal], language)
    looked = yield from train.fit(looks, train.SURFACE, stop, seed=seed, what="surface")
    meant = yield from train.fit(corpus.messages.whole[normal], train.SEMANTIC, stop, seed=seed, what="semantic")
    classifiers = yield from Instructions(corpus, model, stop, seed, threads).train()
    yield Progress("calibrating")
    detector = assemble(language, looked.head, meant.head, classifiers, corpus, alpha=alpha, seed=seed)
    scores = train.score(detector, corpus.messages.pick(corpus.normal("calibrate")), train.Scores())
    for texts in (yield from _words("calibrate", stop)):
        train.read_scores(detector, list(dict.fromkeys(text for text in texts if text)), scores)
    train.score_documents(detector, corpus.documents["calibrate"], scores)
    train.score_documents(detector, corpus.messages.pick(corpus.of(READ_LIKE_DOCUMENTS, "calibrate")), scores)
    detector = replace(detector, calibration=Calibration.fit(scores.scored(), train.OPEN))
    return Trained(detector, {"surface": looked.losses, "semantic": meant.losses})


def _words(part: Part, stop: threading.Event) -> Generator[Progress, None, tuple[list[str], list[str]]]:
    """What is only read, without what is pasted in it: English texts, and those of other languages."""
    texts = yield from corpora.readings(part, stop)
    english: list[str] = []
    others: list[str] = []
    for text in texts:
        said = normalise(text.text)
        said = without(said, pasted(said))
        (english if text.language in ("", "en") else others).append(said)
    return english, others


@dataclass(frozen=True, slots=True)
class Instructions:
    """The training of both classifiers: of instructions in what users say, and in what an assistant reads."""

    corpus: Corpus
    model: EmbeddingModel
    stop: threading.Event
    seed: int
    threads: int

    def train(self) -> Generator[Progress, None, tuple[Classifier, Classifier]]:
        """Both. Raises: Stopped."""
        corpus, whole = self.corpus, self.corpus.messages.excerpts
        normal = corpus.normal("train")
        made = generate.injections(INJECTIONS, self.seed)
        embedded = yield from self._read(made, "made-up injections")
        among = yield from self._among(made, normal)
        foreign, foreign_among, foreign_calm = yield from self._foreign()
        every_window = corpus.messages.pick(normal).every_window
        chosen = np.random.default_rng(self.seed).permutation(len(every_window.texts))[:HARMLESS_WINDOWS]
        windows = every_window.pick(chosen)
        addressed = [n for n in normal if corpus.samples[n].source in ("courtesies", "lookalikes")]
        harmless = (
            Group(whole.pick(normal), False, 0.5),
            Group(whole.pick(addressed), False, 0.2),  # few, and what people say to an assistant
            Group(foreign_calm, False, 0.15),
            Group(whole.pick(corpus.where(source="S-Labs, harmless")), False, 0.2),
            Group(whole.pick(corpus.where(source="catalogues", part="train")), False, 0.5),
            Group(whole.pick(corpus.of(("pieces", "code"), "train")), False, 0.15),
            Group(whole.pick(corpus.where(kind="spam")), False, 0.04),
            Group(windows, False, 0.2),
        )
        attacks = (
            Group(whole.pick(corpus.where(kind="jailbreak", part="train")), True, 0.15),
            Group(whole.pick(corpus.where(kind="injection", part="train")), True, 0.3),
            Group(embedded.excerpts, True, 0.2),
            Group(among, True, 0.15),
            Group(foreign, True, 0.2),
            Group(foreign_among, True, 0.1),
        )
        messages = yield from classifier.fit(
            (*harmless, *attacks),
            np.concatenate([whole.pick(normal).embeddings, every_window.embeddings]),
            self.stop,
            seed=self.seed,
            what="classifier of messages",
        )
        documents = yield from self._documents((*harmless, *attacks), windows)
        return messages, documents

    def _read(self, texts: Sequence[str], what: str, *, documents: bool = False) -> Generator[Progress, None, Messages]:
        return (
            yield from train.read(texts, self.model, self.stop, threads=self.threads, what=what, documents=documents)
        )

    def _among(self, made: Sequence[str], normal: Sequence[int]) -> Generator[Progress, None, Excerpts]:
        texts = self.corpus.messages.texts
        brief = [texts[n] for n in normal if 15 < len(texts[n]) < 160 and texts[n].isascii()]
        return (
            yield from train.hidden_among(
                made, brief, AMONG, self.model, self.stop, seed=self.seed, threads=self.threads
            )
        )

    def _foreign(self) -> Generator[Progress, None, tuple[Excerpts, Excerpts, Excerpts]]:
        """In other languages: injections alone, injections among harmless sentences, harmless messages in the words of
        attacks."""
        made, among, calm = [], [], []
        for language in multilingual.languages():
            attacks = multilingual.injections(language, FOREIGN, self.seed)
            made.append((yield from self._read(attacks, f"injections, {language}")).excerpts)
            quiet = multilingual.harmless(language)
            calm.append((yield from self._read(quiet, f"harmless messages, {language}")).excerpts)
            spoken = [
                sample.text
                for sample in self.corpus.samples
                if (sample.kind, sample.part, sample.language) == ("normal", "train", language)
            ]
            brief = [text for text in spoken if 15 < len(text) < 160] or quiet
            among.append(
                (
                    yield from train.hidden_among(
                        attacks, brief, FOREIGN // 4, self.model, self.stop, seed=self.seed, threads=self.threads
                    )
                )
            )
        return Excerpts.join(made), Excerpts.join(among), Excerpts.join(calm)

    def _documents(self, talk: Sequence[Group], windows: Excerpts) -> Generator[Progress, None, Classifier]:
        clean = self.corpus.documents["train"]
        told = documents.instructions(POISONED * 2 // 3, self.seed)
        each = POISONED // 3 // len(multilingual.languages())
        told += [text for name in multilingual.languages() for text in multilingual.orders(name, each, self.seed)]
        poisoned = [
            documents.poisoned(clean.texts[n % len(clean)], instruction, self.seed)
            for n, instruction in enumerate(told)
        ]
        read = yield from self._read([text for text, _ in poisoned], "documents with instructions", documents=True)
        inside, outside = train.windows_of(read, [text[start:end] for text, (start, end) in poisoned])
        alone = yield from self._read(told, "instructions", documents=True)
        mails = self.corpus.messages.pick(self.corpus.where(kind="hidden", part="train"))
        real = self.corpus.messages.pick(self.corpus.of(READ_LIKE_DOCUMENTS, "train"))
        calm = Excerpts.join([clean.every_window, clean.excerpts, real.every_window])
        return (
            yield from classifier.fit(
                (
                    *(group._replace(weight=group.weight / 4) for group in talk),
                    Group(calm, False, 0.6),
                    Group(outside, False, 0.3),
                    Group(inside, True, 0.6),
                    Group(alone.excerpts, True, 0.15),
                    Group(Excerpts.join([mails.excerpts, mails.every_window]), True, 0.15),
                ),
                np.concatenate([calm.embeddings, outside.embeddings, windows.embeddings]),
                self.stop,
                seed=self.seed,
                what="classifier of documents",
            )
        )


def assemble(
    language: Language,
    looks: Scaled,
    means: Scaled,
    classifiers: tuple[Classifier, Classifier],
    corpus: Corpus,
    *,
    alpha: float,
    seed: int,
) -> Detector:
    """A detector without a calibration, with examples of every source that it was trained on."""
    rng = np.random.default_rng(seed)
    trained = _evenly(corpus, corpus.normal("train", divided=True), train.EXAMPLES // 2, rng)
    aside = _evenly(corpus, corpus.normal("calibrate", divided=True), train.EXAMPLES // 2, rng)
    chosen = trained + aside
    messages = corpus.messages.pick(chosen)
    blank = Examples(
        (),
        messages.whole[:0],
        np.zeros((0, len(FEATURES)), np.float32),
        np.zeros((0, 3), np.float32),
        (),
        np.zeros(0, bool),
        (),
    )
    detector = Detector(
        Identifier(), language, looks, means, *classifiers, blank, train.uncalibrated(train.OPEN), alpha
    )
    ids = [f"{corpus.samples[n].source} {n}" for n in chosen]
    kept = train.examples(
        detector, ids, messages, train.features(messages.texts, language), np.arange(len(chosen)) >= len(trained)
    )
    texts = tuple(text if len(text) <= SHOWN else f"{text[:SHOWN]}…" for text in messages.texts)
    return replace(detector, examples=replace(kept, texts=texts))


def _evenly(corpus: Corpus, among: Sequence[int], count: int, rng: np.random.Generator) -> list[int]:
    """So many messages, as alike in number from every source as can be."""
    by_source: dict[str, list[int]] = {}
    for n in rng.permutation(among).tolist():
        by_source.setdefault(corpus.samples[n].source, []).append(n)
    chosen: list[int] = []
    while len(chosen) < count and any(by_source.values()):
        for found in by_source.values():
            if found and len(chosen) < count:
                chosen.append(found.pop())
    return chosen
