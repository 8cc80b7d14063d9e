"""A generator with the structure of the bundled one, small and with weights by chance, and pictures to train one on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from pipelines.embedding import minilm as english
from pipelines.embedding.passages import DIMENSIONS, Passage
from pipelines.image.generator import SIDE, Generator, Shape
from pipelines.image.repertoire import Repertoire, Words
from pipelines.image.training.dataset import Concept, Dataset, Floats, with_colours
from pipelines.image.training.discriminator import Judging
from pipelines.image.training.train import Preset
from pipelines.image.weights import Drawer

SHAPE = Shape(noise=8, hidden=32, widths=(32, 32, 24, 16), last=8)
JUDGING = Judging(widths=(16, 16, 24, 32), features=32)
STYLES = ("flat", "soft", "3d")
LABELS = ("disc", "box", "cross", "ring", "triangle", "bar", "diamond", "dots")


def drawer(labels: tuple[str, ...] = LABELS, colours: tuple[str, ...] = ("red", "blue")) -> Drawer:
    """Every concept has one caption of its own, and these colours."""
    torch.manual_seed(0)
    generator = Generator(SHAPE).eval().requires_grad_(False)
    chance = np.random.default_rng(0)
    captions = chance.standard_normal((len(labels), DIMENSIONS)).astype(np.float32)
    drawn = chance.standard_normal((len(labels) * (1 + len(colours)), DIMENSIONS)).astype(np.float32)
    words = Words("tiny", STYLES, tuple((label, (label,), colours) for label in labels), {})
    return Drawer(words, generator, Repertoire(labels, [colours] * len(labels), range(len(labels)), captions, drawn))


KNOWN = {  # concepts that texts can mean, with their captions
    "grinning cat": ("a happy cat", "cat"),
    "crying cat": ("a sad cat",),
    "red heart": ("love", "heart"),
    "green heart": (),
    "partying face": ("a party", "congratulations", "happy birthday"),
    "crying face": ("a sad face", "I am sad", "sorry for your loss"),
}
COLOURED = ("grinning cat", "crying cat")


def understanding(minilm: Path) -> Drawer:
    """The same generator for concepts that texts can mean."""
    model = english.load(minilm)

    def embed(texts: Sequence[str]) -> NDArray[np.float32]:
        return np.stack([each.whole for each in model.embed([Passage(text) for text in texts])])

    colours = [("green", "blue") if label in COLOURED else () for label in KNOWN]
    captions = [(label, *says) for label, says in KNOWN.items()]
    owners = [n for n, each in enumerate(captions) for _ in each]
    pairs = [
        name for label, own in zip(KNOWN, colours, strict=True) for name in (label, *(f"{c} {label}" for c in own))
    ]
    known = Repertoire(list(KNOWN), colours, owners, embed([text for each in captions for text in each]), embed(pairs))
    words = Words("tiny", STYLES, tuple(zip(KNOWN, captions, colours, strict=True)), {})
    return Drawer(words, drawer().generator, known)


def preset(steps: int, *, batch: int = 8) -> Preset:
    """A training that takes seconds."""
    return Preset(
        "mood",
        steps=steps,
        batch=batch,
        generator=SHAPE,
        discriminator=JUDGING,
        rate=2e-3,
        warm=20,
        average=0.9,
        saved_every=2,
    )


def pictures(colours: bool = False) -> Dataset:
    """Eight concepts: plain shapes in three styles, which differ in colour and size."""
    concepts = tuple(Concept(str(n), label, (), ()) for n, label in enumerate(LABELS))
    pixels = np.stack([np.stack([_shape(label, style) for style in range(3)]) for label in LABELS])
    return with_colours(concepts, pixels, list(range(len(LABELS))) if colours else [])


def _shape(label: str, style: int) -> Floats:
    image = Image.new("RGBA", (SIDE, SIDE))
    pen = ImageDraw.Draw(image)
    colour = ((230, 60, 40, 255), (250, 170, 20, 255), (220, 40, 110, 255))[style]
    a, b = 8 + 4 * style, SIDE - 8 - 4 * style
    middle = SIDE // 2
    match label:
        case "disc":
            pen.ellipse((a, a, b, b), colour)
        case "box":
            pen.rectangle((a, a, b, b), colour)
        case "cross":
            pen.line((a, a, b, b), colour, 10)
            pen.line((a, b, b, a), colour, 10)
        case "ring":
            pen.ellipse((a, a, b, b), outline=colour, width=8)
        case "triangle":
            pen.polygon(((middle, a), (b, b), (a, b)), colour)
        case "bar":
            pen.rectangle((a, middle - 6, b, middle + 6), colour)
        case "diamond":
            pen.polygon(((middle, a), (b, middle), (middle, b), (a, middle)), colour)
        case _:
            for x in (a, middle, b - 10):
                pen.ellipse((x, middle - 5, x + 10, middle + 5), colour)
    rgba = np.asarray(image, dtype=np.float32).transpose(2, 0, 1) / 255
    channels: Floats = np.concatenate((rgba[:3] * rgba[3:], rgba[3:]))
    return channels
