"""Many clients at once, on Loquent as it ships and on the engines that people would otherwise pick.

Run with ``make bench``, on an idle machine. One client process, the same for every server; all servers in one run, in
turn, so that a slow minute of the machine is not one server's alone. Tokens are counted by the server's usage, never by
chunks. Clients that ask again at once are measured in every repeat on Loquent's websocket, in the first two on the
peers, in the first over SSE; a long prompt and sessions in every repeat on the websocket; all else in the first. Writes
a Markdown report and a plot.
"""

import asyncio
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field

from rich.progress import Progress

from bench import loads, memory, neighbours, pace, report, results
from bench.clients import Client, RealtimeClient
from bench.machine import Roofline, measure_roofline
from bench.pace import Pace
from bench.peers import PEERS, Missing
from bench.results import Runs
from bench.servers import Server, Serving, loquent, serving

SERVERS: dict[str, Callable[[], Server]] = {"loquent": loquent, **PEERS}
LOADS = ("closed", "poisson", "sessions", "long", "deaf", "memory")
USUAL = Pace(repeats=3, seconds=loads.LOOP_SECONDS)
WARM_SECONDS = 2.0
PEER_REPEATS = 2
REST_SECONDS = 1.0  # in which what was cut ends


@dataclass
class Run:
    """What is measured, and what was found so far."""

    wanted: list[str]
    pace: Pace
    roofline: Roofline
    runs: Runs = field(default_factory=lambda: defaultdict(list))  # by server and way, load, its level
    weights: dict[str, int] = field(default_factory=dict)  # bytes that a server reads a step
    missing: dict[str, str] = field(default_factory=dict)  # servers that were not measured to the end, and why

    async def server(self, server: Server, repeat: int) -> None:
        """One repeat of every load on one server."""
        async with serving(server, results.LOG) as running:
            for way in list(server.ways)[: 1 if repeat else None]:
                self.weights[f"{server.name}, {way}"] = server.weight_bytes
                await self.way(running, way, repeat)

    async def way(self, running: Serving, way: str, repeat: int) -> None:
        """One repeat of every load in one way to talk to the server."""
        name, ours = f"{running.server.name}, {way}", running.server.ways[way] is RealtimeClient
        seed = repeat * 1_000_000 + (0 if ours else 500_000)  # what one way asked is in the prefix cache of the other

        def new() -> Client:
            return running.client(way)

        await loads.closed_loop(new, 8, seed + 90_000, min(WARM_SECONDS, self.pace.seconds))
        if "closed" in self.wanted:
            for level in loads.LEVELS:
                figures = await loads.closed_loop(new, level, seed + level * 1000, self.pace.seconds)
                self.runs[name, "closed", str(level)].append(figures)
                await asyncio.sleep(REST_SECONDS)
        if ours or not repeat:
            await self.conversations(name, new, seed)
        if not repeat:
            await self.arrivals(name, new, seed)
            if "deaf" in self.wanted and ours:
                self.runs[name, "deaf", ""].append(await neighbours.deaf(new, seed + 65_000))
        if "memory" in self.wanted and "Loquent" in name and not repeat:
            figures = await memory.steady(new, running.pid, seed + 80_000, self.pace.share)
            self.runs[name, "memory", ""].append(figures)

    async def conversations(self, name: str, new: loads.New, seed: int) -> None:
        """Sessions, and a long prompt."""
        if "sessions" in self.wanted:
            self.runs[name, "sessions", ""].append(await loads.sessions(new, seed + 50_000))
        if "long" in self.wanted:
            self.runs[name, "long", ""].append(await neighbours.long_prompt(new, seed + 60_000))

    async def arrivals(self, name: str, new: loads.New, seed: int) -> None:
        """Clients that come by chance."""
        if "poisson" in self.wanted:
            for rate in loads.RATES:
                figures = await loads.poisson(new, rate, seed + 70_000 + rate * 1000)
                self.runs[name, "poisson", str(rate)].append(figures)
                await asyncio.sleep(REST_SECONDS)

    async def all(self, servers: list[Server], progress: Progress) -> None:
        """Every repeat, server by server; what is known is written after each."""
        bar = progress.add_task("", total=self.pace.repeats * len(servers))
        for repeat in range(self.pace.repeats):
            for server in servers:
                progress.update(bar, description=f"{server.name}, repeat {repeat + 1}")
                if server.name not in self.missing and (server.name == "Loquent" or repeat < PEER_REPEATS):
                    try:
                        await self.server(server, repeat)
                    except Exception as error:  # a peer that falls over does not take the others' figures with it
                        why = f"it failed in repeat {repeat + 1}, {error!r}; its output is in {results.LOG}"
                        self.missing[server.name] = why
                progress.advance(bar)
                results.write("streams", self.text(), results.medians(self.runs))

    def text(self) -> str:
        """The report so far."""
        head = results.head("streams", f"medians of {self.pace.repeats}, of the peers' {PEER_REPEATS}")
        return report.text(self.runs, self.weights, self.roofline, self.missing, head)


def main() -> None:
    """Measure every server that is there."""
    parser = pace.parser(__doc__, USUAL)
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS), help="which to measure")
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS), help="what to put them under")
    asked = parser.parse_args()
    results.FOLDER.mkdir(parents=True, exist_ok=True)
    servers, missing = available(asked.servers)
    run = Run(asked.loads, pace.chosen(asked), measure_roofline(), missing=missing)
    with Progress() as progress:
        asyncio.run(run.all(servers, progress))
    report.plot(run.runs, results.FOLDER / "streams.svg", results.head("streams"))
    results.show("streams", run.text(), results.medians(run.runs))


def available(names: list[str]) -> tuple[list[Server], dict[str, str]]:
    """The servers that are installed, or can be, and why the others can't."""
    servers: list[Server] = []
    missing: dict[str, str] = {}
    for name in names:
        try:
            servers.append(SERVERS[name]())
        except Missing as error:
            missing[name] = str(error)
            print(f"{name} can't be measured: {error}", file=sys.stderr)
    return servers, missing


if __name__ == "__main__":
    main()
