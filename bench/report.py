"""The report of ``bench.streams``: its tables, and a plot."""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from bench import loads, memory, neighbours
from bench.machine import Roofline
from bench.results import Figures, Runs, median, table

GROWN_KIB = 1.0  # a request, at most
PARAMETERS = 134.5e6
CACHE_BYTES = 23_040 * 100  # of a stream: keys and values of one token, times the tokens in mid-reply

Column = tuple[str, Callable[[str, str, Figures], str]]  # its title; what it shows of a server, a level, the figures

SERVER: Column = ("server", lambda name, level, f: name)


def shown(title: str, figure: str, decimals: int = 0) -> Column:
    """A column that shows one of the figures."""
    return title, lambda name, level, f: f"{f[figure]:.{decimals}f}"


def text(results: Runs, weights: dict[str, int], roofline: Roofline, missing: dict[str, str], head: str) -> str:
    """The tables, in Markdown."""
    lines = ["# Many clients at once", "", head, *([""] if missing else [])]
    lines += [f"- {name} was not measured to the end: {why}" for name, why in missing.items()]
    for load, title, columns in _tables(weights, roofline):
        chosen = [(name, level, median(runs)) for (name, kind, level), runs in results.items() if kind == load]
        if chosen:
            chosen.sort(key=lambda each: (float(each[1] or 0), -each[2].get("tokens", 0)))
            rows = [[show(*each) for _, show in columns] for each in chosen]
            lines += ["", f"## {title}", "", table([name for name, _ in columns], rows).rstrip()]
    return "\n".join([*lines, "", *_notes(roofline), ""])


def _tables(weights: dict[str, int], roofline: Roofline) -> list[tuple[str, str, list[Column]]]:
    """Each load, its title and its columns."""

    def of_the_roofline(name: str, level: str, f: Figures) -> str:
        bound = roofline.tokens_per_second(int(level), weights=weights[name], parameters=PARAMETERS, cache=CACHE_BYTES)
        return f"{f['tokens'] / bound:.0%}"

    def at(title: str) -> Column:
        return title, lambda name, level, f: level

    return [
        ("closed", f"Clients that ask again at once, {loads.TOKENS} tokens a reply", [
            at("clients"), SERVER, shown("tokens/s", "tokens"), shown("first token p50 ms", "first50"),
            shown("p95 ms", "first95"), shown("between texts p50 ms", "gap50", 1), shown("p99 ms", "gap99", 1),
            ("of the roofline", of_the_roofline), ("client's CPU", lambda name, level, f: f"{f['cpu']:.0f} %"),
        ]),
        ("poisson", f"Clients that come by chance, {loads.ARRIVING_SECONDS:.0f} s of them", [
            at("a second"), SERVER,
            ("answered well a second", lambda name, level, f: f"{f['good']:.1f} of {f['arrived']:.1f}"),
            shown("first token p95 ms", "first95"), shown("refused", "refused"), shown("not answered in time", "late"),
        ]),
        ("sessions", f"{loads.SESSIONS} sessions of {loads.TURNS} turns behind the same instructions", [
            SERVER, shown("tokens/s", "tokens"), shown("first token, first turn p50 ms", "first"),
            shown("later turns p50 ms", "later50"), shown("p95 ms", "later95"), shown("last prompt, tokens", "prompt"),
        ]),
        ("long", f"A long prompt that comes among {neighbours.NEIGHBOURS} streams", [
            SERVER, shown("prompt, tokens", "prompt"), shown("its first token, alone ms", "alone"),
            shown("among the streams ms", "first"), shown("between the others' texts p99 ms", "without99", 1),
            shown("while it is prefilled", "with99", 1), shown("ratio", "ratio", 2),
        ]),
        ("deaf", f"A client that asks for much and does not read, beside {neighbours.LISTENERS} streams", [
            SERVER, shown("between the others' texts p99 ms, while it reads", "reading99", 1),
            shown("while it does not", "deaf99", 1),
        ]),
        ("memory", f"Memory, after {memory.TOUCHING_REQUESTS:,} short requests and over {memory.STEADY_REQUESTS:,} "
         "more, once", [
            SERVER, shown("the first ones touch MiB", "touched"), shown("KiB more a request", "grown", 2),
            ("goal", lambda name, level, f: f"≤ {GROWN_KIB:.0f}"), shown("MiB at the end", "now"),
        ]),
    ]  # fmt: skip


def _notes(roofline: Roofline) -> list[str]:
    return [
        f"Of the roofline: tokens a second as a share of what the memory ({roofline.bandwidth / 1e9:.0f} GB/s) and the "
        f"arithmetic ({roofline.flops / 1e12:.2f} TFLOP/s in bfloat16), both measured in this run, allow when a step "
        "reads the server's weights once; prefill and the client's own work count against the server. Answered "
        f"well: first token within {loads.FIRST_SECONDS:.0f} s, then at most {loads.EACH_SECONDS * 1000:.0f} ms a "
        "token. llama.cpp's server and OpenVINO read the same 4-bit file as Loquent, vLLM the weights as bfloat16. On "
        "processors with AMX llama.cpp runs with `--no-repack`, because it crashes without. Clients that ask again at "
        "once, sessions and the long prompt were measured in every repeat on the websocket, the first of these twice "
        "on the peers; all else once."
    ]


def plot(results: Runs, path: Path, head: str) -> None:
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
