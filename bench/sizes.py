"""Models of three sizes, each from its GGUF file: the start, the memory, and the speed beside llama.cpp's server.

Run with ``make bench``, on an idle machine. Speed and starts are those of the shipped stages; memory also that of the
language model alone. A first start finds the packages, and nothing that an earlier start made of them. Speed is that of
a fixed amount of work, all clients beginning at once: with the larger models a window of some seconds would show
prefill alone.
"""

import asyncio
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import Progress

from bench import loads, pace, results
from bench.loads import New
from bench.memory import Memory
from bench.pace import Pace
from bench.peers import llama
from bench.results import Figures, Runs, median, ratio, table
from bench.servers import MODEL, Serving, gguf, loquent, serving
from pipelines.chat.model.gguf import read
from pipelines.downloads.cache import cache_folder

MODELS = (MODEL, "qwen2.5-coder-0.5b-instruct", "qwen2.5-coder-1.5b-instruct")
LEVELS = (1, 4, 16)  # clients at a time
ROUNDS = {MODEL: 2}  # replies that each client asks for; elsewhere one
ONCE = "qwen2.5-coder-1.5b-instruct"  # the slowest, which is measured in the first repeat alone
TOKENS, QUICK_TOKENS = 64, 4  # of a reply
USUAL = Pace(repeats=2, seconds=0.0)
REST_SECONDS = 1.0
MADE = ("plans", "models")  # folders of the cache, with what a start makes of a model
WRITERS, WRITTEN_EACH = 16, 2  # clients, and requests of each, that write into KV cache slots
KV_BYTES = 2  # a value, in bfloat16


@contextmanager
def fresh_cache() -> Iterator[Path]:
    """A cache folder that has the packages and the compiled kernels, and nothing of what is made from models."""
    with tempfile.TemporaryDirectory(prefix="loquent-bench-") as folder:
        made = Path(folder) / "loquent"
        made.mkdir()
        for each in cache_folder().iterdir():
            if each.name not in MADE:
                (made / each.name).symlink_to(each)
        yield Path(folder)


async def fill(new: New, seed: int) -> int:
    """Short replies to many clients; returns the tokens that they wrote into the KV cache, at most."""
    written = 0
    async with loads.clients(new, WRITERS) as users:
        for turn in range(WRITTEN_EACH):
            asked = [user.ask(loads.question(seed + turn * WRITERS + n), 32) for n, user in enumerate(users)]
            written += sum(reply.prompt + reply.tokens for reply in await asyncio.gather(*asked))
    return written


def kv_bytes(model: str) -> int:
    """Keys and values of one token, in bytes."""
    metadata = read(gguf(model)).metadata
    kind = metadata["general.architecture"]

    def size(key: str, otherwise: int = 0) -> int:
        found = metadata.get(f"{kind}.{key}", otherwise)
        assert isinstance(found, int)
        return found

    heads = size("attention.head_count")
    width = size("attention.key_length", size("embedding_length") // heads)
    return 2 * KV_BYTES * size("block_count") * size("attention.head_count_kv", heads) * width


def held(serves: Serving) -> Figures:
    """The memory of a server, in MiB."""
    memory = Memory.of(serves.pid)
    return {
        "peak": memory.peak / 2**20,
        "resident": memory.resident / 2**20,
        "proportional": memory.proportional / 2**20,
    }


async def alone(model: str, runs: Runs) -> None:
    """The language model alone, on its first start: its memory once replies were written."""
    with fresh_cache() as cache:
        async with serving(loquent("alone", stages=("chat",), model=model, cache=cache), results.LOG) as serves:
            written = await fill(serves.client, 40_000)
            kv = written * kv_bytes(model) / 2**20
            file = gguf(model).stat().st_size / 2**20
            runs["alone", model].append(held(serves) | {"kv": kv, "file": file, "start": serves.start})


async def shipped(model: str, asked: Pace, runs: Runs) -> None:
    """The shipped stages with this model: its first start, a later one, and its speed beside llama.cpp's server."""
    with fresh_cache() as cache:
        async with serving(loquent("Loquent", model=model, cache=cache), results.LOG) as serves:
            runs["first", model].append({"start": serves.start} | held(serves))
        async with (
            serving(loquent("Loquent", model=model, cache=cache), results.LOG) as ours,
            serving(llama(model), results.LOG) as theirs,
        ):
            await speed(model, ours, theirs, asked, runs)
            for name, each in (("later", ours), ("llama", theirs)):
                runs[name, model].append({"start": each.start} | held(each))


async def speed(model: str, ours: Serving, theirs: Serving, asked: Pace, runs: Runs) -> None:
    """The same replies to so many clients, level by level on both servers: ``(server, model, level)``."""
    rounds, tokens = ROUNDS.get(model, 1), QUICK_TOKENS if asked.quick else TOKENS
    for serves in (ours, theirs):
        await loads.burst(serves.client, 2, 90_000, 1, QUICK_TOKENS)  # warm
    for repeat in range(1 if model == ONCE else asked.repeats):
        for level in LEVELS:
            pair: dict[str, Figures] = {}
            for serves in (ours, theirs):
                seed = repeat * 1_000_000 + level * 1000
                pair[serves.server.name] = await loads.burst(serves.client, level, seed, rounds, tokens)
                runs[serves.server.name, model, str(level)].append(pair[serves.server.name])
                await asyncio.sleep(REST_SECONDS)
            faster = ratio(pair[ours.server.name]["tokens"], pair[theirs.server.name]["tokens"])
            runs["ratio", model, str(level)].append({"tokens": faster})


async def measure(models: list[str], asked: Pace, missing: dict[str, str], progress: Progress) -> Runs:
    """Every model in turn."""
    runs: Runs = defaultdict(list)
    for model in progress.track(models, description="measuring"):
        try:
            await alone(model, runs)
            await shipped(model, asked, runs)
        except Exception as error:  # a model that fails does not take the others' figures with it
            missing[model] = f"it failed, {error!r}; its output is in {results.LOG}"
    return runs


def own(runs: Runs) -> Runs:
    """What each model takes of the memory of its process, in MiB, and as a multiple of its file and written KV cache.

    The process without its model: that of the smallest model, without this model's file and written KV cache.
    """
    found: Runs = {}
    small = runs["alone", MODEL][0] if runs.get(("alone", MODEL)) else None
    for kind, model, *_ in [key for key in runs if key[0] == "alone"]:
        f = runs[kind, model][0]
        due = f["file"] + f["kv"]
        figures = {"whole_peak": f["peak"] / due, "whole_steady": f["resident"] / due}
        if small is not None and model != MODEL:
            base = small["resident"] - small["file"] - small["kv"]
            figures |= {"base": base, "peak": (f["peak"] - base) / due, "steady": (f["resident"] - base) / due}
        found["own", model] = [figures]
    return found


def text(runs: Runs, models: list[str], missing: dict[str, str], head: str) -> str:
    """The report, in Markdown."""
    failed = "".join(f"\n- {model} was not measured to the end: {why}" for model, why in missing.items())
    head += f"\n{failed}" if failed else ""
    models = [model for model in models if model not in missing]
    speeds = []
    for model in models:
        for level in map(str, LEVELS):
            pair = [median(runs[name, model, level]) for name in ("Loquent", "llama.cpp server")]
            figures = (*(f"{f['tokens']:.0f}" for f in pair), f"{median(runs['ratio', model, level])['tokens']:.2f} ×")
            speeds.append([model, level, *figures, *(f"{f['first95']:.0f}" for f in pair)])
    columns = ["model", "clients", "Loquent, tokens/s", "llama.cpp's server", "ratio", "first token p95 ms", "its"]
    memory = "\n".join(
        (
            "A peak is the most that was ever resident, steady what is after replies were written; both count pages of "
            "mapped files. The model's own part: without the process, as the smallest model shows it.",
            "",
            table(
                ["model", "server", "start to ready s", "peak MiB", "steady MiB", "PSS MiB", "file MiB", "KV MiB",
                 "peak, steady / (file + KV)", "the model's own part"],
                _memory(runs, models),
            ),
        )
    )  # fmt: skip
    return f"# Models of three sizes\n\n{head}\n\n{table(columns, speeds)}\n{memory}"


def _memory(runs: Runs, models: list[str]) -> Iterator[list[str]]:
    rows = (
        ("first", "Loquent as shipped, first start"),
        ("later", "a later start"),
        ("alone", "chat alone, first start"),
        ("llama", "llama.cpp's server"),
    )
    for model in models:
        share = runs["own", model][0]
        for kind, name in rows:
            f = runs[kind, model][0]
            row = [model, name, f"{f['start']:.1f}", *(f"{f[key]:.0f}" for key in ("peak", "resident", "proportional"))]
            if kind == "alone":
                row += [f"{f['file']:.0f}", f"{f['kv']:.0f}", f"{share['whole_peak']:.1f}, {share['whole_steady']:.1f}"]
                row += [f"{share['peak']:.2f}, {share['steady']:.2f}" if "base" in share else ""]
            yield row + [""] * (10 - len(row))


def main() -> None:
    """Measure every model."""
    parser = pace.parser(__doc__, USUAL)
    parser.add_argument("--models", nargs="+", default=list(MODELS), help="from the catalogue, or GGUF files")
    parsed = parser.parse_args()
    asked = pace.chosen(parsed)
    results.FOLDER.mkdir(parents=True, exist_ok=True)
    missing: dict[str, str] = {}
    with Progress(transient=True) as progress:
        runs = asyncio.run(measure(parsed.models, asked, missing, progress))
    runs |= own(runs)
    head = results.head("sizes", f"medians of {asked.repeats}")
    results.show("sizes", text(runs, parsed.models, missing, head), results.medians(runs))


if __name__ == "__main__":
    main()
