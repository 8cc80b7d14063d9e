"""The server's Prometheus metrics; each part of the pipeline adds its own. ``docs/metrics.md`` lists them all."""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from pipelines.build import Pipeline
from pipelines.events import AudioDelta, CallDelta, Event, Finished, StageError, TextDelta, Turn, Usage
from pipelines.flow import Next
from pipelines.metrics import gauge

METHODS = ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH")  # others count as "other"
UNMATCHED = "unmatched"  # the route of a path where nothing is: labels have few values
REQUEST_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
RATES = (1, 2, 5, 10, 20, 40, 60, 80, 100, 150, 200, 400)  # tokens per second


class Metrics:
    """The counters of one server."""

    def __init__(
        self,
        pipeline: Pipeline,
        connections: Callable[[], int],
        *others: Collector,
        requests: Callable[[], int] = lambda: 0,
        lingering: Callable[[], int] = lambda: 0,
    ) -> None:
        # They double the series, and Prometheus finds restarts without them.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self.running = 0  # turns in progress
        self._count()
        for collector in (
            ProcessCollector(registry=None),
            gauge("loquent_ready", "1 while turns are accepted.", lambda: float(pipeline.ready)),
            gauge("loquent_connections", "Open realtime websockets.", connections),
            gauge("loquent_tasks", "Tasks of the event loop.", lambda: len(asyncio.all_tasks())),
            gauge("loquent_sessions_lingering", "Realtime sessions without a websocket.", lingering),
            self._resumed,
            self._taken_over,
            gauge("loquent_http_requests_in_progress", "Requests in progress, websockets included.", requests),
            self._requests,
            self._request_seconds,
            self._turns,
            self._turn_seconds,
            self._token_rate,
            self.feedback,
            *(collector for part in pipeline.parts for collector in part.metrics),
            self.rejected,
            self.rate_limited,
            self.dropped,
            *others,
        ):
            self._registry.register(collector)

    def _count(self) -> None:
        self._requests = Counter(
            "loquent_http_requests", "Responses, by route and status.", ["method", "route", "status"], registry=None
        )
        self._request_seconds = Histogram(
            "loquent_http_request_duration_seconds",
            "From a request's head to the end of its response; websockets are not counted.",
            ["method", "route"],
            buckets=REQUEST_SECONDS,
            registry=None,
        )
        self._turns = Counter("loquent_turns", "Turns, by how they ended.", ["outcome"], registry=None)
        self._turn_seconds = Histogram(
            "loquent_turn_duration_seconds", "From a turn to its end.", buckets=REQUEST_SECONDS, registry=None
        )
        self._token_rate = Histogram(
            "loquent_turn_tokens_per_second",
            "Decode rate of a written reply, behind its first token.",
            buckets=RATES,
            registry=None,
        )
        self._resumed = Counter(
            "loquent_sessions_resumed", "Times that a client came back to its session.", registry=None
        )
        self._taken_over = Counter(
            "loquent_sessions_taken_over", "Websockets that were replaced by another of their session.", registry=None
        )
        self.feedback = Counter("loquent_feedback", "Replies that users rated.", ["rating"], registry=None)
        for rating in ("up", "down"):  # a rate needs the 0 before the first one
            self.feedback.labels(rating)
        self.rejected = Counter("loquent_rejected", "Requests that access control refused.", ["code"], registry=None)
        self.rate_limited = Counter(
            "loquent_rate_limited",
            "Requests and turns over a limit, by the limit and by whose it is.",
            ["limit", "subject"],
            registry=None,
        )
        self.dropped = Counter("loquent_dropped", "Clients dropped for not reading.", registry=None)

    async def turn(self, turn: Turn, next: Next) -> AsyncGenerator[Event]:
        """The outermost stage: measures how the turn ends."""
        outcome, failed = "cancelled", False  # unless the stream reports another outcome before it is closed
        usage = Usage()
        begun, first = time.monotonic(), None
        self.running += 1
        try:
            async with aclosing(next(turn)) as events:
                async for event in events:
                    if first is None and isinstance(event, TextDelta | CallDelta | AudioDelta):
                        first = time.monotonic()
                    if isinstance(event, Finished):
                        outcome, usage = event.reason, event.usage
                        if turn.speech is None and first is not None:  # a spoken reply comes as it is played
                            self._decoded(event.usage.output_tokens - 1, time.monotonic() - first)
                    yield event
        except StageError as error:
            outcome, failed = error.code, True
            raise
        except Exception:
            outcome, failed = "internal_error", True
            raise
        finally:
            self.running -= 1
            self._turns.labels(outcome).inc()
            self._turn_seconds.observe(time.monotonic() - begun)
            if turn.trace is not None:
                turn.trace.end(outcome, _tokens(usage), failed=failed)

    def _decoded(self, tokens: int, seconds: float) -> None:
        if tokens > 0 and seconds > 0:
            self._token_rate.observe(tokens / seconds)

    def responded(self, request: web.Request, response: web.StreamResponse) -> None:
        """A response begins, or a websocket opens."""
        self._requests.labels(*_route(request), str(response.status)).inc()

    def ended(self, request: web.Request, seconds: float) -> None:
        """The request is answered, or its client is gone."""
        if request.headers.get("Upgrade", "").lower() != "websocket":
            self._request_seconds.labels(*_route(request)).observe(seconds)

    def attached(self, *, came_back: bool, replaces: bool) -> None:
        """A realtime session has a websocket."""
        self._resumed.inc(came_back)
        self._taken_over.inc(replaces)

    def render(self) -> bytes:
        """The text that Prometheus reads."""
        return generate_latest(self._registry)


def _tokens(usage: Usage) -> dict[str, int]:
    """A turn's usage as attributes of its span; none where it is not known."""
    if usage == Usage():
        return {}
    return {
        "gen_ai.usage.input_tokens": usage.input_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cached_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
    }


def _route(request: web.Request) -> tuple[str, str]:
    """The method and the route's pattern, with no part of a path that the client chose."""
    resource = request.match_info.route.resource
    method = request.method if request.method in METHODS else "other"
    return method, UNMATCHED if resource is None else resource.canonical
