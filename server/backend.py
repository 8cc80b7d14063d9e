"""What every route needs of the server."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from aiohttp import web

from pipelines.build import Pipeline
from pipelines.events import Event, StageError, Turn
from pipelines.flow import flow
from server.auth import Doors
from server.config import Settings
from server.metrics import Metrics
from server.names import ModelNames


class Drainable(Protocol):
    """A connection that can be asked to end well."""

    def drain(self) -> None:
        """Finish what is in progress, then close."""


@dataclass
class Backend:
    """One server's parts, and what is going on in it."""

    settings: Settings
    pipeline: Pipeline
    names: ModelNames
    doors: Doors
    connections: set[Drainable] = field(default_factory=set)  # bounded by ``limits.connections``
    requests: int = 0  # in flight; an open websocket is one
    draining: bool = False
    idle: asyncio.Event = field(default_factory=asyncio.Event)  # set while there is no request in flight
    metrics: Metrics = field(init=False)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.pipeline, lambda: len(self.connections))
        self.idle.set()

    @contextmanager
    def in_flight(self) -> Iterator[None]:
        """Count a request while the block runs."""
        self.requests += 1
        self.idle.clear()
        try:
            yield
        finally:
            self.requests -= 1
            if not self.requests:
                self.idle.set()

    def flow(self, turn: Turn) -> AbstractAsyncContextManager[AsyncGenerator[Event]]:
        """Run a turn through the configured stages, measured."""
        return flow(turn, *self.pipeline.stages, self.metrics.stage())

    @property
    def ready(self) -> bool:
        return self.pipeline.ready and not self.draining

    def check_ready(self) -> None:
        """Raises: StageError while no turn can be taken."""
        if self.draining:
            raise StageError("unavailable", "server_shutting_down", "The server is shutting down.")
        if not self.pipeline.ready:
            raise StageError(
                "unavailable", "model_not_ready", "The language model is not ready; try again in a moment."
            )


BACKEND = web.AppKey("backend", Backend)
