"""What a soak found: how memory and times went, in words and as a plot."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.faults.soak import WARM_SHARE, Found
from bench.loads import percentile

SLOPE_MIB = 1.0  # an hour
FLAT = 1.2  # p99 of the last third over that of the first
BLOCKS = 12  # of the run, in the plot


def slope(found: Found) -> float:
    """MiB an hour of the memory behind the warm-up, by least squares."""
    warm = [each for each in found.samples if each.seconds >= WARM_SHARE * found.seconds]
    if len(warm) < 3:
        return float("nan")
    fit = statistics.linear_regression([each.seconds / 3600 for each in warm], [each.mib for each in warm])
    return fit.slope


def thirds(found: Found, times: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """p99 in ms of the first third and of the last third behind the warm-up."""
    warm = WARM_SHARE * found.seconds
    length = (found.seconds - warm) / 3
    first = [each for at, each in times if warm <= at < warm + length]
    last = [each for at, each in times if at >= found.seconds - length]
    return percentile(first, 0.99), percentile(last, 0.99)


def summary(found: Found) -> str:
    """In words."""
    first, gaps = thirds(found, found.times.first), thirds(found, found.times.gaps)
    warm = [each.mib for each in found.samples if each.seconds >= WARM_SHARE * found.seconds]
    did = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(found.did.items()))
    return "\n".join(
        [
            f"{found.seconds / 60:.0f} minutes: {did}",
            f"memory {statistics.median(warm):.0f} MiB, slope {slope(found):+.2f} MiB an hour behind the warm-up",
            f"first token p99 of the first third {first[0]:.0f} ms, of the last {first[1]:.0f} ms; "
            f"between tokens {gaps[0]:.1f} and {gaps[1]:.1f} ms",
            f"{len(found.wrong)} wrong, exit code {found.exit_code}",
            *found.wrong[:20],
        ]
    )


def good(found: Found) -> bool:
    """Whether nothing leaked, slowed down or went wrong."""
    flat = all(
        last <= FLAT * first for first, last in (thirds(found, found.times.first), thirds(found, found.times.gaps))
    )
    return slope(found) <= SLOPE_MIB and flat and not found.wrong and found.exit_code == 0


def figures(found: Found) -> dict[str, Any]:
    """All of it, for JSON."""
    whole = {"did": dict(found.did), "samples": [(each.seconds, each.mib) for each in found.samples]}
    return {**vars(found), **whole, "times": vars(found.times)}


def plot(found: Found, path: Path, head: str) -> None:
    """Memory, and the p50 and p99 of both times, over the run."""
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot as plt

    figure, (memory, first, gaps) = plt.subplots(3, 1, figsize=(9, 8), sharex=True, layout="constrained")
    memory.plot([each.seconds / 60 for each in found.samples], [each.mib for each in found.samples])
    memory.axvline(WARM_SHARE * found.seconds / 60, color="gray", ls=":", label="end of the warm-up")
    memory.set(ylabel="resident memory, MiB")
    length = found.seconds / BLOCKS
    middles = [(number + 0.5) * length / 60 for number in range(BLOCKS)]
    for axes, times, name in (
        (first, found.times.first, "first token, ms"),
        (gaps, found.times.gaps, "between tokens, ms"),
    ):
        blocks = [[each for at, each in times if at // length == number] for number in range(BLOCKS)]
        for share in (0.5, 0.99):
            axes.plot(middles, [percentile(each, share) for each in blocks], marker="o", label=f"p{share * 100:.0f}")
        # What fills every slot at first waits for tens of seconds, and would leave the rest a flat line.
        axes.set(
            ylabel=name, ylim=(0, 1.3 * max(percentile(each, 0.99) for each in blocks[round(BLOCKS * WARM_SHARE) :]))
        )
    gaps.set(xlabel="minutes")
    memory.set_ylim(bottom=0)
    for axes in (memory, first, gaps):
        axes.grid(alpha=0.3)
        axes.legend()
    figure.suptitle(head.split(";")[0], fontsize=9)
    figure.savefig(path)
