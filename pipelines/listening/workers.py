"""Threads that own the models: one hears speech and its end, which takes moments, and one recognises words."""

import itertools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pipelines.cores import Share
from pipelines.events import StageError
from pipelines.worker import Worker, settled_by_thread

log = logging.getLogger(__name__)

Model = TypeVar("Model")
Result = TypeVar("Result")


@dataclass(eq=False, slots=True)
class _Job:
    work: Callable[[Any], Any]
    urgency: tuple[int, int]  # the least goes first
    settle: Callable[[BaseException | None], None]
    result: Any = None


class ModelThread(Generic[Model]):
    """A thread that owns a model and computes what is asked of it: what is urgent first, else in the order of arrival.

    Its queue is bounded by those who ask: each waits for one or two answers at a time.
    """

    def __init__(self, name: str, load: Callable[[], Model], share: Share | None = None) -> None:
        self._jobs: list[_Job] = []
        self._arrivals = itertools.count()
        self._worker: Worker[Model, _Job] = Worker(
            name, load, take=self._take, work=self._work, abandon=self._abandon, share=share
        )

    async def start(self) -> None:
        """Load the model. Raises: what loading raises."""
        await self._worker.start()

    async def close(self) -> None:
        """End what waits, then the thread."""
        await self._worker.close()

    @property
    def ready(self) -> bool:
        """Whether the model is loaded and work is taken."""
        return self._worker.ready

    @property
    def model(self) -> Model | None:
        """The model, once it is loaded."""
        return self._worker.model

    @property
    def waiting(self) -> int:
        """How much waits or is computed."""
        return len(self._jobs)

    async def ask(self, work: Callable[[Model], Result], *, urgent: bool = True) -> Result:
        """What ``work`` makes with the model; whoever is cancelled while it waits is forgotten.

        Raises: StageError when the thread is not ready or ends; what ``work`` raises.
        """
        done, settle = settled_by_thread()
        job = _Job(work, (0 if urgent else 1, next(self._arrivals)), settle)
        with self._worker.changed:
            if not self._worker.ready:
                raise StageError("unavailable", "listening_not_ready", "Speech recognition is not ready; try again.")
            self._jobs.append(job)
            self._worker.changed.notify()
        try:
            await done
            result: Result = job.result
            return result
        finally:
            with self._worker.changed:
                if job in self._jobs:
                    self._jobs.remove(job)

    def _take(self) -> _Job | None:
        if not self._jobs:
            return None
        job = min(self._jobs, key=lambda job: job.urgency)
        self._jobs.remove(job)
        return job

    def _work(self, model: Model, job: _Job) -> None:
        try:
            job.result = job.work(model)
        except BaseException as error:  # raised again where it was asked for; nothing may end this thread
            job.settle(error)
        else:
            job.settle(None)

    def _abandon(self, error: StageError) -> None:
        for job in self._jobs:
            job.settle(error)
        self._jobs.clear()
