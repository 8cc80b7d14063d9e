"""What a gateway costs: a Loquent without a model before a Loquent that has one, and that one asked directly.

Run with ``make bench``, on an idle machine. Both servers run at the same time, and questions go to the one and the
other in turn, over the same protocol: so a slow minute of the machine is not the gateway's alone. The added time to
first token is the difference of the medians of so many questions of one client; the throughput is that of clients who
ask again at once. The gateway has the same two cores as the model, as it would on one machine.
"""

import asyncio
import json
import statistics
import sys
from collections import defaultdict
from contextlib import AsyncExitStack
from pathlib import Path

from rich.progress import Progress

from bench import loads, pace, results
from bench.clients import HttpClient
from bench.goals import stated
from bench.pace import Pace
from bench.results import Runs, median, ratio, table
from bench.servers import CONFIG, Server, Serving, loquent, serving

STREAMS = 32
QUESTIONS = 25  # of one client, for the time to first token, to each server in a repeat
# Long enough that the tenth of a second for which texts are gathered, and which the end cuts off, counts for little.
USUAL = Pace(repeats=8, seconds=15.0)
REST_SECONDS = 1.0
GATEWAY_PORT = 8791


def gateway(upstream: Server, port: int = GATEWAY_PORT) -> Server:
    """A Loquent that has its language model elsewhere."""
    command = [str(Path(sys.executable).parent / "loquent"), "serve", "--config", str(CONFIG)]
    command += ["--port", str(port), "--log-level", "error", "--engine", f"{upstream.url}/v1"]
    environment = {"LOQUENT__PIPELINE__STAGES": json.dumps(["tools", "chat"])}
    return Server("gateway", command, port, "/readyz", {"SSE": HttpClient}, 0, environment, settle=5.0)


async def first_tokens(servers: dict[str, Serving], seed: int, count: int) -> dict[str, float]:
    """Medians of the time to first token, in milliseconds, of questions that go to each server in turn."""
    firsts: dict[str, list[float]] = defaultdict(list)
    users = {name: server.client("SSE") for name, server in servers.items()}
    for number in range(count):
        order = list(users) if number % 2 else list(users)[::-1]
        for turn, name in enumerate(order):
            reply = await users[name].ask(loads.question(seed + 2 * number + turn), 2)
            firsts[name].append(reply.first * 1000)
    return {name: statistics.median(each) for name, each in firsts.items()}


async def measure(asked: Pace, progress: Progress) -> Runs:
    """Both servers, in turn."""
    runs: Runs = defaultdict(list)
    direct = loquent(stages=["chat"])
    bar = progress.add_task("gateway", total=asked.repeats)
    async with AsyncExitStack() as running:
        servers = {"direct": await running.enter_async_context(serving(direct, results.LOG))}
        servers["gateway"] = await running.enter_async_context(serving(gateway(direct), results.LOG))
        for name, server in servers.items():
            await loads.closed_loop(lambda server=server: server.client("SSE"), 8, 90_000, 1.0)  # type: ignore[misc]
            runs["start", name].append({"seconds": server.start})
        for repeat in range(asked.repeats):
            seed = 1_000_000 * (repeat + 1)
            firsts = await first_tokens(servers, seed, max(int(QUESTIONS * asked.share), 5))
            runs["first",].append(firsts | {"added": firsts["gateway"] - firsts["direct"]})
            order = list(servers) if repeat % 2 else list(servers)[::-1]
            pair: dict[str, float] = {}
            for name in order:
                server = servers[name]
                figures = await loads.closed_loop(
                    lambda server=server: server.client("SSE"),  # type: ignore[misc]
                    STREAMS,
                    seed + 500_000 + 100_000 * order.index(name),
                    asked.seconds,
                )
                runs["closed", name].append(figures)
                pair[name] = figures["tokens"]
                await asyncio.sleep(REST_SECONDS)
            runs["closed", "share"].append({"tokens": ratio(pair["gateway"], pair["direct"])})
            progress.advance(bar)
    return runs


def text(runs: Runs, head: str) -> str:
    """The report."""
    first, share = median(runs["first",]), median(runs["closed", "share"])
    rows = []
    for name in ("direct", "gateway"):
        figures = median(runs["closed", name])
        values = (
            first[name],
            figures["tokens"],
            figures["first50"],
            figures["gap99"],
            runs["start", name][0]["seconds"],
        )
        rows.append([name, *(f"{value:.1f}" for value in values)])
    columns = [
        "asked",
        "first token, ms",
        f"tokens/s, {STREAMS} streams",
        "first token there, ms",
        "between texts p99, ms",
        "start, s",
    ]
    added = f"Added to the first token: {first['added']:.1f} ms (goal {stated('upstream/added')})."
    held = f"Throughput: {share['tokens'] * 100:.1f} % of the direct (goal {stated('upstream/share')})."
    return f"# A gateway before a server with the model\n\n{head}\n\n{table(columns, rows)}\n{added} {held}\n"


def main() -> None:
    """Measure."""
    asked = pace.chosen(pace.parser(__doc__, USUAL).parse_args())
    results.FOLDER.mkdir(parents=True, exist_ok=True)
    with Progress() as progress:
        runs = asyncio.run(measure(asked, progress))
    added, share = median(runs["first",])["added"], median(runs["closed", "share"])["tokens"]
    figures = results.medians(runs) | {"added": added, "share": share * 100}
    results.show("upstream", text(runs, results.head("upstream", f"medians of {asked.repeats}")), figures)


if __name__ == "__main__":
    main()
