"""What each stage costs: the shipped default and parts of it beside the language model alone, over the websocket.

Run with ``make bench``, on an idle machine. The servers run all at once, those that are not asked wait; each level is
measured on all of them in turn before the next, so that a slow minute of the machine is not one server's alone. A ratio
is the median of those within each repeat.
"""

import asyncio
from collections import defaultdict
from contextlib import AsyncExitStack

from rich.progress import Progress

from bench import loads, pace, results
from bench.pace import Pace
from bench.results import Runs, median, ratio, table
from bench.servers import Serving, loquent, serving

ALONE, SHIPPED = "chat", "all, as shipped"
VARIANTS: dict[str, tuple[str, ...]] = {  # the stages of each; none given: the configuration's
    ALONE: ("chat",),
    "speech + chat": ("speech", "chat"),
    "anomaly + chat": ("anomaly", "chat"),
    "image + chat": ("image", "chat"),
    SHIPPED: (),
}
RATIOS = ("tokens", "first95", "gap99")
PORT = 8800
USUAL = Pace(repeats=3, seconds=5.0)
REST_SECONDS = 1.0


async def measure(asked: Pace, progress: Progress) -> Runs:
    """Each level of each variant, in turn, as often as asked: ``("closed", variant, level)``."""
    runs: Runs = defaultdict(list)
    bar = progress.add_task("starting", total=asked.repeats * len(loads.LEVELS) * len(VARIANTS))
    async with AsyncExitStack() as stack:
        servers: list[Serving] = []
        for number, (name, stages) in enumerate(VARIANTS.items()):
            server = loquent(name, stages=stages, port=PORT + number)
            servers.append(await stack.enter_async_context(serving(server, results.LOG)))
            await loads.closed_loop(servers[-1].client, 8, 90_000, min(2.0, asked.seconds))  # warm
        for repeat in range(asked.repeats):
            for level in loads.LEVELS:
                for serves in servers[repeat:] + servers[:repeat]:
                    name = serves.server.name
                    progress.update(bar, description=f"{name}, {level} clients, repeat {repeat + 1}")
                    seed = repeat * 1_000_000 + level * 1000
                    figures = await loads.closed_loop(serves.client, level, seed, asked.seconds)
                    runs["closed", name, str(level)].append(figures)
                    progress.advance(bar)
                    await asyncio.sleep(REST_SECONDS)
    return runs


def ratios(runs: Runs) -> Runs:
    """Of each run to that of the language model alone at the same level in the same repeat: ``("ratio", …)``."""
    found: Runs = {}
    for (_, name, level), figures in runs.items():
        pairs = zip(figures, runs["closed", ALONE, level], strict=True)
        found["ratio", name, level] = [{key: ratio(own[key], alone[key]) for key in RATIOS} for own, alone in pairs]
    return found


def text(runs: Runs, head: str) -> str:
    """The report, in Markdown."""
    rows = []
    for level in map(str, loads.LEVELS):
        for name in VARIANTS:
            own, to_chat = median(runs["closed", name, level]), median(runs["ratio", name, level])
            figures = (f"{own['tokens']:.0f}", f"{own['first95']:.0f}", f"{own['gap99']:.1f}")
            rows.append([level, name, *figures, *(f"{to_chat[key]:.2f} ×" for key in RATIOS)])
    columns = ["clients", "stages", "tokens/s", "first token p95 ms", "between texts p99 ms"]
    columns += ["tokens/s, to chat alone", "first token p95", "between texts p99"]
    return f"# What each stage costs\n\n{head}\n\n{table(columns, rows)}"


def main() -> None:
    """Measure every variant."""
    asked = pace.chosen(pace.parser(__doc__, USUAL).parse_args())
    results.FOLDER.mkdir(parents=True, exist_ok=True)
    with Progress(transient=True) as progress:
        runs = asyncio.run(measure(asked, progress))
    runs |= ratios(runs)
    results.show("stages", text(runs, results.head("stages", f"medians of {asked.repeats}")), results.medians(runs))


if __name__ == "__main__":
    main()
