"""The chat stage over upstreams: a turn becomes a request, and its chunks the reply's events.

What has failed before the first token is tried again, on another upstream if there is one. What fails behind it fails
the reply: text that was sent stays as it is, and none is sent twice.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import replace

from pipelines.chat import source
from pipelines.chat.answering import AnsweringStage, Observer
from pipelines.chat.calls.choice import Chooser
from pipelines.chat.settings import ChatSettings
from pipelines.chat.upstream.balancer import Balancer, Upstream
from pipelines.chat.upstream.client import Client
from pipelines.chat.upstream.gathering import Gathering
from pipelines.chat.upstream.outcomes import LONGEST_WAIT, Outcome, UpstreamError
from pipelines.chat.upstream.reading import ReplyReader
from pipelines.chat.upstream.request import body_of, estimate, shorter
from pipelines.chat.writing import Writing, writing_of
from pipelines.events import Event, Finished, StageError, Turn, shutting_down
from pipelines.fair_semaphore import FairSemaphore
from pipelines.flow import ahead

log = logging.getLogger(__name__)

AHEAD = 4096  # events of a reply, each of about a token, that its reader may lag behind
PAUSE_FIRST, PAUSE_LONGEST = 0.25, 5.0  # seconds before a request is tried again at the same upstream; full jitter


class Counts:
    """What is counted of requests to upstreams; this one ignores it."""

    def request(self, upstream: str, outcome: Outcome) -> None:
        """A request has ended."""

    def retry(self) -> None:
        """A request is tried again."""

    def gone(self, upstream: str) -> None:
        """This upstream is none any more."""


class UpstreamStage(AnsweringStage):
    """A stage around servers elsewhere."""

    def __init__(
        self,
        settings: ChatSettings,
        *,
        chooser: Chooser | None = None,
        observer: Observer | None = None,
        counts: Counts | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        super().__init__(observer, clock)
        self._settings = settings
        self._chooser = chooser
        self._counts = counts or Counts()
        self._sleep = sleep
        self._client = Client(settings.upstream)
        self._gathering = Gathering(settings.upstream.gather)
        self._permits = FairSemaphore(settings.at_once, settings.waiting, "replies")
        self.balancer = Balancer(
            settings.upstream.urls, settings.streams, self._probe, on_change=self._resize, clock=clock
        )
        self._closing = False
        self.on_forget: Callable[[tuple[str, ...]], None] = lambda tenants: None
        self.refusals = 0  # requests for which there was no capacity
        self.aborted = 0  # requests that were cancelled, or whose reader left

    async def start(self) -> None:
        """Ask the upstreams; returns once one of them answers."""
        self._client.start()
        await self.balancer.start()

    async def close(self) -> None:
        """End every request."""
        self._closing = True
        await self.balancer.close()
        await self._client.close()

    def change(self, upstreams: Mapping[str, Mapping[str, str]], tenant_header: str = "") -> None:
        """Go on with these upstreams: their addresses, what further headers each one wants, and which of them names the
        tenant of a reply.

        Replies in progress at others end as they would have.
        """
        if self._closing:
            return
        gone = [each.url for each in self.balancer.upstreams if each.url not in upstreams]
        self._client.gathering &= set(upstreams)
        self._client.headers, self._client.tenant_header = dict(upstreams), tenant_header
        self.balancer.change(tuple(upstreams))
        for url in gone:
            self._counts.gone(url)

    @property
    def ready(self) -> bool:
        """Whether an upstream answers."""
        return not self._closing and self.balancer.available > 0

    @property
    def model_name(self) -> str:
        """The model's name as clients see it; "" until an upstream has said it."""
        named = self._settings.upstream.model
        return named or next((each.models[0] for each in self.balancer.upstreams if each.models), "")

    @property
    def running(self) -> int:
        """Requests that are answered."""
        return self._permits.held

    @property
    def waiting(self) -> int:
        """Requests that wait to be asked."""
        return self._permits.waiting

    @property
    def ahead(self) -> int:
        """Replies that must end before another one could begin."""
        return self._permits.ahead

    def forget(self, tenants: Iterable[str]) -> None:
        """Nothing of their texts is cached here; ``on_forget`` may reach what upstreams cache."""
        self.on_forget(tuple(tenants))

    async def _answer(self, turn: Turn) -> AsyncGenerator[Event]:
        source.check(turn, {}, encodes=False)
        # A reader may lag for as long as the reply is spoken. The upstream must not wait for it, nor those who wait for
        # the upstream: some servers drop whom they take for a client that does not read.
        async with aclosing(ahead(self._admitted(turn), AHEAD)) as reply:
            async for event in reply:
                yield event

    async def _admitted(self, turn: Turn) -> AsyncGenerator[Event]:
        try:
            async with (
                self._permits.permit(turn.tenant),
                aclosing(self._reply(turn, await writing_of(turn, self._helps(), 0))) as reply,
            ):
                async for event in reply:
                    yield event
        except StageError as error:
            self.refusals += error.kind == "overloaded"
            raise shutting_down() if self._closing else error from None

    async def _reply(self, turn: Turn, writing: Writing) -> AsyncGenerator[Event]:
        """The reply, from whichever upstream; ``tried`` are those that have failed on it."""
        tried: list[Upstream] = []
        while True:
            if self._closing:
                raise shutting_down()
            upstream = self.balancer.choose(turn.session, tried)
            reader = ReplyReader(estimate(turn.messages))
            try:
                async with aclosing(self._attempt(upstream, turn, writing, reader)) as events:
                    async for event in events:
                        yield event
                return
            except UpstreamError as error:
                if reader.begun:
                    raise error.for_clients() from None
                failure = error
            turn = await self._again(turn, upstream, failure, tried)

    async def _attempt(
        self, upstream: Upstream, turn: Turn, writing: Writing, reader: ReplyReader
    ) -> AsyncGenerator[Event]:
        body = body_of(turn, writing, self._settings, self._model(upstream, turn), upstream.lacks)
        outcome: Outcome = "cancelled"
        upstream.running += 1
        upstream.begun += 1
        try:
            with self._gathering.reply(turn) as gathered:
                if upstream.url in self._client.gathering and "loquent" not in upstream.lacks:
                    body |= gathered.asked
                async with aclosing(self._client.reply(upstream.url, body, reader, gathered, turn.tenant)) as events:
                    async for event in events:
                        if isinstance(event, Finished):
                            outcome = "done"
                            upstream.breaker.succeeded()
                        elif upstream.breaker.state != "closed":
                            upstream.breaker.began()
                        yield event
        except UpstreamError as error:
            outcome = error.outcome
            if not self._closing:
                log.log(_level(error), "%s failed on %s: %s, %s", upstream.url, turn.id, outcome, error.message)
                self.balancer.failed(upstream, error)
            raise
        finally:
            upstream.running -= 1
            self.aborted += outcome == "cancelled"
            if upstream in self.balancer.upstreams:
                self._counts.request(upstream.url, outcome)

    async def _again(self, turn: Turn, upstream: Upstream, failure: UpstreamError, tried: list[Upstream]) -> Turn:
        """Wait until the turn may be tried again. Raises: StageError where that is of no use."""
        if failure.lacks and failure.lacks not in upstream.lacks:
            upstream.lacks.add(failure.lacks)
            return turn
        if failure.too_long and (turn.overflow or self._settings.overflow) == "trim":
            fewer = shorter(turn.messages)
            if fewer is None:
                raise failure.for_clients()
            return replace(turn, messages=fewer)
        if failure.outcome == "rejected" or len(tried) >= self._settings.upstream.retries:
            raise failure.for_clients()
        tried.append(upstream)
        if not any(each.available and each not in tried for each in self.balancer.upstreams):
            await self._pause(failure, len(tried))
        self._counts.retry()
        return turn

    async def _pause(self, failure: UpstreamError, times: int) -> None:
        """Wait before the same upstream is asked again."""
        if failure.outcome in ("timeout", "refused"):  # it would take as long again, or be refused again
            raise failure.for_clients()
        least = failure.retry_after or 0.0
        if least > LONGEST_WAIT:
            raise failure.for_clients()
        most = min(PAUSE_FIRST * 2**times, PAUSE_LONGEST)
        await self._sleep(least + random.uniform(0, most))  # noqa: S311 - no secret

    def _model(self, upstream: Upstream, turn: Turn) -> str:
        """The model's name at the upstream."""
        configured = self._settings.upstream
        named = configured.models.get(turn.model) or configured.model
        return named or next(iter(upstream.models), turn.model)

    def _helps(self) -> Chooser | None:
        """What chooses functions for the model; None where it chooses itself."""
        chooser = self._chooser
        return chooser if chooser is not None and chooser.ready else None

    def _resize(self) -> None:
        """Ask no more of the upstreams that are there than each of them may have."""
        self._permits.resize(self._settings.streams * max(self.balancer.available, 1))

    async def _probe(self, url: str) -> tuple[str, ...]:
        models = tuple(await self._client.models(url))
        wanted = self._settings.upstream.model
        if not models and not wanted:
            raise UpstreamError("invalid", "it lists no models: name one in [chat.upstream] model")
        if wanted and models and wanted not in models:
            log.warning("%s does not list the model %r; it lists %s", url, wanted, ", ".join(models)[:500])
        return models


def _level(error: UpstreamError) -> int:
    """Of the log: a request that is wrong is its client's affair."""
    if error.outcome == "refused":
        return logging.ERROR
    return logging.INFO if error.outcome == "rejected" else logging.WARNING
