"""Many clients at once, on Loquent and on the engines that people would otherwise pick.

Run with ``make bench``, on an idle machine. One client process, the same for every server; all servers in one run, in
turn, so that a slow minute of the machine is nobody's alone. Tokens are counted as the server's usage tells them, never
chunks. Writes a Markdown report and a plot.
"""

import argparse
import asyncio
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from rich.progress import Progress, TaskID

from bench import loads
from bench.clients import Client, RealtimeClient
from bench.loads import Figures
from bench.machine import Roofline, machine, measure_roofline
from bench.peers import SERVERS, Connect, Missing, Server

READY_SECONDS = 600.0
LOADS = ("closed", "poisson", "sessions", "long", "deaf", "memory")
GROWN_KIB = 1.0  # a request, at most
PARAMETERS = 134.5e6
CACHE_BYTES = 23_040 * 100  # of a stream: keys and values of one token, times the tokens in mid-reply

Row = Callable[[str, str, Figures], list[str]]
Key = tuple[str, str, str]  # server and way, load, its level
Results = dict[Key, list[Figures]]


async def measure(server: Server, wanted: list[str], seed: int, log: Path, results: Results) -> None:
    """One repeat of every load on one server."""
    with server.running(log) as process:
        pid = process.pid
        async with loads.listening(server.url, server.health, READY_SECONDS, process.poll) as http:
            for way, connect in server.ways.items():
                name = f"{server.name}, {way}"

                def new(connect: Connect = connect) -> Client:
                    return connect(http, server.url)

                await loads.closed_loop(new, 8, seed + 90_000, seconds=2.0)  # warm
                if "closed" in wanted:
                    for level in loads.LEVELS:
                        figures = await loads.closed_loop(new, level, seed + level * 1000)
                        await asyncio.sleep(1.0)  # what was cut has ended
                        results[name, "closed", str(level)].append(figures)
                if "sessions" in wanted:
                    results[name, "sessions", ""].append(await loads.sessions(new, seed + 50_000))
                if "long" in wanted:
                    results[name, "long", ""].append(await loads.long_prompt(new, seed + 60_000))
                if "deaf" in wanted and connect is RealtimeClient:
                    results[name, "deaf", ""].append(await loads.deaf(new, seed + 65_000))
                if "poisson" in wanted:
                    for rate in loads.RATES:
                        figures = await loads.poisson(new, rate, seed + 70_000 + rate * 1000)
                        results[name, "poisson", str(rate)].append(figures)
                        await asyncio.sleep(1.0)
                if "memory" in wanted and "Loquent" in name and not results[name, "memory", ""]:
                    results[name, "memory", ""].append(await loads.steady(new, pid, seed + 80_000))


def median(figures: list[Figures]) -> Figures:
    """Figure by figure, over the repeats."""
    return {key: statistics.median(each[key] for each in figures) for key in figures[0]}


def report(results: Results, weights: dict[str, int], roofline: Roofline, missing: dict[str, str], head: str) -> str:
    """The tables, in Markdown."""
    lines = ["# Many clients at once", "", head, ""]
    lines += [f"- {name} was not measured to the end: {why}" for name, why in missing.items()] + [""]

    def table(load: str, title: str, columns: list[str], row: Row) -> None:
        chosen = [(name, level, median(figures)) for (name, kind, level), figures in results.items() if kind == load]
        if not chosen:
            return
        chosen.sort(key=lambda each: (float(each[1] or 0), -each[2].get("tokens", 0)))
        lines.extend([f"## {title}", "", "| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)])
        lines.extend("| " + " | ".join(row(name, level, figures)) + " |" for name, level, figures in chosen)
        lines.append("")

    def closed(name: str, level: str, f: Figures) -> list[str]:
        bound = roofline.tokens_per_second(int(level), weights=weights[name], parameters=PARAMETERS, cache=CACHE_BYTES)
        return [level, name, f"{f['tokens']:.0f}", f"{f['first50']:.0f}", f"{f['first95']:.0f}", f"{f['gap50']:.1f}",
                f"{f['gap99']:.1f}", f"{f['tokens'] / bound:.0%}", f"{f['cpu']:.0f} %"]  # fmt: skip

    table(
        "closed",
        f"Clients that ask again at once, {loads.TOKENS} tokens a reply",
        ["clients", "server", "tokens/s", "first token p50 ms", "p95 ms", "between texts p50 ms", "p99 ms",
         "of the roofline", "client's CPU"],
        closed,
    )  # fmt: skip
    table(
        "poisson",
        f"Clients that come by chance, {loads.ARRIVING_SECONDS:.0f} s of them",
        ["a second", "server", "answered well a second", "first token p95 ms", "refused", "not answered in time"],
        lambda name, level, f: [level, name, f"{f['good']:.1f} of {f['arrived']:.1f}", f"{f['first95']:.0f}",
                                f"{f['refused']:.0f}", f"{f['late']:.0f}"],
    )  # fmt: skip
    table(
        "sessions",
        f"{loads.SESSIONS} sessions of {loads.TURNS} turns behind the same instructions",
        ["server", "tokens/s", "first token, first turn p50 ms", "later turns p50 ms", "p95 ms", "last prompt, tokens"],
        lambda name, _, f: [name, f"{f['tokens']:.0f}", f"{f['first']:.0f}", f"{f['later50']:.0f}",
                            f"{f['later95']:.0f}", f"{f['prompt']:.0f}"],
    )  # fmt: skip
    table(
        "long",
        f"A long prompt that comes among {loads.NEIGHBOURS} streams",
        ["server", "prompt, tokens", "its first token ms", "between the others' texts p99 ms", "while it is read",
         "ratio"],
        lambda name, _, f: [name, f"{f['prompt']:.0f}", f"{f['first']:.0f}", f"{f['without99']:.1f}",
                            f"{f['with99']:.1f}", f"{f['ratio']:.2f}"],
    )  # fmt: skip
    table(
        "deaf",
        f"A client that asks for much and does not read, beside {loads.LISTENERS} streams",
        ["server", "between the others' texts p99 ms, while it reads", "while it does not"],
        lambda name, _, f: [name, f"{f['reading99']:.1f}", f"{f['deaf99']:.1f}"],
    )
    table(
        "memory",
        f"Memory, after {loads.TOUCHING_REQUESTS:,} short requests and over {loads.STEADY_REQUESTS:,} more, once",
        ["server", "the first ones touch MiB", "KiB more a request", "goal", "MiB at the end"],
        lambda name, _, f: [name, f"{f['touched']:.0f}", f"{f['grown']:.2f}", f"≤ {GROWN_KIB:.0f}", f"{f['now']:.0f}"],
    )
    lines += [
        f"Of the roofline: tokens a second as a share of what the memory ({roofline.bandwidth / 1e9:.0f} GB/s) and the "
        f"arithmetic ({roofline.flops / 1e12:.2f} TFLOP/s in bfloat16), both measured in this run, allow when a step "
        "reads the server's weights once; reading prompts and the client's own work count against the server. Answered "
        f"well: first token within {loads.FIRST_SECONDS:.0f} s, then at most {loads.EACH_SECONDS * 1000:.0f} ms a "
        "token. llama.cpp's server and OpenVINO read the same 4-bit file as Loquent, vLLM the weights as bfloat16. On "
        "processors with AMX llama.cpp runs with `--no-repack`, because it crashes without.",
        "",
    ]
    return "\n".join(lines)


def plot(results: Results, path: Path, head: str) -> None:
    """Tokens a second by clients, and good answers by arrivals."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    for axes, load, figure_name in ((left, "closed", "tokens"), (right, "poisson", "good")):
        lines: dict[str, list[tuple[float, float]]] = defaultdict(list)
        for (name, kind, level), figures in results.items():
            if kind == load:
                lines[name].append((float(level), median(figures)[figure_name]))
        for name, points in lines.items():
            axes.plot(*zip(*points, strict=True), marker="o", label=name, lw=2.5 if "Loquent" in name else 1.5)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    left.set(xlabel="clients", ylabel="tokens a second", xticks=loads.LEVELS)
    right.set(xlabel="requests a second", ylabel="answered well a second", xticks=loads.RATES)
    left.legend()
    figure.suptitle(head.split(";")[0], fontsize=9)
    figure.savefig(path)


async def run(
    chosen: argparse.Namespace,
    servers: list[Server],
    results: Results,
    missing: dict[str, str],
    progress: Progress,
    write: Callable[[], object],
) -> None:
    """Every repeat, server by server; what is known is written after each."""
    bar: TaskID = progress.add_task("", total=chosen.repeats * len(servers))
    for repeat in range(chosen.repeats):
        for server in servers:
            progress.update(bar, description=f"{server.name}, repeat {repeat + 1}")
            if server.name not in missing:
                try:
                    await measure(server, chosen.loads, repeat * 1_000_000, chosen.out / "servers.log", results)
                except Exception as error:  # a peer that falls over does not take the others' figures with it
                    log = chosen.out / "servers.log"
                    missing[server.name] = f"it failed in repeat {repeat + 1}, {error!r}; its log is {log}"
            progress.advance(bar)
            write()


def main() -> None:
    """Measure every server that is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each load, of which the median counts")
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS), help="which to measure")
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=list(LOADS), help="what to put them under")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="the folder for the report")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    servers: list[Server] = []
    missing: dict[str, str] = {}
    for name in chosen.servers:
        try:
            servers.append(SERVERS[name]())
        except Missing as error:
            missing[name] = str(error)
    weights = {f"{server.name}, {way}": server.weight_bytes for server in servers for way in server.ways}
    results: Results = defaultdict(list)
    roofline = measure_roofline()
    command = " ".join(["python -m bench.streams", *sys.argv[1:]])
    head = f"{machine()}; {datetime.now(UTC):%Y-%m-%d}; `{command}`, medians of {chosen.repeats}"

    def write() -> str:
        text = report(results, weights, roofline, missing, head)
        (chosen.out / "streams.md").write_text(text)
        return text

    with Progress() as progress:
        asyncio.run(run(chosen, servers, results, missing, progress, write))
    text = write()
    plot(results, chosen.out / "streams.svg", head)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
