"""The hardware that the figures come from, and what it could do at best."""

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

BYTES = 1 << 30  # read to measure the memory: much more than any cache of a desktop holds
SIDE = 2048  # of the square matrices that measure the arithmetic
TRIES = 5


def machine() -> str:
    """The processor and what runs on it."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    processor = names[0] if names else platform.processor()
    return (
        f"{processor}, {os.cpu_count()} cores; Python {platform.python_version()}, "
        f"torch {torch.__version__}, transformers {transformers.__version__}"
    )


@dataclass(frozen=True)
class Roofline:
    """What bounds a decode step: reading the weights and the cache once, and multiplying with them."""

    bandwidth: float  # bytes a second
    flops: float  # a second, bfloat16

    def tokens_per_second(self, streams: int, *, weights: int, parameters: float, cache: float) -> float:
        """The bound for so many streams, with ``weights`` bytes read a step and ``cache`` bytes a stream."""
        step = max((weights + streams * cache) / self.bandwidth, streams * 2 * parameters / self.flops)
        return streams / step


def measure_roofline() -> Roofline:
    """Measure the memory and the arithmetic of this machine, on all cores."""
    data = torch.ones(BYTES // 4)
    a = torch.ones(SIDE, SIDE, dtype=torch.bfloat16)
    return Roofline(BYTES / _best(lambda: data.sum()), 2 * SIDE**3 / _best(lambda: a @ a))


def _best(work: Callable[[], object]) -> float:
    times = []
    for _ in range(TRIES):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)
