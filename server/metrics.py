"""What the server counts, in Prometheus' form and under the field's names."""

import time
from collections.abc import AsyncGenerator, Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from pipelines.build import Pipeline
from pipelines.events import Event, Finished, StageError, TextDelta, Turn
from pipelines.flow import Stage

LATENCIES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2, 0.3, 0.5, 0.8, 1.2, 2.0, 5.0, 10.0, 30.0)


class _Counted(Collector):
    """A counter that somebody else keeps."""

    def __init__(self, name: str, text: str, value: Callable[[], float]) -> None:
        self._name, self._text, self._value = name, text, value

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(self._name, self._text, value=self._value())


class Metrics:
    """The counters of one server."""

    def __init__(self, pipeline: Pipeline, connections: Callable[[], int]) -> None:
        self._registry = CollectorRegistry()
        engine = pipeline.engine

        def gauge(name: str, text: str, value: Callable[[], float]) -> None:
            Gauge(name, text, registry=self._registry).set_function(value)

        gauge("loquent_ready", "1 while turns are taken.", lambda: float(pipeline.ready))
        gauge("loquent_connections", "Open realtime websockets.", connections)
        gauge("loquent_requests_running", "Requests that generate.", lambda: engine.running)
        gauge("loquent_requests_waiting", "Requests that wait for a place.", lambda: engine.queued)
        gauge(
            "loquent_engine_restarts",
            "Times that the model's worker died and was restarted.",
            lambda: engine.restarts,
        )
        gauge("loquent_kv_tokens", "Tokens in the slots of requests in progress.", lambda: engine.held_tokens)

        def counter(name: str, text: str, value: Callable[[], float]) -> None:
            self._registry.register(_Counted(name, text, value))

        counter("loquent_engine_steps", "Passes over the weights.", lambda: engine.steps)
        counter("loquent_prompt_tokens_computed", "Tokens of prompts that were read.", lambda: engine.read_tokens)
        counter("loquent_prefix_cache_tokens", "Tokens of prompts found in a slot.", lambda: engine.reused_tokens)
        counter("loquent_prefix_cache_hits", "Requests that found some of their prompt.", lambda: engine.reuses)
        counter("loquent_refusals", "Requests for which there was no place.", lambda: engine.refusals)
        counter("loquent_aborted", "Requests that were cancelled, or whose reader left.", lambda: engine.aborted)
        self._turns = Counter("loquent_turns", "Turns, by how they ended.", ["outcome"], registry=self._registry)
        self._prompt = Counter("loquent_prompt_tokens", "Tokens of prompts.", registry=self._registry)
        self._generated = Counter("loquent_generation_tokens", "Tokens generated.", registry=self._registry)
        self._ttft = Histogram(
            "loquent_time_to_first_token_seconds",
            "From the turn to its first text.",
            buckets=LATENCIES,
            registry=self._registry,
        )
        self._itl = Histogram(
            "loquent_inter_token_latency_seconds",
            "Between texts, for each token.",
            buckets=LATENCIES,
            registry=self._registry,
        )
        self.rejected = Counter("loquent_rejected", "Requests refused at the door.", ["code"], registry=self._registry)
        self.dropped = Counter("loquent_dropped", "Clients dropped for not reading.", registry=self._registry)

    def stage(self, clock: Callable[[], float] = time.monotonic) -> Stage:
        """A last stage that measures what passes through it."""

        async def measured(events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
            outcome = "cancelled"  # unless the stream says otherwise before it is closed
            last, first = clock(), True
            try:
                async for event in events:
                    match event:
                        case Turn():
                            last = clock()
                        case TextDelta(tokens=tokens):
                            now = clock()
                            if first:
                                self._ttft.observe(now - last)
                            else:
                                self._itl.observe((now - last) / max(tokens, 1))
                            last, first = now, False
                        case Finished(reason, usage):
                            outcome = reason
                            self._prompt.inc(usage.input_tokens)
                            self._generated.inc(usage.output_tokens)
                    yield event
            except StageError as error:
                outcome = error.code
                raise
            except Exception:
                outcome = "internal_error"
                raise
            finally:
                self._turns.labels(outcome).inc()

        return measured

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)
