"""The embedder: a thread that embeds for every stage, in small batches, urgent ones first.

A long text takes several forward passes; between two of them short texts have theirs.
"""

import asyncio
import logging
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.downloads.catalogue import PACKAGES
from pipelines.downloads.fetch import install
from pipelines.downloads.progress import Progress
from pipelines.embedding import minilm
from pipelines.embedding.model import EmbeddingModel, advance
from pipelines.embedding.names import E5, MINILM
from pipelines.embedding.passages import Embedding, Passage
from pipelines.events import StageError
from pipelines.worker import Worker, settled_by_thread

log = logging.getLogger(__name__)
WAITING = 512  # texts that may wait, urgent ones and others each
BATCH = 16  # texts computed together at most
BATCH_CHARACTERS = 2000  # of a batch, padded; a longer text is computed alone
IN_A_ROW = 8  # urgent batches, behind which one of the others has its turn


@dataclass(eq=False, slots=True)
class _Job:
    passages: list[Passage]
    done: asyncio.Future[None]
    settle: Any
    result: list[Embedding] = field(default_factory=list)
    dropped: bool = False  # its reader has left

    @property
    def longest(self) -> int:
        """Characters of its longest text."""
        return max((len(passage.text) for passage in self.passages), default=0)


def _fit(count: int, longest: int) -> bool:
    """Whether so many texts of this length make one batch."""
    return count <= BATCH and count * longest <= BATCH_CHARACTERS


def _batches(passages: Sequence[Passage]) -> Iterator[list[Passage]]:
    """The passages, in batches; a long one is alone."""
    batch: list[Passage] = []
    longest = 0
    for passage in passages:
        longest = max(longest, len(passage.text))
        if batch and not _fit(len(batch) + 1, longest):
            yield batch
            batch, longest = [], len(passage.text)
        batch.append(passage)
    if batch:
        yield batch


def _load_e5(path: Path) -> EmbeddingModel:
    from pipelines.embedding import e5  # which loads PyTorch: on the embedder's thread, the server answers meanwhile

    return e5.load(path)


_LOADED: dict[str, tuple[Callable[[Path], EmbeddingModel], tuple[str, ...]]] = {
    MINILM: (minilm.load, ("sentence_transformers",)),
    E5: (_load_e5, ("pipelines.embedding.e5", "tokenizers")),
}


class Embedder:
    """Embeds for many readers at once with one model. Urgent texts, of turns, come before those in bulk."""

    def __init__(self, name: str = MINILM, path: "Path | None" = None) -> None:
        """``name`` is one of ``names.MODELS``; ``path`` is where it lies, unless ``prepare`` is to say that.

        Raises: KeyError for another name.
        """
        self.name = name
        self.path = path  # MiniLM's folder, E5's file; set before it is started
        self._read, self.imports = _LOADED[name]  # imports: modules that loading takes seconds for
        self._urgent: deque[_Job] = deque()  # each bounded by WAITING
        self._bulk: deque[_Job] = deque()
        self._in_a_row = 0  # urgent batches
        self._worker: Worker[EmbeddingModel, list[_Job]] = Worker(
            "embed", self._load, take=self._batch, work=self._compute, abandon=self._abandon
        )

    @property
    def ready(self) -> bool:
        """Whether texts can be embedded."""
        return self._worker.ready

    def prepare(self, stop: threading.Event) -> Generator[Progress]:
        """Put the model on the disk. Raises: PackageError."""
        file = yield from install(PACKAGES[self.name], stop)
        self.path = file.parent if self.name == MINILM else file

    async def start(self) -> None:
        """Load the model; every stage that embeds may ask for it. Raises: what loading it raises."""
        await self._worker.start()

    async def close(self) -> None:
        """End the thread, and let go of the model; what waits for it gets an error."""
        await self._worker.close()
        self._worker.model = None

    async def embed(self, passages: Sequence[Passage], *, bulk: bool = False) -> list[Embedding]:
        """Embed the passages, in as many batches as they are worth.

        Raises: StageError while it is not ready, or when too many texts wait; what the model raises.
        """
        jobs: list[_Job] = []
        with self._worker.changed:
            if not self.ready:
                raise StageError("unavailable", "embeddings_not_ready", "The embedding model is not ready.")
            queue = self._bulk if bulk else self._urgent
            if sum(len(each.passages) for each in queue) + len(passages) > WAITING:
                raise StageError("overloaded", "server_overloaded", "Too many texts wait to be embedded.")
            for batch in _batches(passages):
                done, settle = settled_by_thread()
                jobs.append(_Job(batch, done, settle))
            queue.extend(jobs)
            self._worker.changed.notify()
        try:
            await asyncio.gather(*(job.done for job in jobs))
        finally:
            for job in jobs:
                job.dropped = True  # what is not done is not needed
        return [embedding for job in jobs for embedding in job.result]

    def _load(self) -> EmbeddingModel:
        assert self.path is not None  # noqa: S101 - prepared before it is loaded
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = self._read(self.path)
            model.embed([Passage("The first text takes longer.")])
        return model

    def _abandon(self, error: StageError) -> None:
        for queue in (self._urgent, self._bulk):
            while queue:
                queue.popleft().settle(error)

    def _batch(self) -> list[_Job] | None:
        """The jobs that are computed next, together."""
        if not (self._urgent or self._bulk):
            return None
        self._in_a_row = self._in_a_row + 1 if self._urgent else 0
        queue = self._bulk if self._bulk and self._in_a_row > IN_A_ROW else self._urgent or self._bulk
        self._in_a_row = 0 if queue is self._bulk else self._in_a_row
        return self._together(queue)

    @staticmethod
    def _together(queue: deque[_Job]) -> list[_Job]:
        """Take what is computed together from the head of a queue."""
        jobs: list[_Job] = []
        count = longest = 0
        while queue:
            job = queue[0]
            longest = max(longest, job.longest)
            count += len(job.passages)
            if jobs and not _fit(count, longest):
                break
            jobs.append(queue.popleft())
        return jobs

    def _compute(self, model: EmbeddingModel, jobs: list[_Job]) -> None:
        self._embed(model, jobs, between=lambda: self._embed(model, self._short()))

    def _short(self) -> list[_Job]:
        """An urgent batch that may overtake a long text; there may be none."""
        with self._worker.changed:
            short = deque(job for job in self._urgent if _fit(len(job.passages), job.longest))
            jobs = self._together(short)
            for job in jobs:
                self._urgent.remove(job)
        return jobs

    def _embed(self, model: EmbeddingModel, jobs: list[_Job], between: Callable[[], None] = lambda: None) -> None:
        """Embed a batch, and settle what waits for it; ``between`` is called between two forward passes."""
        jobs = [job for job in jobs if not job.dropped]
        if not jobs:
            return
        try:
            passes = model.passes([passage for job in jobs for passage in job.passages])
            while (embeddings := advance(passes)) is None:
                between()
                if all(job.dropped for job in jobs):
                    return
        except Exception as error:  # of these texts; the next ones may do better
            log.error("a batch of texts could not be embedded: %s", type(error).__name__)  # its words may be theirs
            for job in jobs:
                job.settle(error)
            return
        for job in jobs:
            job.result, embeddings = embeddings[: len(job.passages)], embeddings[len(job.passages) :]
            job.settle(None)
