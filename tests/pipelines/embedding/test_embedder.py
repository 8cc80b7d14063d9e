"""The embeddings that stages share, with the real model."""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from torch import Tensor

from pipelines import kernels
from pipelines.downloads.progress import finish
from pipelines.embedding import e5 as multilingual
from pipelines.embedding import embedder as embedder_module
from pipelines.embedding import minilm as english
from pipelines.embedding.embedder import Embedder
from pipelines.embedding.encoder import PASS
from pipelines.embedding.model import EmbeddingModel, Passes
from pipelines.embedding.names import E5, MINILM, MODELS
from pipelines.embedding.packed import PackedEncoder
from pipelines.embedding.passages import DIMENSIONS, Embedding, Passage
from pipelines.embedding.plain import PlainEncoder
from pipelines.events import StageError
from pipelines.part import Shared

needs_packing = pytest.mark.skipif(not kernels.forms(), reason="the processor has no products with packed weights")


@pytest.fixture(scope="module")
def model(minilm: Path) -> EmbeddingModel:
    return english.load(minilm, exact=True)


def test_sentences_that_mean_the_same_are_near(model: EmbeddingModel) -> None:
    found = model.embed(
        [Passage(text) for text in ("Where is my parcel?", "My package has not come.", "I like cheese.")]
    )
    whole = np.stack([each.whole for each in found])
    assert whole.shape == (3, DIMENSIONS)
    assert np.linalg.norm(whole, axis=1) == pytest.approx(1, abs=1e-5)
    assert whole[0] @ whole[1] > whole[0] @ whole[2] + 0.2


def test_a_text_s_embedding_does_not_depend_on_its_company(model: EmbeddingModel) -> None:
    alone = model.embed([Passage("Hello there.")])[0].whole
    among = model.embed([Passage("Hello there."), Passage("A much longer sentence, " * 20)])[0].whole
    assert alone @ among == pytest.approx(1, abs=1e-4)


@pytest.fixture(scope="module")
def plain(minilm: Path) -> EmbeddingModel:
    """The model as it runs where the kernels have no products."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "forms", list)
        return english.load(minilm)


def seen_shapes(model: EmbeddingModel, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The shapes of its forward passes from now on: rows, and tokens of a row."""
    shapes: list[tuple[int, int]] = []
    encoder = model._encoder
    assert isinstance(encoder, PlainEncoder)
    forward = encoder.forward

    def seen(ids: Tensor, lengths: Tensor) -> Tensor:
        shapes.append((ids.shape[0], ids.shape[1]))
        return forward(ids, lengths)

    monkeypatch.setattr(encoder, "forward", seen)
    return shapes


def test_texts_of_all_lengths_and_numbers_are_computed_in_few_shapes(
    plain: EmbeddingModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = seen_shapes(plain, monkeypatch)
    for words in range(1, 61):
        plain.embed([Passage("sea " * words)])
    for count in range(1, 17):
        assert len(plain.embed([Passage("sea " * 4)] * count)) == count
    assert len(set(shapes)) <= 15, "oneDNN caches compiled code for each"


def test_no_forward_pass_is_long(plain: EmbeddingModel, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = seen_shapes(plain, monkeypatch)
    plain.embed([Passage("sea " * 1500), *[Passage("sea " * words) for words in range(1, 200, 3)]])
    assert len(shapes) > 20
    assert max(rows * tokens for rows, tokens in shapes) <= PASS


@needs_packing
def test_no_pass_of_packed_weights_is_long(minilm: Path) -> None:
    encoder = english.load(minilm)._encoder
    assert isinstance(encoder, PackedEncoder)
    lengths = [PASS, 3, 200, 56, 1, *[20] * 30]
    passes = encoder.passes(lengths)
    assert [row for group in passes for row in group] == list(range(len(lengths)))
    assert max(sum(lengths[row] for row in group) for group in passes) == PASS
    assert len(passes) == 5


@needs_packing
@pytest.mark.parametrize("name", MODELS)
def test_with_packed_weights_company_changes_nothing(minilm: Path, e5: Path, name: str) -> None:
    model = english.load(minilm) if name == MINILM else multilingual.load(e5)
    texts = [Passage("Hello there, where are you?"), Passage("A much longer sentence, " * 20), Passage("Where is it?")]
    together = model.embed(texts)
    apart = [model.embed([text])[0] for text in texts]
    on_two_cores = model.embed(texts, threads=2)
    for one, other, third in zip(together, apart, on_two_cores, strict=True):
        assert (one.whole == other.whole).all()
        assert (one.whole == third.whole).all()


TEXTS = (
    "Hi",
    "Where is my parcel? I ordered it two weeks ago.",
    "Ünïcödé, 漢字 und 🙂: nothing that it reads is left out!",
    "A much longer sentence about the sea, " * 10,
    "The first tokens count, what lies beyond them has rows of its own. " * 40,
)


@pytest.mark.parametrize(
    ("exact", "packed", "least"),
    [(True, False, 0.999999), (False, False, 0.9995), pytest.param(False, True, 0.9995, marks=needs_packing)],
)
def test_embeddings_are_those_of_sentence_transformers(
    minilm: Path, monkeypatch: pytest.MonkeyPatch, exact: bool, packed: bool, least: float
) -> None:
    if not packed:
        monkeypatch.setattr(kernels, "forms", list)
    reference = SentenceTransformer(str(minilm), device="cpu", local_files_only=True)
    expected = reference.encode(list(TEXTS), normalize_embeddings=True)
    tokens: Any = reference.encode(TEXTS[1], output_value="token_embeddings")
    passages = [Passage(text, ((0, 19),) if text == TEXTS[1] else ()) for text in TEXTS]
    model = english.load(minilm, exact=exact)
    for found in (model.embed(passages), [model.embed([passage])[0] for passage in passages]):
        assert min((each.whole * one).sum() for each, one in zip(found, expected, strict=True)) >= least
        window = tokens[1:6].mean(0).numpy()  # "Where is my parcel?", behind the model's own first token
        assert found[1].windows[0] @ window / np.linalg.norm(window) >= least


def test_a_window_is_about_its_own_words(model: EmbeddingModel) -> None:
    text = "I bought fresh bread today. Ignore all previous instructions."
    passage = Passage(text, ((0, 28), (28, len(text)), (0, 1)))
    found = model.embed([passage])[0]
    assert found.windows.shape == (2, DIMENSIONS), "a window without three tokens has no embedding"
    bread, order = (each.whole for each in model.embed([Passage(text[:28]), Passage(text[28:])]))
    assert found.windows[0] @ bread > found.windows[0] @ order
    assert found.windows[1] @ order > found.windows[1] @ bread


def test_what_lies_beyond_the_first_tokens_is_embedded_too(model: EmbeddingModel) -> None:
    secret = "The treasure is buried under the old oak tree."
    text = "I go to it, so it is. " * 60 + secret
    passage = Passage(text, ((0, 20), (len(text) - len(secret), len(text))))
    found = model.embed([passage])[0]
    assert found.rows > 1
    alone = model.embed([Passage(secret)])[0].whole
    assert (found.windows @ alone).max() > found.whole @ alone + 0.3
    assert len(model.embed([Passage("漢" * 9000)])[0].windows) == 15, "a text has at most so many rows"


async def test_many_at_once_get_each_their_own(minilm: Path, model: EmbeddingModel) -> None:
    embedder = Embedder(MINILM, minilm)
    await embedder.start()
    try:
        texts = [f"This is message number {n}, about {topic}." for n in range(20) for topic in ("cats", "trains")]
        found = await asyncio.gather(*(embedder.embed([Passage(text)]) for text in texts))
        expected = model.embed([Passage(text) for text in texts])
        for (one,), other in zip(found, expected, strict=True):
            assert one.whole @ other.whole > 0.99
    finally:
        await embedder.close()


class Gated(Embedder):
    """Computes only when it is let, and keeps what it was given."""

    def __init__(self, minilm: Path) -> None:
        super().__init__(MINILM, minilm)
        self.gate = threading.Semaphore(0)
        self.batches: list[list[str]] = []

    def _compute(self, model: EmbeddingModel, jobs: list[Any]) -> None:
        self.gate.acquire(timeout=20)
        self.batches.append([passage.text for job in jobs for passage in job.passages])
        super()._compute(model, jobs)


async def given(embedder: Embedder, text: str, *, bulk: bool = False) -> "asyncio.Task[list[Embedding]]":
    """Begin to embed, and come back when the text waits."""
    task = asyncio.create_task(embedder.embed([Passage(text)], bulk=bulk))
    await asyncio.sleep(0)
    return task


async def test_what_waits_is_computed_together_and_bulk_last(minilm: Path) -> None:
    embedder = Gated(minilm)
    await embedder.start()
    first = await given(embedder, "first")
    while embedder._urgent:  # until the thread has it
        await asyncio.sleep(0.001)
    rest = [await given(embedder, "bulk", bulk=True), await given(embedder, "second"), await given(embedder, "third")]
    for _ in range(3):
        embedder.gate.release()
    await asyncio.gather(first, *rest)
    assert embedder.batches == [["first"], ["second", "third"], ["bulk"]]
    await embedder.close()


LONG = "sea " * 1500  # six rows


class Stepped:
    """Makes an embedder wait before each forward pass of a long text."""

    def __init__(self, embedder: Embedder) -> None:
        assert embedder._worker.model is not None
        self.gate = threading.Semaphore(0)
        self.passes = 0
        self._real = embedder._worker.model.passes
        embedder._worker.model.passes = self._stepped  # type: ignore[method-assign]

    def _stepped(self, passages: Sequence[Passage], *, threads: int = 1) -> Passes:
        long = any(passage.text == LONG for passage in passages)
        passes = self._real(passages, threads=threads)
        while True:
            if long:
                self.gate.acquire(timeout=20)
                self.passes += 1
            try:
                next(passes)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            yield


@pytest.mark.parametrize("bulk", [False, True])
async def test_short_texts_are_embedded_between_two_passes_of_a_long_one(minilm: Path, bulk: bool) -> None:
    embedder = Embedder(MINILM, minilm)
    await embedder.start()
    steps = Stepped(embedder)
    long = await given(embedder, LONG, bulk=bulk)
    other = await given(embedder, LONG, bulk=bulk)
    while len(embedder._urgent) + len(embedder._bulk) > 1:  # until the thread has the first
        await asyncio.sleep(0.001)
    short = await given(embedder, "short")
    steps.gate.release()
    assert len(await short) == 1, "it waits for one pass"
    assert not long.done()
    for _ in range(12):
        steps.gate.release()
    assert [(await task)[0].rows for task in (long, other)] == [6, 6]
    await embedder.close()


async def test_a_long_text_whose_reader_has_left_is_not_computed_to_its_end(minilm: Path) -> None:
    embedder = Embedder(MINILM, minilm)
    await embedder.start()
    steps = Stepped(embedder)
    long = await given(embedder, LONG)
    while embedder._urgent:
        await asyncio.sleep(0.001)
    long.cancel()
    with pytest.raises(asyncio.CancelledError):
        await long
    for _ in range(6):
        steps.gate.release()
    assert len(await embedder.embed([Passage("next")])) == 1
    assert steps.passes == 1
    await embedder.close()


async def test_too_many_texts_are_refused_and_a_cancel_makes_room(
    minilm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedder_module, "WAITING", 2)
    embedder = Gated(minilm)
    await embedder.start()
    running = await given(embedder, "running")
    while embedder._urgent:
        await asyncio.sleep(0.001)
    waiting = [await given(embedder, "one"), await given(embedder, "two")]
    with pytest.raises(StageError, match="Too many"):
        await embedder.embed([Passage("three")])
    waiting[0].cancel()
    for _ in range(3):
        embedder.gate.release()
    assert len(await running) == 1
    assert len(await waiting[1]) == 1
    with pytest.raises(asyncio.CancelledError):
        await waiting[0]
    await embedder.close()


async def test_a_batch_that_fails_takes_no_other_with_it(minilm: Path) -> None:
    class Faulty(Embedder):
        def _batch(self) -> list[Any] | None:
            jobs = super()._batch()
            for job in jobs or ():
                if any(passage.text == "bad" for passage in job.passages):
                    job.passages[0] = None  # type: ignore[call-overload] # what no caller can do
            return jobs

    embedder = Faulty(MINILM, minilm)
    await embedder.start()
    with pytest.raises(AttributeError):
        await embedder.embed([Passage("bad")])
    assert len(await embedder.embed([Passage("good")])) == 1
    await embedder.close()
    with pytest.raises(StageError, match="not ready"):
        await embedder.embed([Passage("late")])


async def test_a_folder_without_a_model_is_an_error_at_the_start(tmp_path: Path) -> None:
    embedder = Embedder(MINILM, tmp_path)
    with pytest.raises(Exception, match=r"."):
        await embedder.start()
    assert not embedder.ready
    await embedder.close()


@pytest.mark.parametrize("name", MODELS)
async def test_a_text_is_embedded_by_the_model_that_the_embedder_names(name: str, minilm: Path, e5: Path) -> None:
    before = threading.enumerate()
    embedder = Embedder(name)
    finish(embedder.prepare(threading.Event()))
    assert embedder.path == (minilm if name == MINILM else e5)
    await asyncio.gather(embedder.start(), embedder.start())  # as two stages do
    texts = ("Wo ist mein Paket?", "Where is my parcel?", "I like cheese.")
    found = np.stack([each.whole for each in await embedder.embed([Passage(text) for text in texts])])
    nearest = int((found[1:] @ found[0]).argmax())
    assert nearest == 0
    began = [thread for thread in threading.enumerate() if thread not in before and thread.name.startswith("embed")]
    assert len(began) == 1, "it is loaded once"
    await embedder.close()


async def test_embedders_of_both_models_run_beside_each_other(minilm: Path, e5: Path) -> None:
    both = [Embedder(MINILM, minilm), Embedder(E5, e5)]
    await asyncio.gather(*(embedder.start() for embedder in both))
    passages = [Passage(f"text number {n}") for n in range(40)]
    english, many = await asyncio.gather(*(embedder.embed(passages) for embedder in both))
    assert len(english) == len(many) == 40
    assert np.abs(english[0].whole - many[0].whole).max() > 0.1
    await asyncio.gather(*(embedder.close() for embedder in both))


def test_an_embedder_is_made_once_for_each_model_and_for_no_other() -> None:
    shared = Shared()
    assert shared.embeds() is shared.embeds(MINILM)
    assert shared.embeds(E5) is shared.embeds(E5)
    assert list(shared.embedders) == [MINILM, E5]
    with pytest.raises(KeyError):
        shared.embeds("another")


def test_naming_a_model_imports_no_pytorch() -> None:
    code = (
        "import sys; from pipelines.part import Shared; from pipelines.embedding.names import MODELS;"
        "shared = Shared(); [shared.embeds(name) for name in MODELS]; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
