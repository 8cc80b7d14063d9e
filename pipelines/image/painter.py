"""The painter: a thread of its own that draws what many ask for, several pictures in one pass.

While the model or a voice computes it draws one picture at a time, in steps of a millisecond or two, and rests between
them, so that a token is late by one step at most: a picture can wait for a moment, a token should not.
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
from pipelines.image.formats import Mark, enlarged, png
from pipelines.threads import Cores, Share, told_by_thread

if TYPE_CHECKING:
    from pipelines.image.generator import Generator
    from pipelines.image.weights import Drawer

log = logging.getLogger(__name__)

BATCH = 16  # pictures of one pass
BESIDE = 1  # of one pass while others compute
REST = 0.01  # seconds between two steps then: longer than a token takes
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
    file: bytes = b""
    dropped: bool = False  # nobody waits for it any more


class Painter:
    """Draws for many at once, in the order in which they asked."""

    def __init__(self, load: "Callable[[], Drawer]", *, waiting: int, share: Share | None = None) -> None:
        self._load = load
        self._waiting_limit = waiting
        self._share = share or Cores().share(1)  # of the cores, to see whether others use them
        self._queue: deque[_Job] = deque()  # bounded by ``waiting``
        self._changed = threading.Condition()
        self._closing = False
        self._thread: threading.Thread | None = None
        self.drawer: Drawer | None = None
        self.batches: deque[int] = deque(maxlen=256)  # sizes of the last ones
        self.drawn = 0  # pictures

    @property
    def ready(self) -> bool:
        """Whether pictures can be drawn."""
        return self.drawer is not None and not self._closing

    @property
    def waiting(self) -> int:
        """Pictures that wait."""
        return len(self._queue)

    async def start(self) -> None:
        """Load the generator. Raises: WeightsError when it can't be used."""
        loaded, tell = told_by_thread()
        self._thread = threading.Thread(target=self._run, args=(tell,), name="paint", daemon=True)
        self._thread.start()
        await loaded

    async def close(self) -> None:
        """End the thread; what waits for it gets an error."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, JOIN_PATIENCE)

    async def paint(self, orders: Sequence[Order]) -> list[bytes]:
        """Draw; returns PNG files in the order of the orders.

        Raises: StageError while there is no generator, or when too many pictures wait; what drawing raises.
        """
        jobs: list[_Job] = []
        with self._changed:
            if not self.ready:
                raise StageError("unavailable", "image_not_ready", "Pictures can't be drawn yet; try again.")
            if len(self._queue) + len(orders) > self._waiting_limit:
                raise StageError("overloaded", "server_overloaded", "Too many pictures wait to be drawn.")
            for order in orders:
                done, tell = told_by_thread()
                jobs.append(_Job(order, done, tell))
            self._queue.extend(jobs)
            self._changed.notify()
        try:
            await asyncio.gather(*(job.done for job in jobs))
        finally:
            for job in jobs:
                job.dropped = True
        return [job.file for job in jobs]

    def _run(self, tell_loaded: Callable[[BaseException | None], None]) -> None:
        try:
            drawer = self._load()
            _quicken(drawer.generator)
            self._draw(drawer, [Order(0, "", 0, 0, 64)])  # the first one takes longer
        except BaseException as error:
            tell_loaded(error)
            return
        self.drawer = drawer
        tell_loaded(None)
        try:
            while jobs := self._next():
                self._work(drawer, jobs)
        finally:
            with self._changed:
                self._closing = True
            for job in self._queue:
                job.tell(StageError("unavailable", "server_shutting_down", "The server is shutting down."))

    def _next(self) -> list[_Job]:
        """The jobs of the next pass; none when it is time to end."""
        with self._changed:
            jobs: list[_Job] = []
            while not jobs:
                while not (self._queue or self._closing):
                    self._changed.wait()
                if self._closing:
                    return []
                most = BATCH if self._share.alone else BESIDE
                while self._queue and len(jobs) < most:
                    job = self._queue.popleft()
                    if not job.dropped:
                        jobs.append(job)
            return jobs

    def _work(self, drawer: "Drawer", jobs: list[_Job]) -> None:
        try:
            pictures = self._draw(drawer, [job.order for job in jobs])
            self.batches.append(len(jobs))
            for job, picture in zip(jobs, pictures, strict=True):
                order = job.order
                mark = Mark(drawer.words.name, order.seed, order.caption)
                pixels = enlarged(picture, order.size, opaque=order.opaque)
                self._rest()
                job.file = png(pixels, mark)
                self.drawn += 1
                job.tell(None)
        except Exception as error:  # of these pictures; the next ones may do better
            log.exception("pictures could not be drawn")
            for job in jobs:
                job.tell(error)

    def _draw(self, drawer: "Drawer", orders: Sequence[Order]) -> Any:
        """(N, 4, SIDE, SIDE) of float32."""
        import torch

        from pipelines.image.augment import DRAWN, noise

        if torch.get_num_threads() != 1:
            torch.set_num_threads(1)  # of this thread only: a picture is too little for several
        rows = drawer.repertoire.drawn[[order.row for order in orders]]
        size = drawer.generator.shape.noise
        chance = [noise(1, size, torch.Generator().manual_seed(order.seed), spread=DRAWN) for order in orders]
        style = torch.tensor([order.style for order in orders])
        precision = drawer.generator.paint.weight.dtype
        text, z = torch.from_numpy(rows).to(precision), torch.cat(chance).to(precision)
        with torch.inference_mode():
            pictures = text
            for grid in drawer.generator.steps(text, style, z):
                pictures = grid
                self._rest()
            return pictures.float()

    def _rest(self) -> None:
        if not self._share.alone:
            time.sleep(REST)


def _quicken(generator: "Generator") -> None:
    """Compute in half precision where the processor is made for it; a picture differs by less than it can show."""
    import torch

    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        generator.bfloat16()
