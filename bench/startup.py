"""How long a second start takes: from the command to a server that is ready for chat, models in the cache.

Run with ``make bench``, on an idle machine. Prints a Markdown table with the hardware.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from rich.progress import track

from bench import results
from bench.goals import stated

RUNS = 7


def start() -> float:
    """Seconds from the command to the line that says where the server listens."""
    loquent = Path(sys.executable).parent / "loquent"
    begun = time.perf_counter()
    with subprocess.Popen(
        [loquent, "serve", "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        line = server.stdout.readline()
        seconds = time.perf_counter() - begun
        server.terminate()
    assert line.startswith("Loquent listens on"), line
    return seconds


def main() -> None:
    """Start a few times and print the figures."""
    start()  # fetches and converts the model if this machine never had it
    seconds = [start() for _ in track(range(RUNS), "starting")]
    median = statistics.median(seconds)
    row = [f"{median:.2f} s", f"{min(seconds):.2f} s", f"{max(seconds):.2f} s", stated("startup/median")]
    table = results.table(["median", "fastest", "slowest", "goal"], [row])
    head = results.head("startup", f"{RUNS} runs")
    results.show("startup", f"## Start to ready for chat, model in the cache\n\n{head}\n\n{table}", {"median": median})


if __name__ == "__main__":
    main()
