"""The semantic VAE by itself: what its score finds, and what else could be done with its training and its latent.

The corpus is that of `loquent train anomaly`. The first run fetches and embeds it, which takes half an hour or more on
two cores; the embeddings are stored in the cache folder, so that later runs take minutes. Every variant is trained once
a seed on the normal messages of the part "train", its threshold for 1 % false alarms comes from "calibrate", and it is
judged by "validate" and by anomalies that no VAE is trained on. The part "test" is not touched.

Three tables are printed, in Markdown:
  1. the area under the ROC curve, class by class, as mean and half the range over the seeds;
  2. the share that is found at 1 % false alarms, the false alarms that there are, and the time of a message;
  3. short codes for an index: recall of the ten nearest messages, bytes of a message, time of a scan.

  python -m bench.vae                 three seeds
  python -m bench.vae --quick         one seed and a tenth of the messages, to try it out: its figures mean nothing
"""

import argparse
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from rich.progress import Progress
from threadpoolctl import threadpool_limits

from bench import results
from bench.novelty import scores
from bench.novelty.codes import Recall, codes, neighbours, recall
from bench.novelty.objectives import OBJECTIVES, fit
from bench.novelty.scores import Score, least, mean, total
from bench.novelty.sets import Found, Task, made_up, tasks
from bench.results import Figures
from pipelines.anomaly.detector import Scaled
from pipelines.anomaly.training import recipe, train
from pipelines.anomaly.training.train import Floats
from pipelines.cores import cores
from pipelines.embedding import e5
from server.commands.progress import display, shown

SHIPPED = next(iter(OBJECTIVES))
MEMBERS = 3  # of an ensemble
SCALED_BY = 5  # one message of so many of those that set the threshold says what a score's deviation is
TIMED = 50  # messages
QUICK = 10  # one message of so many, with --quick
QUICK_EPOCHS = 12

Runs = dict[str, list[dict[str, Found]]]  # by variant: for every seed, what it found of each class
Recalls = dict[tuple[str, int], list[Recall]]  # by code and its bytes


def gather(*, threads: int) -> tuple[Task, Task]:
    """The messages, embedded: of the bundled detector's task, and of a narrow assistant's."""
    stop = threading.Event()
    with display() as show:
        run = partial(shown, show=show)
        model = e5.load(run(e5.prepare(stop)))
        corpus = run(recipe.gather(model, stop, seed=0, threads=threads))
        return tasks(corpus, run(made_up(corpus, model, stop, threads=threads)))


def thinned(task: Task) -> Task:
    """A tenth of its messages, and few epochs."""
    return replace(
        task,
        **{name: getattr(task, name)[::QUICK] for name in ("known", "calm", "normal", "strange")},
        classes={name: each[::QUICK] for name, each in task.classes.items()},
        epochs=QUICK_EPOCHS,
    )


def variants(task: Task, heads: Mapping[str, Scaled], members: Sequence[Scaled]) -> Iterator[tuple[str, Score]]:
    """Every score, from trained heads; ``members`` are of the shipped objective, of several seeds."""
    for name, head in heads.items():
        yield name, scores.elbo(head)
    shipped = heads[SHIPPED]
    yield "… its reconstruction error alone", scores.reconstruction(shipped)
    yield "… its divergence alone", scores.divergence(shipped)
    regret, error = scores.regret(shipped), scores.reconstruction(shipped)
    yield "… its likelihood regret", regret
    some = task.calm[::SCALED_BY]
    both = [scores.standardised(each, some) for each in (regret, error)]
    yield "… regret and reconstruction error, summed", scores.together(both, total)
    each_of = [scores.standardised(scores.elbo(head), some) for head in members]
    yield f"ensemble of {MEMBERS}, mean", scores.together(each_of, mean)
    yield f"ensemble of {MEMBERS}, least", scores.together(each_of, least)


def baselines(task: Task, seed: int) -> Iterator[tuple[str, Score]]:
    """What a VAE must beat. Where nothing is left to chance, the first seed stands for all."""
    some = np.random.default_rng(seed).permutation(len(task.known))[: train.EXAMPLES]
    yield f"{scores.NEAREST} nearest of {train.EXAMPLES:,}", scores.nearest(task.known[some])
    if seed:
        return
    yield f"{scores.NEAREST} nearest of all messages", scores.nearest(task.known)
    yield "Mahalanobis distance", scores.mahalanobis(task.known)
    yield f"principal components, {scores.DIRECTIONS}", scores.principal(task.known)


def compare(both: Sequence[Task], seeds: int, bars: Progress) -> tuple[Runs, dict[str, float], list[Scaled]]:
    """Train and measure everything: what was found, seconds of one message, and the shipped head of every seed."""
    runs: Runs = defaultdict(list)
    took: dict[str, float] = {}
    shipped: list[Scaled] = []
    bar = bars.add_task("training", total=len(both) * seeds * (len(OBJECTIVES) + MEMBERS))
    for seed in range(seeds):
        found: dict[str, dict[str, Found]] = defaultdict(dict)
        for number, task in enumerate(both):
            heads = {}
            for name, objective in OBJECTIVES.items():
                heads[name] = fit(task.known, objective, seed=seed, epochs=task.epochs)
                bars.advance(bar)
            members = [heads[SHIPPED]]
            while len(members) < MEMBERS:
                other = seed + len(members) * seeds
                members.append(fit(task.known, OBJECTIVES[SHIPPED], seed=other, epochs=task.epochs))
                bars.advance(bar)
            white = scores.whitening(task.known)
            whitened = fit(white(task.known), OBJECTIVES[SHIPPED], seed=seed, epochs=task.epochs)
            bars.advance(bar)
            every = {
                **dict(variants(task, heads, members)),
                "inputs whitened": scores.behind(white, scores.elbo(whitened)),
                "… its reconstruction error alone, whitened": scores.behind(white, scores.reconstruction(whitened)),
                **dict(baselines(task, seed)),
            }
            for name, score in every.items():
                found[name] |= task.measure(score)
                if seed == number == 0:
                    took[name] = seconds(score, task.normal)
            if number == 0:
                shipped.append(heads[SHIPPED])
        for name, classes in found.items():
            runs[name].append(classes)
    return runs, took, shipped


def seconds(score: Score, inputs: Floats) -> float:
    """Of a message that is scored by itself, at the median."""
    took = []
    for n in range(TIMED):
        begun = time.perf_counter()
        score(inputs[n % len(inputs)][None])
        took.append(time.perf_counter() - begun)
    return statistics.median(took)


def index(task: Task, shipped: Sequence[Scaled], bars: Progress) -> Recalls:
    """What every code finds of the exact neighbours, among the messages trained on, of messages that are new."""
    found: Recalls = defaultdict(list)
    exact = neighbours(task.known, task.normal)
    for seed, head in enumerate(bars.track(shipped, description="scanning")):
        for code in codes(task.known, task.normal, head, seed):
            found[code.name, code.size].append(recall(code, exact))
    return found


def apart(runs: Runs, name: str) -> tuple[int, int]:
    """Classes of which every seed's area is above every one of the shipped VAE, and those of which it is below."""
    better = worse = 0
    for kind in anomalies(runs):
        ours = [run[kind].area for run in runs[name]]
        theirs = [run[kind].area for run in runs[SHIPPED]]
        better += min(ours) > max(theirs)
        worse += max(ours) < min(theirs)
    return better, worse


def anomalies(runs: Runs) -> list[str]:
    """The classes that should be found."""
    return [name for name in runs[SHIPPED][0] if not name.startswith("false alarms")]


def spread(values: Sequence[float], digits: int = 3) -> str:
    """Their mean, and half their range if there are several."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    return f"{statistics.mean(values):.{digits}f} ± {(max(values) - min(values)) / 2:.{digits}f}"


def report(runs: Runs, took: Mapping[str, float], recalls: Recalls, both: Sequence[Task], seeds: int) -> str:
    """The three tables."""
    wide, narrow = both
    kinds = anomalies(runs)
    areas = []
    for name, each in runs.items():
        better, worse = apart(runs, name)
        row = [spread([run[kind].area for run in each]) for kind in kinds]
        areas.append([name, *row, f"{better}, {worse}" if name != SHIPPED else ""])
    shares = [
        [name, *(spread([run[kind].share for run in each]) for kind in each[0]), f"{took[name] * 1e6:,.0f}"]
        for name, each in runs.items()
    ]
    lines = [
        [
            name,
            str(size),
            spread([each.nearest for each in of]),
            spread([each.candidates for each in of]),
            f"{statistics.median(each.seconds for each in of) * 1e6:,.0f}",
        ]
        for (name, size), of in recalls.items()
    ]
    sizes = ", ".join(f"{len(each):,} {name}" for task in both for name, each in task.classes.items())
    return "\n".join(
        (
            f"## The VAE\n\n{results.head('vae', f'{seeds} seeds, one thread')}\n",
            f"Trained on {len(wide.known):,} messages, judged by {len(wide.normal):,} normal ones and {sizes}; off "
            f"topic: trained on {len(narrow.known):,}, judged by {len(narrow.normal):,}.\n",
            "Area under the ROC curve, mean ± half the range. The last column counts the classes of which all seeds "
            "are above, and below, all seeds of the shipped VAE.\n",
            results.table(["score", *kinds, "better, worse"], areas),
            "Share above the threshold of 1 % false alarms; the last column is a message by itself.\n",
            results.table(["score", *runs[SHIPPED][0], "µs"], shares),
            f"Neighbours of {len(wide.normal):,} messages among {len(wide.known):,}, scanned with numpy.\n",
            results.table(["code", "bytes", "recall@10", "of the ten, among the first 100", "µs a query"], lines),
        )
    )  # fmt: skip


def figures(runs: Runs, recalls: Recalls) -> Figures:
    """The means, under paths."""
    found = {
        f"{name}/{kind}/{what}": statistics.mean(getattr(run[kind], what) for run in each)
        for name, each in runs.items()
        for kind in each[0]
        for what in ("area", "share")
    }
    return found | {f"{name}/recall": statistics.mean(each.nearest for each in of) for (name, _), of in recalls.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="of every variant; 3 by default")
    parser.add_argument("--quick", action="store_true", help="one seed, a tenth of the messages")
    parser.add_argument("--threads", type=int, default=cores(), help="that embed what is not in the cache yet")
    asked = parser.parse_args()
    if asked.seeds < 1 or asked.threads < 1:
        parser.error("--seeds and --threads are 1 or more")
    seeds = 1 if asked.quick else asked.seeds
    both = gather(threads=asked.threads)
    if asked.quick:
        both = thinned(both[0]), thinned(both[1])
    torch.set_num_threads(1)  # the matrices are small, and other work would delay what waits for several
    with Progress(transient=True) as bars, threadpool_limits(1):
        runs, took, shipped = compare(both, seeds, bars)
        recalls = index(both[0], shipped, bars)
    results.show("vae", report(runs, took, recalls, both, seeds), figures(runs, recalls))


if __name__ == "__main__":
    main()
