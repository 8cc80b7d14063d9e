"""The chat stage over servers elsewhere, as a part of the pipeline. Nothing of it needs PyTorch."""

import logging
from contextlib import suppress
from importlib.util import find_spec

from prometheus_client import Counter
from prometheus_client.registry import Collector

from pipelines.chat.answering import Measured
from pipelines.chat.calls.choice import Chooser
from pipelines.chat.settings import ChatSettings
from pipelines.chat.upstream.breaker import State
from pipelines.chat.upstream.outcomes import OUTCOMES, Outcome
from pipelines.chat.upstream.settings import KEY, in_the_clear
from pipelines.chat.upstream.stage import Counts, UpstreamStage
from pipelines.embedding.names import MINILM
from pipelines.metrics import counter, gauge, gauges
from pipelines.part import Part, Shared, with_embedder
from pipelines.stages import StageUnavailableError

log = logging.getLogger(__name__)

STATES: dict[State, int] = {"closed": 0, "half_open": 1, "open": 2}


def part(settings: ChatSettings, shared: Shared) -> Part:
    """The chat stage over the upstreams that the settings name.

    Raises: StageUnavailableError where functions are to be chosen by embeddings and there is nothing that embeds.
    """
    shared.guides = settings.tools == "guided"
    guide = None
    if shared.guides:
        if find_spec("torch") is None and "embedding" not in shared.elsewhere:
            text = "[chat] tools = \"guided\" needs PyTorch: pip install 'loquent[server]', or let the model choose"
            raise StageUnavailableError(f'{text}: tools = "native".')
        guide = shared.embeds()
    upstream = settings.upstream
    for url in upstream.urls:
        if upstream.key.get_secret_value() and in_the_clear(url):
            log.warning("%s is sent to %s in the clear; use https, or a network of your own", KEY, url)
    measured, counted = Measured(), _Counted(upstream.urls)
    chooser = Chooser(lambda: shared.embedders.get(MINILM)) if guide is not None else None
    stage = UpstreamStage(settings, chooser=chooser, observer=measured, counts=counted)

    described = Part(
        "chat",
        stage,
        start=stage.start,
        close=stage.close,
        ready=lambda: stage.ready,
        why=lambda: stage.balancer.why_not,
        metrics=(*measured.collectors, *counted.collectors, *metrics(stage)),
    )
    return described if guide is None else with_embedder(described, guide)


class _Counted(Counts):
    """Counts requests and retries."""

    def __init__(self, urls: tuple[str, ...]) -> None:
        self._requests = Counter(
            "loquent_upstream_requests", "Requests to upstreams.", ["upstream", "outcome"], registry=None
        )
        self._retries = Counter("loquent_upstream_retries", "Requests that were tried again.", registry=None)
        for url in urls:  # a rate needs the 0 before the first one
            for outcome in OUTCOMES:
                self._requests.labels(url, outcome)

    @property
    def collectors(self) -> tuple[Collector, ...]:
        """The metrics."""
        return self._requests, self._retries

    def request(self, upstream: str, outcome: Outcome) -> None:
        """A request has ended."""
        self._requests.labels(upstream, outcome).inc()

    def retry(self) -> None:
        """A request is tried again."""
        self._retries.inc()

    def gone(self, upstream: str) -> None:
        """Count no more of it: there may be ever new ones."""
        for outcome in OUTCOMES:
            with suppress(KeyError):
                self._requests.remove(upstream, outcome)


def metrics(stage: UpstreamStage) -> tuple[Collector, ...]:
    """What the stage counts."""
    balancer = stage.balancer
    return (
        gauge("loquent_requests_running", "Requests that generate.", lambda: stage.running),
        gauge("loquent_requests_waiting", "Requests that wait to run.", lambda: stage.waiting),
        counter("loquent_refusals", "Requests refused for lack of capacity.", lambda: stage.refusals),
        counter("loquent_aborted", "Requests that were cancelled, or whose reader left.", lambda: stage.aborted),
        gauges(
            "loquent_upstream_running",
            "Requests that an upstream answers.",
            "upstream",
            lambda: {upstream.url: upstream.running for upstream in balancer.upstreams},
        ),
        gauges(
            "loquent_upstream_state",
            "An upstream's circuit breaker: 0 closed, 1 half open, 2 open.",
            "upstream",
            lambda: {upstream.url: STATES[upstream.breaker.state] for upstream in balancer.upstreams},
        ),
    )
