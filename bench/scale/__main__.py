"""What one more gateway or engine brings, by simulation; and whether the simulation is right, by measuring.

    python -m bench.scale measure                      # this machine's costs, into bench/results/costs.json
    python -m bench.scale predict --sessions 100 1000 10000
    python -m bench.scale predict --weights 16e9 --parameters 8e9 --bandwidth 3.3e12 --flops 4e14   # a GPU
    python -m bench.scale check                        # 1, 2 and 4 engines on this machine: measured and simulated

``predict`` looks for the fewest engines and gateways with which 95 of 100 first texts come within --goal. ``check``
starts engines of one thread each behind a gateway, puts ``bench.load``'s users on it, and lets the same users come to
the simulation.
"""

import argparse
import asyncio
import resource
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import median

import psutil
from rich.progress import Progress

from bench import results
from bench.load.figures import Measured, quantile
from bench.load.plan import Load, visits
from bench.load.processes import run
from bench.load.user import Target
from bench.results import Figures, table
from bench.scale import costs as of
from bench.scale.costs import Costs
from bench.scale.measure import engine, gateway, measure, shared_cores
from bench.scale.model import Simulated, Site, Work, simulate
from bench.servers import serving

COSTS = results.FOLDER / "costs.json"
SHIPPED = Path("bench/data/costs.json")  # of two cores of an AMD EPYC
ENGINES = (1, 2, 4)  # that are checked
HOW = ("measured", "simulated")
TURNS, THINK = 4, 5.0
QUESTION = 40  # tokens, with what the template puts around them
STRAGGLING = 10.0  # seconds behind the last user's stay, after which a site does not keep up
MOST_USERS = 4000  # of one simulation; a larger site is simulated in equal parts
MOST = 100_000  # engines that are looked through


def options(arguments: Sequence[str]) -> argparse.Namespace:
    """What the command line asks for."""
    parser = argparse.ArgumentParser(
        "python -m bench.scale", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("what", choices=["measure", "predict", "check"])
    parser.add_argument("--costs", type=Path, default=COSTS, help="a file of measured costs (bench/results/costs.json)")
    parser.add_argument("--sessions", type=int, nargs="+", default=[100, 1000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--goal", type=float, default=1.0, help="seconds to the first text, of 95 in 100 (1)")
    parser.add_argument("--tokens", type=int, default=64, help="of a reply (64)")
    parser.add_argument("--share", type=float, default=0.6, help="of the time that engines compute, in `check` (0.6)")
    parser.add_argument("--seconds", type=float, default=60.0, help="in which users come, in `check` (60)")
    for name, meaning in (
        ("weights", "bytes of an engine's weights: predict by its roofline instead of what was measured"),
        ("parameters", "that each token is multiplied with"),
        ("cache", "bytes that a stream's tokens are attended to"),
        ("bandwidth", "bytes a second of the engine's memory"),
        ("flops", "operations a second of the engine"),
    ):
        parser.add_argument(f"--{name}", type=float, default=0.0, help=meaning)
    parser.add_argument("--streams", type=int, default=256, help="at a time, of an engine by its roofline (256)")
    return parser.parse_args(arguments)


def load_of(sessions: float, nominal: float, seconds: float) -> Load:
    """Users who write, and think between their turns."""
    return Load(max(round(sessions), 1), seconds, TURNS, THINK, nominal, speech=0.0, audio=0.0, seed=0)


def p95(values: Sequence[float]) -> float:
    """The 95th percentile."""
    return quantile(sorted(values), 0.95) if values else float("inf")


def predict(asked: argparse.Namespace, costs: Costs) -> str:
    """A table of the fewest engines and gateways for so many sessions."""
    rows = []
    work = Work(asked.tokens, QUESTION)
    nominal = asked.tokens * costs.pass_seconds(min(costs.streams, 8))
    for sessions in asked.sessions:
        engines, gateways, found, parts = fewest(sessions, costs, work, nominal, asked.goal)
        load = found.utilisation(max(engines // parts, 1))
        rows.append(
            [f"{sessions:,}", f"{engines:,}", f"{gateways:,}", f"{p95(found.first) * 1000:,.0f}", f"{load:.0%}"]
        )
    return table(["sessions", "engines", "gateways", "first text p95, ms", "an engine computes"], rows)


def fewest(sessions: int, costs: Costs, work: Work, nominal: float, goal: float) -> tuple[int, int, Simulated, int]:
    """Engines, gateways, what was simulated of them, and in how many equal parts the site was taken.

    Raises: ValueError where an engine alone, with one user, does not reach the goal.
    """
    parts = -(-sessions // MOST_USERS)
    load = load_of(sessions / parts, nominal, 60.0)
    plan = list(visits(load))
    turns = load.rate * TURNS  # a second
    engines = max(int(turns * work.tokens / costs.tokens_per_second()), 1)
    computing = turns * (costs.turn + costs.event * work.tokens)
    gateways = max(int(computing / 0.7) + 1, 1)
    while engines * parts <= MOST:
        found = simulate(plan, Site(engines, gateways), costs, work)
        if p95(found.first) <= goal:
            return engines * parts, gateways * parts, found, parts
        engines += max(engines // 8, 1)
    raise ValueError(f"no number of engines answers {sessions:,} sessions within {goal:g} s")


async def check(asked: argparse.Namespace, costs: Costs, progress: Progress) -> tuple[str, Figures]:
    """Engines of one thread each on this machine's cores, behind one gateway: measured, and simulated."""
    rows = []
    figures: Figures = {}
    bar = progress.add_task("engines", total=len(ENGINES))
    for count in ENGINES:
        load = busy(count, asked, costs, Work(asked.tokens, QUESTION), float(psutil.cpu_count() or 1))
        measured, cores, taken, used = await _measured(count, load, asked.tokens, costs)
        first = measured.times["first"]
        work = Work(asked.tokens, round(measured.read / max(measured.outcomes["completed"], 1)))
        users = max(taken - _gateways(costs, measured), 0.0)
        found = simulate(visits(load), Site(count, 1, max(cores - users, 0.1)), costs, work)
        pairs = {
            "p50": (median(first) * 1000, median(found.first) * 1000),
            "p95": (p95(first) * 1000, p95(found.first) * 1000),
            "busy": (used / count / costs.cores * 100, found.computing / found.seconds / count * 100),
        }
        figures |= {f"{count}/{name}/measured": pair[0] for name, pair in pairs.items()}
        figures |= {f"{count}/{name}/simulated": pair[1] for name, pair in pairs.items()}
        figures[f"{count}/off"] = pairs["p95"][1] / pairs["p95"][0]
        row = [str(count), f"{cores:.2f}", str(load.sessions), str(work.question), f"{taken:.2f}"]
        row += [f"{value:.0f}" for pair in pairs.values() for value in pair]
        rows.append([*row, f"{figures[f'{count}/off']:.2f} ×"])
        progress.advance(bar)
    columns = [
        "engines",
        "cores that they have",
        "sessions",
        "tokens read a turn",
        "cores of the gateway and the users",
    ]
    columns += [f"{name}, {how}" for name in ("first text p50, ms", "p95, ms", "computing, %") for how in HOW]
    return table([*columns, "off"], rows), figures


def busy(count: int, asked: argparse.Namespace, costs: Costs, work: Work, cores: float) -> Load:
    """As many users as keep so many engines, which share the cores, busy for ``--share`` of the time."""
    nominal = asked.tokens * costs.pass_seconds(4)
    least, most = 1, 4000
    while most - least > max(least // 50, 1):
        sessions = (least + most) // 2
        load = load_of(sessions, nominal, asked.seconds)
        found = simulate(visits(load), Site(count, 1, cores), costs, work)
        keeps_up = found.seconds < asked.seconds + load.stay + STRAGGLING
        if keeps_up and found.utilisation(count) <= asked.share:
            least = sessions
        else:
            most = sessions
    return load_of(least, nominal, asked.seconds)


async def _measured(count: int, load: Load, tokens: int, costs: Costs) -> tuple[Measured, float, float, float]:
    """What was measured, and how many cores there are, the gateway and the users took, and the engines."""
    engines = [engine(number, threads=1) for number in range(count)]
    async with AsyncExitStack() as running:
        started = [await running.enter_async_context(serving(each, results.LOG)) for each in engines]
        cores = await shared_cores(started, costs) if count > 1 else float(psutil.cpu_count() or 1)
        front = await running.enter_async_context(serving(gateway(engines), results.LOG))
        target = Target(front.server.url, "", "default", tokens, b"", 0.0)
        process = psutil.Process(front.pid)
        computing = [psutil.Process(each.pid) for each in started]
        begun, used, before = time.monotonic(), _seconds(process), _all(computing)
        measured = await asyncio.to_thread(run, load, target, 1)
        seconds = time.monotonic() - begun
        taken, computed = (_seconds(process) - used) / seconds, (_all(computing) - before) / seconds
    missed = {outcome: n for outcome, n in measured.outcomes.items() if outcome != "completed"}
    if missed:
        sys.stderr.write(f"{count} engines: {missed}\n")
    return measured, cores, taken, computed


def _gateways(costs: Costs, measured: Measured) -> float:
    """Of the cores that gateway and users took, the gateway's."""
    return (costs.turn * sum(measured.outcomes.values()) + costs.event * measured.tokens) / measured.seconds


def _all(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(each.cpu_times()[:2]) for each in processes)


def _seconds(process: psutil.Process) -> float:
    """Of computing, by a process and by those of ours that have ended: the users."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(process.cpu_times()[:2]) + ended.ru_utime + ended.ru_stime


def main() -> int:
    """Run it."""
    asked = options(sys.argv[1:])
    results.FOLDER.mkdir(parents=True, exist_ok=True)
    if asked.what == "measure":
        costs = asyncio.run(measure(0))
        of.write(asked.costs, costs)
        sys.stdout.write(f"{costs}\n")
        return 0
    if asked.what == "check":
        with Progress() as progress:
            text, figures = asyncio.run(_check(asked, progress))
        results.show("scale", f"{results.head('scale')}\n\n{text}", figures)
        return 0
    try:
        costs = of.read(SHIPPED if asked.costs == COSTS and not COSTS.exists() else asked.costs)
        if asked.weights:
            given = {name: getattr(asked, name) for name in ("weights", "parameters", "cache", "bandwidth", "flops")}
            costs = of.roofline(**given, streams=asked.streams, gateway=costs)
        text = predict(asked, costs)
    except (OSError, ValueError, ZeroDivisionError) as error:
        sys.stderr.write(f"That can't be predicted: {error}\nMeasure first: python -m bench.scale measure\n")
        return 1
    sys.stdout.write(text)
    return 0


async def _check(asked: argparse.Namespace, progress: Progress) -> tuple[str, Figures]:
    costs = await measure(1)
    text, figures = await check(asked, costs, progress)
    return f"{text}\n{costs}\n", figures


if __name__ == "__main__":
    sys.exit(main())
