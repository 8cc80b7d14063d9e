"""Chooses an upstream for each reply: the least loaded of those that work, and for a session the one that it had."""

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field

from pipelines.chat.upstream.breaker import Breaker
from pipelines.chat.upstream.outcomes import Outcome, UpstreamError, unavailable
from pipelines.chat.upstream.settings import KEY

log = logging.getLogger(__name__)

SESSIONS = 10_000  # whose upstream is remembered
SLACK = 0.25  # of an upstream's streams, by which a session's own may be busier than the least loaded
PROBE_FIRST, PROBE_LONGEST = 0.25, 5.0  # seconds between two probes of one that fails, with jitter

WHY: dict[Outcome, str] = {
    "unreachable": "no upstream can be reached",
    "timeout": "no upstream answers in time",
    "overloaded": "every upstream is overloaded or still loads",
    "failed": "the upstreams fail",
    "invalid": "what answers is no upstream, or lists no model: see [chat.upstream]",
    "refused": f"the upstreams refuse the key: set {KEY}",
    "rejected": "what answers is no upstream: see [chat.upstream] urls",
}

Probe = Callable[[str], Awaitable[Sequence[str]]]  # from an address to the names of its models; raises UpstreamError


@dataclass(eq=False, slots=True)
class Upstream:
    """One server, and what is known of it."""

    url: str
    breaker: Breaker = field(default_factory=Breaker)
    models: Sequence[str] = ()  # as it lists them
    lacks: set[str] = field(default_factory=set)  # parameters that it does not take; bounded by those it can do without
    running: int = 0  # replies
    begun: int = 0  # replies so far
    full_until: float = 0.0  # by the clock: it has asked to be left alone
    why: str = "not asked yet"  # it is not available, in words for anyone

    @property
    def available(self) -> bool:
        """Whether replies may be asked of it."""
        return self.breaker.state != "open"


class Balancer:
    """The upstreams of one server. ``on_change`` is called when one becomes available, or ceases to be."""

    def __init__(
        self,
        urls: Sequence[str],
        streams: int,
        probe: Probe,
        *,
        on_change: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.upstreams = tuple(Upstream(url) for url in urls)
        self._streams = streams
        self._probe = probe
        self._on_change = on_change
        self._clock = clock
        self._sessions: OrderedDict[str, Upstream] = OrderedDict()  # the most recently used last; bounded by SESSIONS
        self._probing: dict[Upstream, asyncio.Task[None]] = {}  # the last one of each
        self._answered = asyncio.Event()  # one of them has
        self._started = False

    async def start(self) -> None:
        """Probe all of them; returns once one is available."""
        self._started = True
        for upstream in self.upstreams:
            self._watch(upstream)
        await self._answered.wait()

    def change(self, urls: Sequence[str]) -> None:
        """Go on with these upstreams: new ones are probed, and of those that are gone nothing more is asked. What they
        are answering is theirs to finish."""
        known = {each.url: each for each in self.upstreams}
        added = [Upstream(url) for url in urls if url not in known]
        gone = [each for url, each in known.items() if url not in urls]
        if not added and not gone:
            return
        self.upstreams = (*(each for each in self.upstreams if each not in gone), *added)
        for upstream in gone:
            if (probing := self._probing.pop(upstream, None)) is not None:
                probing.cancel()
        for upstream in added if self._started else ():
            self._watch(upstream)
        self._on_change()

    async def close(self) -> None:
        """End what probes."""
        probing = list(self._probing.values())
        for task in probing:
            task.cancel()
        if probing:
            await asyncio.wait(probing)

    @property
    def available(self) -> int:
        """How many replies may be asked of."""
        return sum(upstream.available for upstream in self.upstreams)

    @property
    def why_not(self) -> str:
        """Why none is available, without their addresses; "" where one is."""
        return "" if self.available else "; ".join(dict.fromkeys(each.why for each in self.upstreams))

    def choose(self, session: str, tried: Collection[Upstream] = ()) -> Upstream:
        """The upstream for a reply, none of those ``tried`` if there is another.

        Raises: StageError ``upstream_unavailable`` when there is none.
        """
        able = [upstream for upstream in self.upstreams if upstream.available]
        if not able:
            raise unavailable()
        able = [upstream for upstream in able if upstream not in tried] or able
        now = self._clock()
        free = [upstream for upstream in able if upstream.full_until <= now] or able
        # One that is to be tried again gets a reply where no other is left, or where nothing runs there.
        sure = [each for each in free if each.breaker.state == "closed" or not each.running] or free
        least = min(sure, key=lambda each: (each.running, each.begun))
        chosen = self._of_session(session, sure, least)
        if session:
            self._sessions[session] = chosen
            self._sessions.move_to_end(session)
            if len(self._sessions) > SESSIONS:
                self._sessions.popitem(last=False)
        return chosen

    def _of_session(self, session: str, sure: Collection[Upstream], least: Upstream) -> Upstream:
        """The session's own where it is not much busier: its prefix cache holds the conversation."""
        own = self._sessions.get(session) if session else None
        if own is None or own not in sure or own.running >= self._streams:
            return least
        return own if own.running <= least.running + max(int(self._streams * SLACK), 1) else least

    def failed(self, upstream: Upstream, error: UpstreamError) -> None:
        """Note that a reply has failed there."""
        if error.outcome == "rejected" or upstream not in self.upstreams:
            return
        if error.outcome == "overloaded":
            upstream.full_until = self._clock() + (error.retry_after or 1.0)
            return
        upstream.breaker.failed(gone=error.outcome in ("unreachable", "refused"))
        if not upstream.available:
            self._left(upstream, error)

    def _left(self, upstream: Upstream, error: UpstreamError) -> None:
        upstream.why = WHY[error.outcome]
        probing = self._probing.get(upstream)
        if probing is None or probing.done():
            log.warning("%s is left alone: %s", upstream.url, error.message)
            self._on_change()
            self._watch(upstream)

    def _watch(self, upstream: Upstream) -> None:
        task = asyncio.create_task(self._until_it_answers(upstream), name="upstream-probe")
        self._probing[upstream] = task

    async def _until_it_answers(self, upstream: Upstream) -> None:
        wait, said = PROBE_FIRST, ""
        if upstream.breaker.opened:  # by failing replies: it may answer a probe as before
            await asyncio.sleep(_jittered(min(wait * 2**upstream.breaker.opened, PROBE_LONGEST)))
        while not upstream.available:
            try:
                upstream.models = await self._probe(upstream.url)
            except UpstreamError as error:
                upstream.why = WHY[error.outcome]
                if error.message != said:
                    said = error.message
                    log.warning("%s does not serve: %s", upstream.url, said)
            else:
                upstream.breaker.probed()
                log.info("%s answers", upstream.url)
                self._answered.set()
                self._on_change()
                return
            await asyncio.sleep(_jittered(wait))
            wait = min(2 * wait, PROBE_LONGEST)


def _jittered(seconds: float) -> float:
    return random.uniform(seconds / 2, seconds)  # noqa: S311 - no secret
