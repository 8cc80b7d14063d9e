"""The simulation: users of ``bench.load``'s plan, gateways, and engines that batch continuously, as queues (SimPy).

An engine works in passes. Each decodes one token of every running stream, and reads at most ``chunk`` tokens of the
prompts that wait, oldest first; a pass takes what ``Costs`` say. It has the conversations that it answered last, and
reads others again from their beginning. A gateway is a queue with one server: its event loop. It mostly sleeps, so the
system lets it have a core as soon as it wants one. Engines of one machine share what is left: their work takes longer
by as much as more cores are wanted than there are.
"""

import heapq
import random
from collections import OrderedDict, deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import simpy

from bench.load.plan import Visit
from bench.scale.costs import Costs
from pipelines.chat.engine.prefill import PrefillBudget

LEAST_CORES = 0.1  # that are left to what computes, whatever is served beside it

Steps = Generator[simpy.Event, Any, None]


@dataclass(frozen=True, slots=True)
class Site:
    """What there is to serve with."""

    engines: int
    gateways: int
    cores: float = 0.0  # that all of them share; 0 where each has a machine of its own


@dataclass(frozen=True, slots=True)
class Work:
    """What a turn asks of an engine."""

    tokens: int  # of a reply
    question: int  # tokens that a turn adds to its prompt, with what surrounds them


@dataclass
class Simulated:
    """What happened. Times are in seconds."""

    first: list[float] = field(default_factory=list)  # from when a turn was due to its first text
    gaps: list[float] = field(default_factory=list)  # between texts
    turns: int = 0
    seconds: float = 0.0  # to the last reply's end
    busy: float = 0.0  # of all engines, in passes
    computing: float = 0.0  # of that, what the passes take on cores of their own

    def utilisation(self, engines: int) -> float:
        """The share of the time in which an engine computes."""
        return self.busy / (engines * self.seconds) if self.seconds else 0.0


@dataclass(eq=False, slots=True)
class _Request:
    session: int
    unread: int  # tokens of its prompt
    said: int  # tokens of the conversation before it, which the engine may still have
    left: int  # tokens of its reply
    first: simpy.Event
    done: simpy.Event
    token_at: float = 0.0


class _Machine:
    """Cores that are shared: as much as is wanted at a time beyond them, all work takes longer by (processor sharing).

    Work ends when the machine's own time, which passes more slowly while too much is wanted, has advanced by what the
    work takes alone.
    """

    def __init__(self, env: simpy.Environment, cores: float) -> None:
        self._env, self._cores = env, cores
        self._wanted = 0.0
        self._urgent = 0  # cores of what is served at once
        self._own = self._at = 0.0  # its own time, and when it was that
        self._ends: list[tuple[float, int, float, simpy.Event]] = []  # of work, in its own time
        self._number = 0
        self._changed = env.event()
        env.process(self._run())

    def work(self, seconds: float, cores: float) -> simpy.Event:
        """What ends with work that takes so long alone, on so many cores."""
        if not self._cores:
            return self._env.timeout(seconds)
        self._advance()
        done = self._env.event()
        self._number += 1
        heapq.heappush(self._ends, (self._own + seconds, self._number, cores, done))
        self._wanted += cores
        if not self._changed.triggered:
            self._changed.succeed()
        return done

    def serve(self, seconds: float) -> Steps:
        """What a process does that mostly sleeps: the system lets it have a core at once, and others wait."""
        if not self._cores:
            yield self._env.timeout(seconds)
            return
        self._urgently(1)
        yield self._env.timeout(seconds)
        self._urgently(-1)

    def _urgently(self, cores: int) -> None:
        self._advance()
        self._urgent += cores
        if not self._changed.triggered:
            self._changed.succeed()

    @property
    def _rate(self) -> float:
        left = max(self._cores - self._urgent, LEAST_CORES)
        return min(left / self._wanted, 1.0) if self._wanted > 0 else 1.0

    def _advance(self) -> None:
        self._own += (self._env.now - self._at) * self._rate
        self._at = self._env.now

    def _run(self) -> Steps:
        while True:
            self._changed = self._env.event()
            if not self._ends:
                yield self._changed
                continue
            left = max(self._ends[0][0] - self._own, 0.0) / self._rate
            yield self._env.timeout(left) | self._changed
            self._advance()
            while self._ends and self._ends[0][0] <= self._own + 1e-12:
                _, _, cores, done = heapq.heappop(self._ends)
                self._wanted = max(self._wanted - cores, 0.0)
                done.succeed()


class _Engine:
    def __init__(self, env: simpy.Environment, costs: Costs, machine: _Machine, found: Simulated) -> None:
        self._env, self._costs, self._machine, self._found = env, costs, machine, found
        self._waiting: deque[_Request] = deque()
        self._running: list[_Request] = []
        self._texts: OrderedDict[int, None] = OrderedDict()  # sessions that it still has, the last used last
        self._budget = PrefillBudget()
        self._wake = env.event()
        self.sessions = 0  # so far
        env.process(self._run())

    @property
    def load(self) -> int:
        """Requests that run or wait."""
        return len(self._running) + len(self._waiting)

    def submit(self, request: _Request) -> None:
        if request.session not in self._texts:
            request.unread += request.said
        self._texts[request.session] = None
        self._texts.move_to_end(request.session)
        if len(self._texts) > self._costs.kept:
            self._texts.popitem(last=False)
        self._waiting.append(request)
        if not self._wake.triggered:
            self._wake.succeed()

    def _run(self) -> Steps:
        costs = self._costs
        while True:
            if not self.load:
                self._wake = self._env.event()
                yield self._wake
            decoding = [each for each in self._running if not each.unread]
            read = self._read(len(decoding))
            seconds = costs.pass_seconds(len(decoding), read)
            self._budget.measured(seconds, streaming=bool(decoding), read=read)
            self._found.computing += seconds
            begun = self._env.now
            yield self._machine.work(seconds, costs.cores)
            self._found.busy += self._env.now - begun
            for request in [*decoding, *(each for each in self._running if not each.unread and each not in decoding)]:
                self._token(request)
            self._running = [each for each in self._running if each.left]

    def _read(self, decoding: int) -> int:
        """Admit what there is room for, and read the next parts of prompts; their tokens."""
        while self._waiting and len(self._running) < self._costs.streams:
            self._running.append(self._waiting.popleft())
        chunk = self._costs.chunk or self._budget.tokens(decoding, len(self._running) - decoding)
        room = chunk
        for request in self._running:
            part = min(request.unread, room)
            request.unread -= part
            room -= part
        return chunk - room

    def _token(self, request: _Request) -> None:
        now = self._env.now
        if request.token_at:
            self._found.gaps.append(now - request.token_at)
        else:
            request.first.succeed()
        request.token_at = now
        request.left -= 1
        if not request.left:
            request.done.succeed()


class _Cluster:
    def __init__(self, env: simpy.Environment, site: Site, costs: Costs, work: Work) -> None:
        self.env, self.costs, self.work = env, costs, work
        self.found = Simulated()
        self.chance = random.Random(0)
        machine = self.machine = _Machine(env, site.cores)
        self.engines = [_Engine(env, costs, machine, self.found) for _ in range(site.engines)]
        self.gateways = [simpy.Resource(env) for _ in range(site.gateways)]

    def visit(self, plan: Visit) -> Steps:
        """One user: turns that begin when they are due, or when the reply before them has ended."""
        gateway = self.gateways[plan.number % len(self.gateways)]
        engine = min(self.engines, key=lambda each: (each.load, each.sessions))  # which keeps its conversation
        engine.sessions += 1
        for number, turn in enumerate(plan.turns):
            yield self.env.timeout(max(turn.due - self.env.now, 0.0))
            yield from self._serve(gateway, self.costs.turn)
            question, tokens = self.work.question, self.work.tokens
            said = number * (question + tokens)
            request = _Request(plan.number, question, said, tokens, self.env.event(), self.env.event())
            yield self.env.timeout(self.chance.choice(self.costs.accept))
            engine.submit(request)
            yield request.first
            yield from self._serve(gateway, self.costs.event)
            self.found.first.append(self.env.now - turn.due)
            yield request.done
            yield from self._serve(gateway, self.costs.event * (self.work.tokens - 1))
            self.found.turns += 1
            self.found.seconds = self.env.now

    def _serve(self, gateway: simpy.Resource, seconds: float) -> Steps:
        if seconds:
            with gateway.request() as turn:
                yield turn
                yield from self.machine.serve(seconds)


def simulate(plan: Iterable[Visit], site: Site, costs: Costs, work: Work) -> Simulated:
    """Let the users of a plan come to a site."""
    env = simpy.Environment()
    cluster = _Cluster(env, site, costs, work)

    def come(visits: Sequence[Visit]) -> Steps:
        for each in visits:
            yield env.timeout(max(each.comes - env.now, 0.0))
            env.process(cluster.visit(each))

    env.process(come(list(plan)))
    env.run()
    return cluster.found
