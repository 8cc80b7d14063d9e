"""How long a second start takes: from the command to a server that is ready for chat, models in the cache.

Run with ``make bench``, on an idle machine. Prints a Markdown table with the hardware.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

from rich.progress import track

from bench.machine import machine

RUNS = 7
GOAL_SECONDS = 5.0


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
    print("\n## Start to ready for chat, model in the cache\n")
    print(f"{machine()}; `python -m bench.startup`, {RUNS} runs\n")
    print("| median | fastest | slowest | goal |")
    print("| --- | --- | --- | --- |")
    median, fastest, slowest = statistics.median(seconds), min(seconds), max(seconds)
    print(f"| {median:.2f} s | {fastest:.2f} s | {slowest:.2f} s | ≤ {GOAL_SECONDS:.0f} s |")


if __name__ == "__main__":
    main()
