"""One MiniLM for every stage: sentence embeddings, computed by a thread of its own in small batches.

The model is all-MiniLM-L6-v2 through sentence-transformers: 384 dimensions, unit length, 256 tokens; what is longer
is read in several rows. Windows of a text are embedded along with it for nothing: each is the mean of the whole's token
embeddings over it, so that a window knows its surroundings ("late chunking", Günther et al. 2024).
"""

import asyncio
import logging
import threading
import warnings
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.events import StageError
from pipelines.packages import PACKAGES, Progress, install
from pipelines.threads import Cores, Share, told_by_thread

log = logging.getLogger(__name__)

Floats = NDArray[np.float32]
Span = tuple[int, int]  # of characters

DIMENSIONS = 384
TOKENS = 256  # of a text that are read
ROWS = 16  # of one text; of more, the first and the last are read
NAME = "all-minilm-l6-v2"
RECIPE = "rows of 256 tokens, spans pooled"  # how windows come about: whoever keeps embeddings keeps this with them
WAITING = 512  # texts that may wait, of those that somebody waits for and of the others each
BATCH = 16  # texts computed together at most
BATCH_CHARACTERS = 2000  # of a batch, padded; a longer text is computed alone
IN_A_ROW = 8  # urgent batches, behind which one of the others has its turn
JOIN_PATIENCE = 5.0  # seconds that closing waits for the batch in progress


@dataclass(frozen=True, slots=True)
class Passage:
    """A text to embed, and spans of it."""

    text: str
    windows: tuple[Span, ...] = ()


@dataclass(frozen=True, slots=True)
class Embedding:
    """A text's embedding, and those of its parts."""

    whole: Floats  # (DIMENSIONS,), of its first ``TOKENS`` tokens
    windows: Floats  # (N, DIMENSIONS): what lies beyond those, and the spans that hold at least three tokens
    tokens: int = 0  # of the whole
    rows: int = 1  # that the text took


class MiniLM:
    """The loaded model. Not for two threads at a time."""

    def __init__(self, folder: Path, *, exact: bool = False) -> None:
        import torch
        from sentence_transformers import SentenceTransformer
        from transformers.utils import logging as transformers_logging

        transformers_logging.disable_progress_bar()  # of a load that takes a moment
        logging.getLogger("sentence_transformers").setLevel(logging.WARNING)
        fast = not exact and torch.ops.mkldnn._is_mkldnn_bf16_supported()
        self._model = SentenceTransformer(
            str(folder),
            device="cpu",
            local_files_only=True,
            model_kwargs={"dtype": torch.bfloat16 if fast else torch.float32},
        )
        self._torch = torch

    def embed(self, passages: Sequence[Passage], *, threads: int = 1) -> list[Embedding]:
        """Embed the texts, those of about one length together."""
        if self._torch.get_num_threads() != threads:
            self._torch.set_num_threads(threads)  # of this thread only
        rows: Any = self._model.tokenizer(
            [passage.text for passage in passages],
            truncation=True,
            max_length=TOKENS,
            return_overflowing_tokens=True,  # a text that is too long has several rows
            return_offsets_mapping=True,
        )
        of: list[int] = list(rows["overflow_to_sample_mapping"])
        kept = [row for n in range(len(passages)) for row in _ends([row for row, each in enumerate(of) if each == n])]
        found: dict[int, tuple[Floats, Floats]] = {}
        for group in _of_one_length({row: len(rows["input_ids"][row]) for row in kept}):
            found |= zip(group, self._together([rows["input_ids"][row] for row in group]), strict=True)
        return [
            _joined([(*found[row], rows["offset_mapping"][row]) for row in kept if of[row] == n], passage.windows)
            for n, passage in enumerate(passages)
        ]

    def _together(self, rows: Sequence[Sequence[int]]) -> list[tuple[Floats, Floats]]:
        """Embed rows of token ids in one pass, padded to the longest: each row's own embedding, and its tokens'."""
        torch = self._torch
        batch: Any = self._model.tokenizer.pad({"input_ids": list(rows)}, return_tensors="pt")
        with torch.inference_mode():
            output = self._model(dict(batch))
        tokens: Floats = output["token_embeddings"].float().numpy()  # (N, T, DIMENSIONS)
        wholes = _unit(output["sentence_embedding"].float().numpy())
        return [(whole, tokens[n, : len(row)]) for n, (whole, row) in enumerate(zip(wholes, rows, strict=True))]


def _ends(rows: list[int]) -> list[int]:
    """The rows of one text, or of too many the first and the last."""
    return rows if len(rows) <= ROWS else rows[: ROWS // 2] + rows[-ROWS // 2 :]


def _of_one_length(lengths: Mapping[int, int]) -> list[list[int]]:
    """The rows, by number of tokens, in groups with little padding: it costs as much as text."""
    groups: list[list[int]] = []
    shortest = 0
    for row in sorted(lengths, key=lengths.__getitem__):
        if not groups or lengths[row] > 1.5 * shortest + 16:
            groups.append([])
            shortest = lengths[row]
        groups[-1].append(row)
    return groups


def _joined(rows: Sequence[tuple[Floats, Floats, Sequence[Span]]], spans: tuple[Span, ...]) -> Embedding:
    """One text's rows, each with its tokens and where in the text they are: the first row is the whole."""
    parts = [whole for whole, _, _ in rows[1:]]
    for _, tokens, places in rows:
        offsets = np.array(places)
        starts, ends = offsets[:, 0], offsets[:, 1]
        real = ends > starts  # the model's own tokens have no characters
        for start, end in spans:
            inside = real & (starts >= start) & (ends <= end)
            if inside.sum() >= 3:
                parts.append(tokens[inside].mean(0))
    windows = _unit(np.array(parts, dtype=np.float32)) if parts else np.zeros((0, DIMENSIONS), dtype=np.float32)
    return Embedding(rows[0][0], windows, len(rows[0][1]), len(rows))


def _unit(vectors: Floats) -> Floats:
    lengths: Floats = np.linalg.norm(vectors, axis=1, keepdims=True).astype(np.float32)
    unit: Floats = (vectors / np.maximum(lengths, 1e-9)).astype(np.float32)
    return unit


def prepare(stop: threading.Event) -> Generator[Progress, None, Path]:
    """Put the model into the cache; returns its folder. Raises: PackageError."""
    return (yield from install(PACKAGES[NAME], stop)).parent


@dataclass(eq=False, slots=True)
class _Job:
    passages: list[Passage]
    done: asyncio.Future[None]
    tell: Any
    result: list[Embedding] = field(default_factory=list)
    dropped: bool = False  # nobody waits for it any more

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


class Embedder:
    """Embeds for many at once. What somebody waits for comes before what is embedded in bulk."""

    def __init__(self, folder: "Path | None" = None, *, share: Share | None = None) -> None:
        self.folder = folder  # set before it is started
        self._share = share or Cores().share(1)
        self._urgent: deque[_Job] = deque()  # each bounded by WAITING
        self._bulk: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._in_a_row = 0  # urgent batches
        self._closing = False
        self._thread: threading.Thread | None = None
        self._loaded: asyncio.Future[None] | None = None
        self._model: MiniLM | None = None

    @property
    def ready(self) -> bool:
        """Whether texts can be embedded."""
        return self._model is not None and not self._closing

    async def start(self) -> None:
        """Load the model; every stage that embeds may ask for it. Raises: what loading it raises."""
        if self._loaded is None:
            self._loaded, tell = told_by_thread()
            self._thread = threading.Thread(target=self._run, args=(tell,), name="embed", daemon=True)
            self._thread.start()
        await asyncio.shield(self._loaded)  # who stops waiting for it doesn't stop it for the others

    async def close(self) -> None:
        """End the thread; what waits for it gets an error."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, JOIN_PATIENCE)

    async def embed(self, passages: Sequence[Passage], *, bulk: bool = False) -> list[Embedding]:
        """Embed the passages, in as many batches as they are worth.

        Raises: StageError while it is not ready, or when too many texts wait; what the model raises.
        """
        jobs: list[_Job] = []
        with self._changed:
            if not self.ready:
                raise StageError("unavailable", "embeddings_not_ready", "The embedding model is not ready.")
            queue = self._bulk if bulk else self._urgent
            if sum(len(each.passages) for each in queue) + len(passages) > WAITING:
                raise StageError("overloaded", "server_overloaded", "Too many texts wait to be embedded.")
            for batch in _batches(passages):
                done, tell = told_by_thread()
                jobs.append(_Job(batch, done, tell))
            queue.extend(jobs)
            self._changed.notify()
        try:
            await asyncio.gather(*(job.done for job in jobs))
        finally:
            for job in jobs:
                job.dropped = True  # nobody waits for what is not done
        return [embedding for job in jobs for embedding in job.result]

    def _run(self, tell_loaded: Any) -> None:
        try:
            assert self.folder is not None  # noqa: S101 - prepared before it is loaded
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = MiniLM(self.folder)
                model.embed([Passage("The first text takes longer.")])
        except BaseException as error:
            tell_loaded(error)
            return
        self._model = model
        tell_loaded(None)
        try:
            while jobs := self._next():
                self._compute(model, jobs)
        finally:
            with self._changed:
                self._closing = True
            for job in (*self._urgent, *self._bulk):
                job.tell(StageError("unavailable", "server_shutting_down", "The server is shutting down."))

    def _next(self) -> list[_Job]:
        """The jobs of the next batch; none when it is time to end."""
        with self._changed:
            while not (self._urgent or self._bulk or self._closing):
                self._changed.wait()
            if self._closing:
                return []
            self._in_a_row = self._in_a_row + 1 if self._urgent else 0
            queue = self._bulk if self._bulk and self._in_a_row > IN_A_ROW else self._urgent or self._bulk
            self._in_a_row = 0 if queue is self._bulk else self._in_a_row
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

    def _compute(self, model: MiniLM, jobs: list[_Job]) -> None:
        jobs = [job for job in jobs if not job.dropped]
        passages = [passage for job in jobs for passage in job.passages]
        if not passages:
            return
        self._share.active = True
        try:
            embeddings = model.embed(passages)
        except Exception as error:  # of these texts; the next ones may do better
            log.error("a batch of texts could not be embedded: %s", type(error).__name__)  # its words may be theirs
            for job in jobs:
                job.tell(error)
            return
        finally:
            self._share.active = False
        for job in jobs:
            job.result, embeddings = embeddings[: len(job.passages)], embeddings[len(job.passages) :]
            job.tell(None)
