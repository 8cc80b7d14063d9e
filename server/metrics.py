"""The server's Prometheus metrics; each part of the pipeline adds its own."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.registry import Collector

from pipelines.build import Pipeline
from pipelines.events import Event, Finished, StageError, Turn
from pipelines.flow import Next
from pipelines.metrics import gauge


class Metrics:
    """The counters of one server."""

    def __init__(self, pipeline: Pipeline, connections: Callable[[], int], *others: Collector) -> None:
        self._registry = CollectorRegistry()
        self._turns = Counter("loquent_turns", "Turns, by how they ended.", ["outcome"], registry=None)
        self.rejected = Counter("loquent_rejected", "Requests that access control refused.", ["code"], registry=None)
        self.dropped = Counter("loquent_dropped", "Clients dropped for not reading.", registry=None)
        for collector in (
            gauge("loquent_ready", "1 while turns are accepted.", lambda: float(pipeline.ready)),
            gauge("loquent_connections", "Open realtime websockets.", connections),
            self._turns,
            *(collector for part in pipeline.parts for collector in part.metrics),
            self.rejected,
            self.dropped,
            *others,
        ):
            self._registry.register(collector)

    async def turn(self, turn: Turn, next: Next) -> AsyncGenerator[Event]:
        """The outermost stage: counts how the turn ends."""
        outcome = "cancelled"  # unless the stream reports another outcome before it is closed
        try:
            async with aclosing(next(turn)) as events:
                async for event in events:
                    if isinstance(event, Finished):
                        outcome = event.reason
                    yield event
        except StageError as error:
            outcome = error.code
            raise
        except Exception:
            outcome = "internal_error"
            raise
        finally:
            self._turns.labels(outcome).inc()

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)
