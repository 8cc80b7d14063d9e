"""From configuration to a pipeline. It knows no stage by name."""

import asyncio
import importlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from importlib.util import find_spec
from typing import TypeVar

from pydantic import BaseModel

from pipelines.cores import one_blas_thread
from pipelines.downloads.progress import Progress
from pipelines.flow import Stage
from pipelines.loading import one_at_a_time
from pipelines.part import Part, Shared
from pipelines.stages import StageUnavailableError, maker
from pipelines.worker import in_thread, settled_by_thread

log = logging.getLogger(__name__)

Kind = TypeVar("Kind")

PROGRESS_AHEAD = 8  # progress reports that may wait to be shown
PATIENCE = 30.0  # seconds that a request waits for a part that is still being loaded


class Pipeline:
    """The parts of one server, outermost first, and what they share."""

    def __init__(self, parts: Sequence[Part], shared: Shared | None = None) -> None:
        self.parts = tuple(parts)
        self.shared = shared or Shared()
        self.on_ready: Callable[[Part, float], None] = lambda part, seconds: None  # for parts that load later
        self._later: set[asyncio.Task[None]] = set()  # at most one a part

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages, outermost first."""
        return tuple(part.stage for part in self.parts if part.stage is not None)

    def find(self, kind: type[Kind]) -> Kind | None:
        """The stage or the service of this kind, where the pipeline has one."""
        return next((each for part in self.parts if isinstance(each := part.service or part.stage, kind)), None)

    async def find_loaded(self, kind: type[Kind]) -> Kind | None:
        """What ``find`` finds; waits while its part is still being loaded."""
        for part in self.parts:
            if isinstance(found := part.service or part.stage, kind):
                await self.wait_until(part.ready)
                return found
        return None

    async def start(self, show: Callable[[Progress], None]) -> None:
        """Prepare and load the models, with reports to ``show``; returns when turns can flow.

        Parts that turns need not wait for are loaded behind that.

        Raises: what preparing or loading a required part raises.
        """
        async with aclosing(in_thread(self._prepare, ahead=PROGRESS_AHEAD, name="prepare")) as steps:
            async for step in steps:
                show(step)
        required = [part for part in self.parts if part.required]
        show(Progress(f"loading {' and '.join(part.name for part in required)}"))
        await self._start_all(required)
        for part in self.parts:
            if not part.required and not part.missing:
                task = asyncio.create_task(self._start_later(part), name=f"start-{part.name}")
                self._later.add(task)
                task.add_done_callback(self._later.discard)

    def _prepare(self, stop: threading.Event) -> Iterator[Progress]:
        for part in self.parts:
            yield from part.prepare(stop)

    async def _start_all(self, parts: Sequence[Part]) -> None:
        imported = asyncio.ensure_future(_imported(parts))

        async def start(part: Part) -> None:
            if part.imports:
                await asyncio.shield(imported)
            await part.start()

        starting = [imported, *(asyncio.ensure_future(start(part)) for part in parts)]
        try:
            await asyncio.gather(*starting)
        finally:
            for each in starting:
                each.cancel()
            await asyncio.wait(starting)
            one_blas_thread()  # also of what was loaded only now

    async def _start_later(self, part: Part) -> None:
        begun = time.monotonic()
        try:
            await self._start_all([part])
        except Exception as error:  # replies go on without it, and requests for it say so
            log.error("%s is not available: %s", part.name, error)
        else:
            self.on_ready(part, time.monotonic() - begun)

    async def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait while ``ready`` is false and a part is still being loaded, for ``PATIENCE`` at most."""
        until = time.monotonic() + PATIENCE
        while not ready() and self._later and (left := until - time.monotonic()) > 0:
            await asyncio.wait(self._later, timeout=left, return_when=asyncio.FIRST_COMPLETED)
            await asyncio.sleep(0)  # the callback that forgets a task that has ended

    async def close(self) -> None:
        """End every worker."""
        for task in (later := tuple(self._later)):
            task.cancel()
        if later:
            await asyncio.wait(later)
        await asyncio.gather(*(part.close() for part in self.parts))
        await asyncio.gather(*(embedder.close() for embedder in self.shared.embedders.values()))

    @property
    def waiting_for(self) -> tuple[str, ...]:
        """The names of required parts that are not ready."""
        return tuple(part.name for part in self.parts if part.required and not part.ready())

    @property
    def reasons(self) -> dict[str, str]:
        """Why required parts are not ready, of those that know."""
        return {part.name: why for part in self.parts if part.required and not part.ready() and (why := part.why())}

    @property
    def ready(self) -> bool:
        """Whether turns can flow."""
        return not self.waiting_for


async def _imported(parts: Sequence[Part]) -> None:
    """Import what the parts need on a thread that ends behind it.

    Importing the kernels starts OpenMP threads. Were they to live on in an idle pool, OpenMP would count more threads
    than cores, wait passively at every barrier, and double the time of a step.
    """
    done, settle = settled_by_thread()

    def run() -> None:
        try:
            _import(parts)
        except BaseException as error:  # raised again where it is awaited
            settle(error)
        else:
            settle(None)

    threading.Thread(target=run, name="import", daemon=True).start()
    await done


def _import(parts: Sequence[Part]) -> None:
    with one_at_a_time:
        for name in dict.fromkeys(name for part in parts for name in part.imports):
            importlib.import_module(name)
    one_blas_thread()


def build(settings: Mapping[str, BaseModel], shared: Shared | None = None, *others: Part) -> Pipeline:
    """The pipeline of these stages, outermost first, and services, with the settings of each, and of ``others`` that
    are no stages; not started yet.

    Raises: StageUnavailableError where a stage can't be loaded, or what it imports is not installed.
    """
    shared = shared or Shared()
    # Innermost first: what is around the model may depend on which it is.
    parts = [maker(name)(each, shared) for name, each in reversed(tuple(settings.items()))]
    for part in parts:
        _check_installed(part)
    return Pipeline([*parts[::-1], *others], shared)


def _check_installed(part: Part) -> None:
    """Raises: StageUnavailableError before anything is fetched for a part that could never be imported."""
    for package in dict.fromkeys(name.partition(".")[0] for name in part.imports):
        if find_spec(package) is None:
            text = f"{part.name} needs {package}, which is not installed: pip install 'loquent[server]'"
            raise StageUnavailableError(f"{text}, or leave it out of [pipeline] stages")
