"""The painter: a thread of its own that draws what many ask for, several pictures in one pass.

While the model or a voice computes it draws one picture at a time, in steps of a millisecond or two (four to write a
file of the usual size, a dozen and more for a large one), and rests between them, so that a token is late by one step
at most: a picture can wait for a moment, a token should not.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.capacity import Capacity
from pipelines.cores import Cores, Share
from pipelines.events import StageError, shutting_down
from pipelines.image.formats import Mark, enlarged, png, weight
from pipelines.image.interface import Order, not_ready
from pipelines.worker import Worker, settled_by_thread

if TYPE_CHECKING:
    from pipelines.image.generator import Generator
    from pipelines.image.weights import Drawer

log = logging.getLogger(__name__)

BATCH = 16  # usual pictures of one pass; a larger one counts for several
BESIDE = 1  # of one pass while others compute
REST = 0.01  # seconds between two steps then: longer than a token takes


@dataclass(eq=False, slots=True)
class _Job:
    order: Order
    done: asyncio.Future[None]
    settle: Callable[[BaseException | None], None]
    file: bytes = b""
    dropped: bool = False  # its reader has left


class Painter:
    """Draws for many at once: for replies first, then for direct requests, each in the order in which they came."""

    def __init__(self, load: "Callable[[], Drawer]", *, waiting: int, share: Share | None = None) -> None:
        self._load_drawer = load
        self.capacity = Capacity(waiting, "pictures")  # a picture takes as many permits as it weighs
        self._share = share or Cores().share(1)  # of the cores, to see whether others use them
        self._urgent: deque[_Job] = deque()  # these two together bounded by ``capacity``
        self._bulk: deque[_Job] = deque()
        self._worker: Worker[Drawer, list[_Job]] = Worker(
            "paint", self._load, take=self._batch, work=self._work, abandon=self._abandon
        )
        self.batches: deque[int] = deque(maxlen=256)  # sizes of the last ones
        self.drawn = 0  # pictures

    @property
    def drawer(self) -> "Drawer | None":
        """The generator, once it is loaded."""
        return self._worker.model

    @property
    def ready(self) -> bool:
        """Whether pictures can be drawn."""
        return self._worker.ready

    @property
    def waiting(self) -> int:
        """Pictures that wait."""
        return len(self._urgent) + len(self._bulk)

    async def start(self) -> None:
        """Load the generator. Raises: WeightsError when it can't be used."""
        await self._worker.start()

    async def close(self) -> None:
        """End the thread; what waits for it gets an error."""
        await self._worker.close()

    async def paint(self, orders: Sequence[Order], *, tenant: str = "", bulk: bool = False) -> list[bytes]:
        """Draw; returns PNG files in the order of the orders. ``bulk`` is behind what replies wait for.

        Raises: StageError while there is no generator, or when there is no capacity; what drawing raises.
        """
        if not self.ready:
            raise not_ready()
        with self.capacity.permit(tenant, sum(weight(order.size) for order in orders)):
            jobs = [_Job(order, *settled_by_thread()) for order in orders]
            with self._worker.changed:
                if self._worker.closing:
                    raise shutting_down()
                (self._bulk if bulk else self._urgent).extend(jobs)
                self._worker.changed.notify()
            try:
                await asyncio.gather(*(job.done for job in jobs))
            finally:
                self._drop(jobs)
        return [job.file for job in jobs]

    def _drop(self, jobs: Sequence[_Job]) -> None:
        with self._worker.changed:
            for job in jobs:
                job.dropped = True
            for queue in (self._urgent, self._bulk):
                for job in [job for job in queue if job.dropped]:
                    queue.remove(job)

    def _load(self) -> "Drawer":
        import torch

        torch.set_num_threads(1)  # of this thread: loading must leave no team of OpenMP threads behind
        drawer = self._load_drawer()
        _quicken(drawer.generator)
        self._draw(drawer, [Order(0, "", 0, 0, 64)])  # the first one takes longer
        return drawer

    def _abandon(self, error: StageError) -> None:
        for queue in (self._urgent, self._bulk):
            while queue:
                queue.popleft().settle(error)

    def _batch(self) -> list[_Job] | None:
        """The jobs of the next pass."""
        jobs: list[_Job] = []
        room = BATCH if self._share.alone else BESIDE
        for queue in (self._urgent, self._bulk):
            while queue and (not jobs or weight(queue[0].order.size) <= room):
                room -= weight(queue[0].order.size)
                jobs.append(queue.popleft())
        return jobs or None

    def _work(self, drawer: "Drawer", jobs: list[_Job]) -> None:
        try:
            pictures = self._draw(drawer, [job.order for job in jobs])
            self.batches.append(len(jobs))
            for job, picture in zip(jobs, pictures, strict=True):
                if job.dropped:
                    continue
                order = job.order
                mark = Mark(drawer.words.name, order.seed, order.caption)
                pixels = enlarged(picture, order.size, opaque=order.opaque)
                self._rest()
                job.file = png(pixels, mark, self._rest)
                self.drawn += 1
                job.settle(None)
        except Exception as error:  # of these pictures; the next ones may do better
            log.exception("pictures could not be drawn")
            for job in jobs:
                job.settle(error)

    def _draw(self, drawer: "Drawer", orders: Sequence[Order]) -> Any:
        """(N, 4, SIDE, SIDE) of float32."""
        import torch

        from pipelines.image.noise import DRAWN, noise

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
