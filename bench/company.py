"""What is left of the speed beside a busy process, one that computes without pause, as on machines that others use.

Run with ``make bench``, on an otherwise idle machine. Each level is measured alone and beside the busy process, in
turn; what a server holds on to is the median of those shares within each repeat. Besides, Loquent's other loads alone
and in this company.
"""

import asyncio
import subprocess
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext

from rich.progress import Progress

from bench import loads, neighbours, pace, results
from bench.pace import Pace
from bench.results import Figures, Runs, median, ratio, table
from bench.servers import Server, Serving, serving
from bench.streams import SERVERS, available

LEVELS = (4, 16)  # clients at a time
USUAL = Pace(repeats=2, seconds=5.0)
REST_SECONDS = 1.0
SPIN = "import os\nparent = os.getppid()\nwhile os.getppid() == parent:\n for _ in range(10**6): pass"
LOAD_FIGURES = {  # of the other loads, those that the table shows, with their units
    "sessions": (("tokens", "tokens/s"), ("later95", "ms, first token of later turns p95")),
    "long": (("first", "ms, its first token"), ("with99", "ms, between the others' texts p99 meanwhile")),
    "poisson": (("good", "answered well a second"), ("first95", "ms, first token p95")),
}

Load = Callable[[loads.New, int], Awaitable[Figures]]


@contextmanager
def busy() -> Iterator[None]:
    """Another process that computes on one core, on whichever the system gives it; it ends with the block."""
    process = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        yield
    finally:
        process.kill()
        process.wait()


async def closed(serves: Serving, asked: Pace, runs: Runs) -> None:
    """Clients that ask again at once: ``(alone or beside, server, level)``."""
    name = serves.server.name
    await loads.closed_loop(serves.client, 8, 90_000, min(2.0, asked.seconds))  # warm
    await asyncio.sleep(REST_SECONDS)
    for repeat in range(asked.repeats):
        for level in LEVELS:
            pair = {}
            for company in ("alone", "beside"):
                seed = repeat * 1_000_000 + level * 1000 + (500 if company == "beside" else 0)
                with busy() if company == "beside" else nullcontext():
                    pair[company] = await loads.closed_loop(serves.client, level, seed, asked.seconds)
                runs[company, name, str(level)].append(pair[company])
                await asyncio.sleep(REST_SECONDS)
            share = ratio(pair["beside"]["tokens"], pair["alone"]["tokens"])
            runs["share", name, str(level)].append({"tokens": share})


async def others(serves: Serving, runs: Runs) -> None:
    """The other loads, once alone and once beside: ``("other", alone or beside, load)``."""
    every: dict[str, Load] = {
        "sessions": loads.sessions,
        "long": neighbours.long_prompt,
        "poisson": lambda new, seed: loads.poisson(new, loads.RATES[0], seed),
    }
    for number, (load, put) in enumerate(every.items()):
        for company in ("alone", "beside"):
            seed = 5_000_000 + number * 100_000 + (50_000 if company == "beside" else 0)
            with busy() if company == "beside" else nullcontext():
                runs["other", company, load].append(await put(serves.client, seed))
            await asyncio.sleep(REST_SECONDS)


async def measure(servers: list[Server], asked: Pace, missing: dict[str, str], progress: Progress) -> Runs:
    """Every server in turn."""
    runs: Runs = defaultdict(list)
    bar = progress.add_task("", total=len(servers))
    for server in servers:
        progress.update(bar, description=server.name)
        try:
            async with serving(server, results.LOG) as serves:
                await closed(serves, asked, runs)
                if server.name == "Loquent":
                    await others(serves, runs)
        except Exception as error:  # a peer that falls over does not take the others' figures with it
            missing[server.name] = f"it failed, {error!r}; its output is in {results.LOG}"
        progress.advance(bar)
    return runs


def text(runs: Runs, missing: dict[str, str], head: str) -> str:
    """The report, in Markdown."""
    rows = []
    for level in map(str, LEVELS):
        for name in [name for kind, name, at in runs if kind == "share" and at == level]:
            alone, beside = median(runs["alone", name, level]), median(runs["beside", name, level])
            share = median(runs["share", name, level])["tokens"]
            speeds = (f"{alone['tokens']:.0f}", f"{beside['tokens']:.0f}", f"{share:.2f}")
            rows.append([level, name, *speeds, f"{alone['gap99']:.1f}", f"{beside['gap99']:.1f}"])
    columns = ["clients", "server", "tokens/s alone", "beside a busy process", "share"]
    columns += ["between texts p99 ms, alone", "beside it"]
    lines = ["# Beside a busy process", "", head, *([""] if missing else [])]
    lines += [f"- {name} was not measured to the end: {why}" for name, why in missing.items()]
    lines += ["", table(columns, rows)]
    if any(kind == "other" for kind, *_ in runs):
        lines += ["## Loquent's other loads, once", "", table(["load", "figure", "alone", "beside"], _others(runs))]
    return "\n".join(lines)


def _others(runs: Runs) -> Iterator[list[str]]:
    for load, shown in LOAD_FIGURES.items():
        alone, beside = runs["other", "alone", load][0], runs["other", "beside", load][0]
        for figure, unit in shown:
            yield [load, unit, f"{alone[figure]:.1f}", f"{beside[figure]:.1f}"]


def main() -> None:
    """Measure every server that is there."""
    parser = pace.parser(__doc__, USUAL)
    parser.add_argument("--servers", nargs="+", choices=SERVERS, default=list(SERVERS), help="which to measure")
    parsed = parser.parse_args()
    asked = pace.chosen(parsed)
    results.FOLDER.mkdir(parents=True, exist_ok=True)
    servers, missing = available(parsed.servers)
    with Progress(transient=True) as progress:
        runs = asyncio.run(measure(servers, asked, missing, progress))
    head = results.head("company", f"medians of {asked.repeats}")
    results.show("company", text(runs, missing, head), results.medians(runs))


if __name__ == "__main__":
    main()
