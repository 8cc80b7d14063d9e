"""The painter: a thread of its own that draws what many ask for, several pictures in one pass.

While the model or a voice computes it draws one picture at a time, in steps of a millisecond or two (four to write a
file of the usual size, a dozen and more for a large one), and rests between them, so that a token is late by one step
at most: a picture can wait for a moment, a token should not.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.cores import Cores, Share
from pipelines.events import StageError
from pipelines.image.formats import Mark, enlarged, places, png
from pipelines.worker import told_by_thread

if TYPE_CHECKING:
    from pipelines.image.generator import Generator
    from pipelines.image.weights import Drawer

log = logging.getLogger(__name__)

BATCH = 16  # usual pictures of one pass; a larger one counts for several
BESIDE = 1  # of one pass while others compute
SHARE = 0.75  # of the places that one key of several may take
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
    tenant: str
    done: asyncio.Future[None]
    tell: Callable[[BaseException | None], None]
    file: bytes = b""
    dropped: bool = False  # nobody waits for it any more


class Painter:
    """Draws for many at once: for replies first, then for who asked directly, each in the order in which they asked."""

    def __init__(self, load: "Callable[[], Drawer]", *, waiting: int, share: Share | None = None) -> None:
        self._load = load
        self.places = waiting  # a picture takes those of its size
        self._share = share or Cores().share(1)  # of the cores, to see whether others use them
        self._urgent: deque[_Job] = deque()  # these two together bounded by ``places``
        self._bulk: deque[_Job] = deque()
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
        return len(self._urgent) + len(self._bulk)

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

    async def paint(self, orders: Sequence[Order], *, tenant: str = "", bulk: bool = False) -> list[bytes]:
        """Draw; returns PNG files in the order of the orders. ``bulk`` is behind what replies wait for.

        Raises: StageError while there is no generator, or when too many pictures wait; what drawing raises.
        """
        with self._changed:
            if not self.ready:
                raise StageError("unavailable", "image_not_ready", "Pictures can't be drawn yet; try again.")
            self._check_room(sum(places(order.size) for order in orders), tenant)
            jobs = [_Job(order, tenant, *told_by_thread()) for order in orders]
            (self._bulk if bulk else self._urgent).extend(jobs)
            self._changed.notify()
        try:
            await asyncio.gather(*(job.done for job in jobs))
        finally:
            with self._changed:
                for job in jobs:
                    job.dropped = True
                for queue in (self._urgent, self._bulk):
                    for job in [job for job in queue if job.dropped]:
                        queue.remove(job)
        return [job.file for job in jobs]

    def _check_room(self, wanted: int, tenant: str) -> None:
        """Raises: StageError when there are not so many places, or when they are not this tenant's to take."""
        taken = [(places(job.order.size), job.tenant) for job in (*self._urgent, *self._bulk)]
        if sum(size for size, _ in taken) + wanted > self.places:
            raise StageError("overloaded", "server_overloaded", "Too many pictures wait to be drawn.")
        theirs = sum(size for size, whose in taken if whose == tenant)
        if tenant and theirs and theirs + wanted > self.places * SHARE:
            raise StageError("overloaded", "too_many_requests", "Too many pictures wait to be drawn for this key.")

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
            for job in (*self._urgent, *self._bulk):
                job.tell(StageError("unavailable", "server_shutting_down", "The server is shutting down."))

    def _next(self) -> list[_Job]:
        """The jobs of the next pass; none when it is time to end."""
        with self._changed:
            while not (self._urgent or self._bulk or self._closing):
                self._changed.wait()
            if self._closing:
                return []
            jobs: list[_Job] = []
            room = BATCH if self._share.alone else BESIDE
            for queue in (self._urgent, self._bulk):
                while queue and (not jobs or places(queue[0].order.size) <= room):
                    room -= places(queue[0].order.size)
                    jobs.append(queue.popleft())
            return jobs

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
                job.tell(None)
        except Exception as error:  # of these pictures; the next ones may do better
            log.exception("pictures could not be drawn")
            for job in jobs:
                job.tell(error)

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
