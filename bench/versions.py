"""Two checkouts of this project, measured in turn in one run: what a change costs, or wins.

    git worktree add ../before HEAD~20
    python -m bench.versions ../before .

The servers run with this environment's packages, each from its own folder, with their own configuration (what they
ship, unless ``--stages chat`` leaves the model alone).
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from rich.progress import Progress

from bench import loads
from bench.clients import RealtimeClient
from bench.machine import machine
from bench.results import Figures
from bench.servers import Server

START_SECONDS = 300.0
SETTLE_SECONDS = 5.0  # for parts that load behind "ready"
RUN = """
import sys
try:
    from server.commands.main import main
except ImportError:
    from server.cli import main
sys.exit(main(sys.argv[1:]))
"""


def server(name: str, folder: Path, port: int, stages: str | None) -> Server:
    """The server of a checkout."""
    command = [sys.executable, "-P", "-c", RUN, "serve", "--port", str(port), "--log-level", "error"]
    environment = {"PYTHONPATH": str(folder.resolve()), "LOQUENT_CONFIG": str(folder.resolve() / "config.toml")}
    if stages is not None:
        environment["LOQUENT__PIPELINE__STAGES"] = json.dumps(stages.split(","))
    return Server(name, command, port, "/readyz", {"websocket": RealtimeClient}, 0, environment)


async def ready(server: Server, process: "subprocess.Popen[bytes]") -> None:
    """Wait until the server takes turns, and every part had its time to load. Raises: RuntimeError when it ends."""
    until = time.monotonic() + START_SECONDS
    async with aiohttp.ClientSession() as http:
        while time.monotonic() < until:
            if process.poll() is not None:
                raise RuntimeError(f"{server.name} does not start: run it by hand")
            try:
                async with http.get(server.url + server.health) as answer:
                    if answer.status == 200:
                        await asyncio.sleep(SETTLE_SECONDS)
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.2)
    raise TimeoutError(f"{server.name} did not become ready")


async def measure(servers: list[Server], repeats: int, levels: list[int]) -> dict[tuple[str, int], list[Figures]]:
    """Each level of each server, in turn, as often as asked."""
    found: dict[tuple[str, int], list[Figures]] = defaultdict(list)
    with Progress() as progress:
        bar = progress.add_task("measuring", total=repeats * len(servers) * len(levels))
        for repeat in range(repeats):
            for each in servers:
                with each.running(Path(os.devnull)) as process:
                    await ready(each, process)
                    async with aiohttp.ClientSession() as http:

                        def new(each: Server = each, http: aiohttp.ClientSession = http) -> Any:
                            return RealtimeClient(http, each.url)

                        for level in levels:
                            figures = await loads.closed_loop(new, level, 1000 * repeat + level)
                            found[each.name, level].append(figures)
                            progress.advance(bar)
    return found


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="checkouts; NAME=FOLDER names one")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--levels", nargs="+", type=int, default=list(loads.LEVELS), help="clients at a time")
    parser.add_argument("--stages", help="of every server, as in chat or speech,chat; without it, what each ships")
    chosen = parser.parse_args()
    servers = [
        server(str(folder), Path(str(folder).rpartition("=")[2]), 8795 + n, chosen.stages)
        for n, folder in enumerate(chosen.folders)
    ]
    found = asyncio.run(measure(servers, chosen.repeats, chosen.levels))
    command = " ".join(["python -m bench.versions", *sys.argv[1:]])
    print(f"{machine()}; {datetime.now(UTC):%Y-%m-%d}; `{command}`, medians of {chosen.repeats}\n")
    print(
        "| clients | server | tokens/s | first token p95 ms | between texts p99 ms |\n| --- | --- | --- | --- | --- |"
    )
    for level in chosen.levels:
        for each in servers:
            runs = found[each.name, level]
            middle = {key: statistics.median(run[key] for run in runs) for key in ("tokens", "first95", "gap99")}
            name = each.name.partition("=")[0] if "=" in each.name else each.name
            print(f"| {level} | {name} | {middle['tokens']:.0f} | {middle['first95']:.0f} | {middle['gap99']:.1f} |")


if __name__ == "__main__":
    main()
