"""The report of a training: figures, curves and pictures, as HTML with the PNG files beside it."""

import html
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipelines.downloads.archives import Archive
from pipelines.image.generator import SIDE
from pipelines.image.repertoire import Words
from pipelines.image.training.measure import Result, white
from pipelines.image.weights import NUMBERS, WORDS

STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;margin:1rem 0}"
    "td,th{padding:.25rem .75rem;border-bottom:1px solid #ddd;text-align:left}"
    "td.n{text-align:right;font-variant-numeric:tabular-nums}.no{color:#b00020;font-weight:600}img{max-width:100%}"
)
LINE = 11  # pixels
PARTS = {
    WORDS,
    NUMBERS,
    "report.html",
    "losses.png",
    "samples.png",
    "unseen.png",
    "MODEL_CARD.md",
    "ATTRIBUTION.md",
}


@dataclass(frozen=True, slots=True)
class Cell:
    """Pictures (4, SIDE, SIDE) beside each other, over a caption."""

    caption: str
    pictures: tuple[Tensor, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """A figure, and what it must reach."""

    measure: str
    value: float
    least: float | None = None
    percent: bool = True

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.least is None or self.value >= self.least

    @property
    def shown(self) -> str:
        """The figure, for people."""
        return f"{self.value:.1%}" if self.percent else f"{self.value:.3f}"

    @property
    def goal(self) -> str:
        """What must be reached, for people."""
        return "" if self.least is None else f"≥ {self.least:.0%}" if self.percent else f"≥ {self.least:g}"


def rows(result: Result) -> list[Row]:
    """The figures in words."""
    return [
        Row("Known caption: the true picture is the nearest of all concepts", result.top1, 0.88),
        Row("Known caption: it is among the ten nearest", result.top10, 0.97),
        Row("The same of real pictures, posed as the noise poses drawings (nearest)", result.top1_real),
        Row(f"Colour and object that never came together ({result.pair_count} pairs): both right", result.pairs, 0.8),
        Row("… the object is the nearest of all concepts in that colour", result.pairs_object),
        Row("… the hue is within 30°", result.pairs_hue),
        Row("Spread over noise, against that of real pictures across styles", result.diversity, 0.3, percent=False),
        Row("The same of real pictures, posed as the noise poses drawings", result.diversity_real, percent=False),
        Row("Median distance of a drawing from the nearest picture trained on", result.nearest, percent=False),
        Row("The same of real pictures, posed as the noise poses drawings", result.nearest_real, percent=False),
        Row("The same of drawings of held-out colours and objects", result.nearest_held_out, percent=False),
        Row("KID × 1000 of drawings", result.kid, percent=False),
        Row("… its deviation over subsets", result.kid_deviation, percent=False),
        Row("KID × 1000 of real pictures against real ones, in other poses", result.kid_floor, percent=False),
        Row("Real pictures in new poses that the feature network names rightly", result.feature_accuracy),
    ]


def grid(path: Path, cells: Sequence[Cell], *, columns: int = 6) -> None:
    """Write the cells as one PNG."""
    wide = max(len(cell.pictures) for cell in cells) * SIDE + 4
    lines = [
        [line for part in cell.caption.split("\n") for line in textwrap.wrap(part, wide // 6) or [""]] for cell in cells
    ]
    high = SIDE + 4 + LINE * max(map(len, lines))
    sheet = Image.new("RGB", (wide * min(columns, len(cells)), high * -(-len(cells) // columns)), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(LINE - 1)
    for n, (cell, told) in enumerate(zip(cells, lines, strict=True)):
        left, top = n % columns * wide, n // columns * high
        for k, picture in enumerate(cell.pictures):
            pixels = (white(picture).clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            sheet.paste(Image.fromarray(pixels), (left + k * SIDE, top))
        for k, line in enumerate(told):
            pen.text((left + 2, top + SIDE + k * LINE), line, fill="black", font=font)
    sheet.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def write(folder: Path, history: Sequence[Mapping[str, float]], result: Result, about: Mapping[str, Any]) -> None:
    """Write ``report.html`` and the curves beside the grids that are there."""
    _curves(folder / "losses.png", history)
    facts = [(str(name), str(value)) for name, value in about.items()]
    figures = [(row.measure, row.shown, row.goal) for row in rows(result)]
    pictures = (
        ("samples", "Known captions: drawn in every style, and the true pictures beside them"),
        ("unseen", "Prompts in words of their own: what a server draws, and what the prompt itself would become"),
        ("losses", "How training went"),
    )
    images = "".join(
        f'<h2>{html.escape(caption)}</h2><img src="{name}.png" alt="{html.escape(caption)}">'
        for name, caption in pictures
    )
    page = (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Image generator</title><style>{STYLE}</style>'
        f"<h1>Image generator</h1><h2>What it was made from</h2>{_table(('', ''), facts)}"
        f"<h2>Measured</h2>{_table(('measure', '', 'must reach'), figures, [not row.met for row in rows(result)])}"
        f"{images}</html>\n"
    )
    (folder / "report.html").write_text(page, encoding="utf-8")


def _curves(path: Path, history: Sequence[Mapping[str, float]]) -> None:
    from matplotlib.figure import Figure

    groups = (
        ("adversarial", ("discriminator", "generator", "lead")),
        ("captions", ("captions of real", "captions of drawn")),
        ("support", ("pixels", "features", "sameness", "slope")),
        ("known captions, share", ("top-1", "top-10")),
    )
    figure = Figure(figsize=(14, 3.4))
    for axes, (title, names) in zip(figure.subplots(1, len(groups)), groups, strict=True):
        for name in names:
            points = [(each["step"], each[name]) for each in history if name in each]
            axes.plot([step for step, _ in points], [value for _, value in points], label=name)
        axes.set(title=title, xlabel="step")
        axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def _table(head: Sequence[str], body: Sequence[Sequence[str]], wrong: Sequence[bool] = ()) -> str:
    def cells(row: Sequence[str], tag: str, mark: str = "") -> str:
        return "<tr>" + "".join(f"<{tag}{mark}>{html.escape(cell)}</{tag}>" for cell in row) + "</tr>"

    marks = [' class="no"' if bad else "" for bad in wrong] or [""] * len(body)
    return (
        "<table>"
        + cells(head, "th")
        + "".join(cells(row, "td", mark) for row, mark in zip(body, marks, strict=True))
        + "</table>"
    )


def card(folder: Path, words: Words, result: Result) -> None:
    """Write ``MODEL_CARD.md``."""
    colours = sum(len(own) for _, _, own in words.concepts)
    lines = [
        f"# {words.name}",
        "",
        "A generator of small pictures (64 × 64 pixels with opacity) from captions, trained against a discriminator, "
        "as a generative adversarial network, on emoji of three sets; see ATTRIBUTION.md.",
        "",
        f"It draws {len(words.concepts)} concepts, and {colours} pairs of a concept and another colour, in "
        f"{len(words.styles)} styles: {', '.join(words.styles)}. It is made for replies that want a small picture; it "
        "draws no people, no places, no text, and nothing that is not on its list.",
        "",
        *(f"- {name}: {value}" for name, value in words.about.items()),
        "",
        "| measure | figure | must reach |",
        "|---|---|---|",
        *(f"| {row.measure} | {row.shown} | {row.goal or '–'} |" for row in rows(result)),
        "",
        "Distances and spreads are root mean squares over the pixels, on white, of a range from 0 to 1. A lookup of "
        "the training pictures would pass the first two rows too; the distance from the nearest of them shows how much "
        "of that there is. KID is measured in the features of a small convolutional network trained to name the real "
        "pictures, which never sees a drawing.",
        "",
        "![prompts in words of their own: from the nearest known caption, and from the prompt itself](unseen.png)",
        "",
    ]
    (folder / "MODEL_CARD.md").write_text("\n".join(lines), encoding="utf-8")


def attribution(folder: Path, archives: Sequence[Archive]) -> None:
    """Write ``ATTRIBUTION.md``: whose pictures the weights were made from."""
    makers = {
        "emojibase-data": "Emojibase by Miles Johnson",
        "emoji-datasource-twitter": "Twemoji, copyright Twitter, Inc. and others; packaged by Cal Henderson",
        "emoji-datasource-google": "Noto Emoji, copyright Google LLC; packaged by Cal Henderson",
        "@lobehub/fluent-emoji-3d": "Fluent Emoji, copyright Microsoft Corporation; packaged by LobeHub",
    }
    lines = [
        "# What the weights were made from",
        "",
        "The pictures and captions below, changed in pose, shade and hue. The weights hold none of them as files.",
        "",
        "| what | package | licence |",
        "|---|---|---|",
        *(f"| {makers[each.name]} | {each.name} {each.version} (npm) | {each.licence} |" for each in archives),
        "",
        "Twemoji's graphics are licensed under CC-BY 4.0: https://creativecommons.org/licenses/by/4.0/",
        "",
    ]
    (folder / "ATTRIBUTION.md").write_text("\n".join(lines), encoding="utf-8")
