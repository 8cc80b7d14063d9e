"""The painter: draws what many ask for, several pictures in one pass.

A picture can wait for milliseconds, a token should not. So a quiet thread draws, in the time that the model and the
voice leave of the cores. Where they leave next to nothing a picture would never come; then a second thread, which
takes its share of the cores as they do, draws what has waited too long, whoever began it.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.events import StageError
from pipelines.image.formats import Mark, png
from pipelines.threads import Cores, Share, give_way, told_by_thread

if TYPE_CHECKING:
    from pipelines.image.generator import Generator
    from pipelines.image.weights import Drawer

log = logging.getLogger(__name__)

BATCH = 16  # pictures of one pass
QUIET_SECONDS = 0.15  # that a picture waits for the quiet thread
JOIN_PATIENCE = 5.0  # seconds that closing waits for the batch in progress


@dataclass(frozen=True, slots=True)
class Order:
    """A picture to draw."""

    row: int  # of the caption, in the repertoire
    caption: str
    style: int
    seed: int
    size: int  # pixels of a side
    opaque: bool = False


@dataclass(eq=False, slots=True)
class _Job:
    order: Order
    done: asyncio.Future[None]
    tell: Callable[[BaseException | None], None]
    since: float  # when it was asked for, or begun
    begun: bool = False
    file: bytes = b""


class Painter:
    """Draws for many at once, in the order in which they asked."""

    def __init__(self, load: "Callable[[], Drawer]", *, waiting: int, share: Share | None = None) -> None:
        self._load = load
        self._limit = waiting
        self._share = share or Cores().share(1)
        self._jobs: list[_Job] = []  # asked for and not done; at most ``waiting``
        self._changed = threading.Condition()
        self._closing = False
        self._threads: list[threading.Thread] = []
        self.drawer: Drawer | None = None
        self.batches: deque[int] = deque(maxlen=256)  # pictures of the last passes that nobody else had drawn
        self.drawn = 0  # pictures

    @property
    def ready(self) -> bool:
        """Whether pictures can be drawn."""
        return self.drawer is not None and not self._closing

    @property
    def waiting(self) -> int:
        """Pictures that are not begun."""
        return sum(not job.begun for job in self._jobs)

    async def start(self) -> None:
        """Load the generator. Raises: WeightsError when it can't be used."""
        loaded, tell = told_by_thread()
        self._begin(self._open, tell)
        await loaded
        self._begin(self._run_quietly)

    def _begin(self, work: Callable[..., None], *given: object) -> None:
        thread = threading.Thread(target=work, args=given, name="paint", daemon=True)
        self._threads.append(thread)
        thread.start()

    async def close(self) -> None:
        """End the threads; what waits for them gets an error."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            await asyncio.to_thread(thread.join, JOIN_PATIENCE)
        for job in self._jobs:
            job.tell(StageError("unavailable", "server_shutting_down", "The server is shutting down."))

    async def paint(self, orders: Sequence[Order]) -> list[bytes]:
        """Draw; returns PNG files in the order of the orders.

        Raises: StageError while there is no generator, or when too many pictures wait; what drawing raises.
        """
        jobs: list[_Job] = []
        with self._changed:
            if not self.ready:
                raise StageError("unavailable", "image_not_ready", "Pictures can't be drawn yet; try again.")
            if len(self._jobs) + len(orders) > self._limit:
                raise StageError("overloaded", "server_overloaded", "Too many pictures wait to be drawn.")
            for order in orders:
                done, tell = told_by_thread()
                jobs.append(_Job(order, done, tell, time.monotonic()))
            self._jobs.extend(jobs)
            self._changed.notify_all()
        try:
            await asyncio.gather(*(job.done for job in jobs))
        finally:
            with self._changed:
                self._jobs = [job for job in self._jobs if job not in jobs]  # nobody waits for what is not done
        return [job.file for job in jobs]

    def _open(self, tell_loaded: Callable[[BaseException | None], None]) -> None:
        """Load the generator, and then draw what waits too long."""
        try:
            drawer = self._load()
            _quicken(drawer.generator)
            self._draw(drawer, [Order(0, "", 0, 0, 64)])  # the first one takes longer
        except BaseException as error:
            tell_loaded(error)
            return
        self.drawer = drawer
        tell_loaded(None)
        while jobs := self._next(quiet=False):
            self._share.active = True
            try:
                self._work(drawer, jobs)
            finally:
                self._share.active = False

    def _run_quietly(self) -> None:
        assert self.drawer is not None  # noqa: S101 - this thread is begun behind its loading
        give_way()
        while jobs := self._next(quiet=True):
            self._work(self.drawer, jobs)

    def _next(self, *, quiet: bool) -> list[_Job]:
        """The jobs of the next pass; none when it is time to end."""
        with self._changed:
            while not self._closing:
                now = time.monotonic()
                if quiet:
                    jobs = [job for job in self._jobs if not job.begun][:BATCH]
                else:
                    jobs = [job for job in self._jobs if now - job.since >= QUIET_SECONDS][:BATCH]
                if jobs:
                    for job in jobs:
                        job.begun, job.since = True, now
                    return jobs
                first = min((job.since for job in self._jobs), default=None)
                self._changed.wait(None if quiet or first is None else max(first + QUIET_SECONDS - now, 0))
            return []

    def _work(self, drawer: "Drawer", jobs: list[_Job]) -> None:
        try:
            pictures = self._draw(drawer, [job.order for job in jobs])
            with self._changed:
                self.batches.append(sum(job in self._jobs for job in jobs))
            for job, picture in zip(jobs, pictures, strict=True):
                order = job.order
                mark = Mark(drawer.words.name, order.seed, order.caption)
                self._finish(job, png(picture, mark, size=order.size, opaque=order.opaque))
        except Exception as error:  # of these pictures; the next ones may do better
            log.exception("pictures could not be drawn")
            for job in jobs:
                self._finish(job, error)

    def _finish(self, job: _Job, outcome: bytes | Exception) -> None:
        """Hand a picture over, unless the other thread was faster or nobody waits for it any more."""
        with self._changed:
            if job not in self._jobs:
                return
            self._jobs.remove(job)
        if isinstance(outcome, bytes):
            job.file = outcome
            self.drawn += 1
        job.tell(outcome if isinstance(outcome, Exception) else None)

    def _draw(self, drawer: "Drawer", orders: Sequence[Order]) -> Any:
        """(N, 4, SIDE, SIDE) of float32."""
        import torch

        from pipelines.image.augment import noise

        if torch.get_num_threads() != 1:
            torch.set_num_threads(1)  # of this thread only: a picture is too little for several
        rows = drawer.repertoire.drawn[[order.row for order in orders]]
        size = drawer.generator.shape.noise
        chance = [noise(1, size, torch.Generator().manual_seed(order.seed)) for order in orders]
        style = torch.tensor([order.style for order in orders])
        precision = drawer.generator.paint.weight.dtype
        text, z = torch.from_numpy(rows).to(precision), torch.cat(chance).to(precision)
        with torch.inference_mode():
            return drawer.generator(text, style, z).float().numpy()


def _quicken(generator: "Generator") -> None:
    """Compute in half precision where the processor is made for it; a picture differs by less than it can show."""
    import torch

    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        generator.bfloat16()
