"""Ray Serve on this machine: what a message costs that passes it, and what is lost while replicas die.

Run ``python -m bench.cluster``, on an idle machine, where Ray and PostgreSQL are installed. Two gateways, two engines:

- overhead: a Realtime event and its answer, over Serve and directly from a server with the same settings, in turn;
- faults: so many websockets that converse, a rolling redeploy, and kills of random replicas. No acknowledged item may
  be lost, every reply must end, and nothing may be left behind at the end.
"""

import argparse
import asyncio
import json
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from bench import results
from bench.faults.postgres import postgres
from bench.faults.process import Process
from bench.faults.stories import Found, Telling, stories

KINDS = ("gateway", "engine")
EACH = 2  # replicas of each kind
STREAMS = 32
SETTINGS: dict[str, Any] = {
    "pipeline.stages": ["chat"],
    "listening.model": "",
    "chat.threads": 1,
    "chat.streams": STREAMS,
    "chat.waiting": 1024,
    "history.patience": 30,
    "limits.address_connections": 0,
    "server.drain": 20,
    "ray.gateways": [EACH, EACH],
    "ray.engines": [EACH, EACH],
    "ray.gateway_requests": 1000,
}
MESSAGES = 500  # each way, for the overhead
# Serve's mode in which HAProxy passes requests to replicas at once, and no process of Python is between.
HAPROXY = {
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "2",
}
REPLACED = "The replicas are replaced"
REDEPLOY_SECONDS = 240.0
BACK_SECONDS = 180.0  # until a replica that was killed is replaced
LEFT_SECONDS = 10.0  # in which everything ends behind the command
WARM_UP = 20


@dataclass
class Cluster(Process):
    """``loquent serve --on ray``, and the processes below it."""

    more: tuple[str, ...] = ("--on", "ray")
    stop_seconds: float = 120.0
    seen: dict[int, psutil.Process] = field(default_factory=dict)  # every process that it ever had

    def look(self) -> None:
        """Note the processes that there are now."""
        with suppress(psutil.Error):
            for each in self.running.children(recursive=True):
                self.seen.setdefault(each.pid, each)

    def replicas(self, kind: str) -> list[psutil.Process]:
        """Those of a kind that run."""
        self.look()
        return [each for each in self.seen.values() if _named(each, f"ray::ServeReplica:loquent:{kind}")]

    @property
    def left(self) -> list[str]:
        """What still runs."""
        return [_command(each) for each in self.seen.values() if _runs(each)]


def _runs(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _command(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())[:120] or process.name()
    return ""


def _named(process: psutil.Process, name: str) -> bool:
    return _runs(process) and _command(process).startswith(name)


@asynccontextmanager
async def cluster(
    store: str,
    folder: str,
    log: Path,
    *,
    haproxy: bool = False,
    environment: Mapping[str, str] | None = None,
    **settings: Any,
) -> AsyncIterator[Cluster]:
    """A cluster that serves while the block runs, and has ended behind it."""
    whole = {"RAY_TMPDIR": folder} | (HAPROXY if haproxy else {}) | dict(environment or {})
    made = Cluster({**SETTINGS, "history.store": store, **settings}, log=log, environment=whole)
    made.start()
    try:
        await made.ready()
        made.look()
        yield made
    finally:
        made.look()
        if made.alive:
            await asyncio.to_thread(made.end)


async def overhead(over: str, directly: str, messages: int = MESSAGES) -> dict[str, float]:
    """Medians of an event and its answer, in milliseconds, which go to each in turn."""
    took: dict[str, list[float]] = {"serve": [], "direct": []}
    event = json.dumps({"type": "conversation.item.retrieve", "item_id": "none"})
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"{over}/v1/realtime") as serve,
        http.ws_connect(f"{directly}/v1/realtime") as direct,
    ):
        for socket in (serve, direct):
            await socket.receive(timeout=30)
            await socket.receive(timeout=30)
        for number in range(WARM_UP + messages):
            for name, socket in (("serve", serve), ("direct", direct)):
                begun = time.perf_counter()
                await socket.send_str(event)
                await socket.receive(timeout=30)
                if number >= WARM_UP:
                    took[name].append((time.perf_counter() - begun) * 1000)
    figures = {name: statistics.median(each) for name, each in took.items()}
    tail = {f"{name}95": sorted(each)[int(0.95 * len(each))] for name, each in took.items()}
    return figures | tail | {"added": figures["serve"] - figures["direct"]}


async def faults(server: Cluster, telling: Telling, kills: int, *, redeploy: bool, seed: int = 1) -> Found:
    """Converse while the replicas are replaced, and while random ones are killed."""
    chance = random.Random(seed)
    async with stories(server, telling) as found:
        await asyncio.sleep(2.0)
        if redeploy:
            await _redeploy(server)
        for number in range(kills):
            kind = KINDS[number % 2] if number < len(KINDS) else chance.choice(KINDS)
            killed = chance.choice(server.replicas(kind))
            killed.kill()
            print(f"{number + 1}. kill: a {kind}; {found.turns} turns so far", file=sys.stderr)
            await _back(server, kind)
            await asyncio.sleep(chance.uniform(0.0, 2.0))
    return found


async def _redeploy(server: Cluster) -> None:
    """Replace every replica, one after the other."""
    before = server.log.read_text(errors="replace").count(REPLACED)
    server.running.send_signal(signal.SIGHUP)
    async with asyncio.timeout(REDEPLOY_SECONDS):
        while server.log.read_text(errors="replace").count(REPLACED) == before:
            server.look()
            await asyncio.sleep(0.5)


async def _back(server: Cluster, kind: str) -> None:
    """Wait until there are as many as before, and one answers."""
    async with asyncio.timeout(BACK_SECONDS):
        while len(server.replicas(kind)) < EACH:  # noqa: ASYNC110 - of other processes
            await asyncio.sleep(0.25)
        await server.ready()


async def left(server: Cluster) -> list[str]:
    """The processes that the cluster has left behind."""
    until = time.monotonic() + LEFT_SECONDS
    while (found := server.left) and time.monotonic() < until:  # noqa: ASYNC110 - of other processes
        await asyncio.sleep(0.25)
    return found


async def measure(asked: argparse.Namespace, store: str, folder: str) -> tuple[str, dict[str, float], bool]:
    """Both parts; the report, its figures, and whether nothing was lost."""
    log = results.FOLDER / "cluster.log"
    direct = Process({**SETTINGS, "history.store": store}, log=log)
    async with cluster(store, folder, log, haproxy=asked.haproxy) as server:
        direct.start()
        try:
            await direct.ready()
            cost = await overhead(server.url, direct.url)
        finally:
            direct.end()
        telling = Telling(
            asked.sockets, turns=1000, tokens=asked.tokens, pause=asked.pause, patient=True, may_fail=True
        )
        found = await faults(server, telling, asked.kills, redeploy=True, seed=asked.seed)
    wrong = [*found.wrong, *(f"left behind: {each}" for each in await left(server))]
    rows = [[name, f"{cost[name]:.2f}", f"{cost[name + '95']:.2f}"] for name in ("direct", "serve")]
    text = results.table(["an event and its answer", "p50, ms", "p95, ms"], rows)
    text += (
        f"\nServe adds {cost['added']:.2f} ms at p50 (goal ≤ 3).\n\n{asked.sockets} websockets, a rolling redeploy and "
        f"{asked.kills} kills: {found.turns} turns, {found.incomplete} ended as incomplete, {found.failed} as failed, "
        f"{found.items} items acknowledged, the longest turn {found.longest:.1f} s: {len(wrong)} wrong\n"
    )
    figures = cost | {"turns": found.turns, "incomplete": found.incomplete, "failed": found.failed, "wrong": len(wrong)}
    return "\n".join([text, *wrong]), figures, not wrong


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sockets", type=int, default=200)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--tokens", type=int, default=16, help="of a reply")
    parser.add_argument("--pause", type=float, default=60.0, help="seconds before a turn, at most")
    parser.add_argument("--haproxy", action="store_true", help="Serve's mode with HAProxy, see docs/ray.md")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    results.FOLDER.mkdir(parents=True, exist_ok=True)
    with postgres() as database, tempfile.TemporaryDirectory(prefix="ray-") as folder:
        if database is None:
            raise SystemExit("PostgreSQL is not installed (Debian: apt install postgresql).")
        text, figures, well = asyncio.run(measure(asked, database.new_database(), folder))
    results.show("cluster", f"# Ray Serve\n\n{results.head('cluster')}\n\n{text}", figures)
    raise SystemExit(not well)


if __name__ == "__main__":
    main()
