"""From a trained run to files: what the generator can draw, how good it is, and pictures to look at."""

from collections.abc import Generator as Steps
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.downloads.progress import Progress
from pipelines.embedding.model import EmbeddingModel
from pipelines.image import weights
from pipelines.image.captions import coloured, without_colour
from pipelines.image.generator import Generator
from pipelines.image.noise import DRAWN, noise
from pipelines.image.repertoire import Repertoire, Words
from pipelines.image.training import report
from pipelines.image.training.dataset import CAPTIONS, STYLES, Dataset, Pair
from pipelines.image.training.measure import Result, drawn, held_out_pairs, judge
from pipelines.image.training.train import Run, embedded

SAMPLES = 48  # concepts in the report's grid


@dataclass(frozen=True, slots=True)
class Known:
    """What can be asked for, embedded."""

    concepts: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...]  # label, all captions, colours
    captions: Tensor  # (K, 384)
    drawn: Tensor  # (N, 384): each concept's label, then its colours

    @property
    def repertoire(self) -> Repertoire:
        """As a server has it."""
        owners = [n for n, (_, captions, _) in enumerate(self.concepts) for _ in captions]
        labels, colours = [label for label, _, _ in self.concepts], [own for _, _, own in self.concepts]
        return Repertoire(labels, colours, owners, self.captions.numpy(), self.drawn.numpy())


def known(pictures: Dataset, model: EmbeddingModel, *, threads: int) -> Steps[Progress, None, Known]:
    """Embed every caption and every pair of a concept and a colour, the held-out ones among them."""
    concepts = tuple(
        (
            concept.label,
            concept.captions,
            tuple(pair.colour for pair in pictures.recoloured if pair.concept == n and pair.colour is not None),
        )
        for n, concept in enumerate(pictures.concepts)
    )
    captions = yield from embedded([text for _, texts, _ in concepts for text in texts], model, threads=threads)
    pairs = [
        text for label, _, colours in concepts for text in (label, *(coloured(label, colour) for colour in colours))
    ]
    rows = yield from embedded(pairs, model, threads=threads)
    return Known(concepts, captions, rows)


def measured(run: Run, model: EmbeddingModel, *, threads: int) -> Steps[Progress, None, Result]:
    """The figures of the run's averaged generator."""
    pictures = run.pictures
    plain = run.wording.vectors[[run.wording.of[n][0] for n in range(len(pictures.concepts))]]
    held_out = torch.zeros(0, plain.shape[1])
    if pairs := held_out_pairs(pictures):
        texts = [coloured(pictures.concepts[pair.concept].label, pair.colour or "") for pair in pairs]
        held_out = yield from embedded(texts, model, threads=threads)
    return (yield from judge(run.averaged.cpu(), pictures, plain, held_out, seed=run.seed))


def write(
    folder: Path, run: Run, model: EmbeddingModel, result: Result, about: Mapping[str, Any], *, threads: int
) -> Steps[Progress, None, None]:
    """Write the weights, the report with its grids, the card and the attribution into an existing folder."""
    what = yield from known(run.pictures, model, threads=threads)
    generator = run.averaged.cpu()
    words = Words(f"loquent-{run.preset.name}-1", tuple(STYLES), what.concepts, about)
    weights.save(folder, words, generator, what.captions, what.drawn)
    yield Progress("drawing samples")
    report.grid(folder / "samples.png", _samples(run, generator, what))
    prompts = files(__package__).joinpath("prompts.txt").read_text(encoding="utf-8").splitlines()
    cells = yield from unseen(prompts, generator, what, model, threads=threads)
    report.grid(folder / "unseen.png", cells, columns=10)
    yield Progress("writing the report")
    report.write(folder, run.history, result, about)
    report.card(folder, words, result)
    report.attribution(folder, [CAPTIONS, *STYLES.values()])


def _samples(run: Run, generator: Generator, what: Known) -> list[report.Cell]:
    """Known captions: drawn in every style, and the true pictures beside them."""
    pictures, styles = run.pictures, len(STYLES)
    step = max(len(pictures.concepts) // SAMPLES, 1)
    rows = {entry.caption: entry.row for entry in what.repertoire.entries}
    chance = torch.Generator().manual_seed(run.seed)
    cells = []
    for n in range(0, len(pictures.concepts), step):
        label = pictures.concepts[n].label
        text = what.drawn[[rows[label]] * styles]
        drawing = drawn(
            generator, text, torch.arange(styles), noise(styles, generator.shape.noise, chance, spread=DRAWN)
        )
        cells.append(report.Cell(label, tuple(drawing) + tuple(torch.from_numpy(pictures.of(Pair(n))))))
    return cells


def unseen(
    prompts: Sequence[str], generator: Generator, what: Known, model: EmbeddingModel, *, threads: int
) -> Steps[Progress, None, list["report.Cell"]]:
    """For each prompt what a server draws, from the nearest known caption, and what the prompt itself would become."""
    whole = yield from embedded(prompts, model, threads=threads)
    split = [without_colour(prompt) for prompt in prompts]
    plain = yield from embedded([text or "nothing" for text, _ in split], model, threads=threads)
    repertoire = what.repertoire
    cells = []
    for n, prompt in enumerate(prompts):
        found = repertoire.find(whole[n].numpy(), plain[n].numpy(), split[n][1])
        text = torch.stack((what.drawn[found.entry.row], whole[n]))
        style = torch.tensor([n % len(STYLES)] * 2)
        z = noise(1, generator.shape.noise, torch.Generator().manual_seed(n), spread=DRAWN).repeat(2, 1)
        caption = f"{prompt}\n{found.entry.caption} {found.similarity:.2f}"
        cells.append(report.Cell(caption, tuple(drawn(generator, text, style, z))))
    return cells
