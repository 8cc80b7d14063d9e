"""The pictures that the generator learns from: emoji of three sets, with their captions, from a package registry.

No flags, skin tones, joined sequences, weapons, drugs or obscene gestures. Hue-shifted copies have a colour word in
their captions; some pairs of a colour and an object are held out, to see whether what is drawn from a new pair fits.
"""

import hashlib
import io
import json
import threading
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.downloads.archives import Archive, ArchiveError, Files, fetch
from pipelines.downloads.progress import Progress
from pipelines.image.captions import COLOURS
from pipelines.image.generator import SIDE

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

PresetName = Literal["mood", "full"]

CAPTIONS = Archive(
    "npm", "emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a", "MIT"
)
STYLES = {  # in the order of the generator's styles
    "flat": Archive(
        "npm",
        "emoji-datasource-twitter",
        "16.0.0",
        "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877",
        "CC-BY-4.0",
    ),
    "soft": Archive(
        "npm",
        "emoji-datasource-google",
        "16.0.0",
        "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438",
        "Apache-2.0",
    ),
    "3d": Archive(
        "npm",
        "@lobehub/fluent-emoji-3d",
        "1.1.0",
        "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        "MIT",
    ),
}
_FOLDERS = {"flat": "package/img/twitter/64/", "soft": "package/img/google/64/", "3d": "package/assets/"}

# Groups of emojibase: 0 faces and hearts, 1 people, 3 animals and plants, 4 food, 5 travel, 6 activities, 7 objects.
_MOOD_SUBGROUPS = range(15)  # faces, cats, monkeys, hearts
_FULL_GROUPS = (0, 1, 3, 4, 5, 6, 7)
_NEVER = {
    "bomb",
    "cigarette",
    "kitchen knife",
    "axe",
    "bow and arrow",
    "water pistol",
    "syringe",
    "pill",
    "middle finger",
    "firecracker",
    "headstone",
    "placard",
    "identification card",
    "military helmet",
    "no smoking",
    "pinching hand",
    "biting lip",
    "breast-feeding",
    "love hotel",
    "briefs",
    "bikini",
    "face with symbols on mouth",
    "drop of blood",
    "skull and crossbones",
}
HELD_OUT = 0.15  # of the pairs of a colour and an object
ALIKE = 25  # degrees: closer than this, a colour is the object's own
LEAST_CONCENTRATION = 0.8  # of hues, below which a picture has no one colour
LEAST_COLOUR = 0.2  # mean saturation, weighted by opacity


@dataclass(frozen=True, slots=True)
class Concept:
    """Something that can be drawn."""

    code: str  # of the emoji, in hexadecimal
    label: str
    tags: tuple[str, ...]
    says: tuple[str, ...]  # other captions, written for this project

    @property
    def captions(self) -> tuple[str, ...]:
        """What it may be called, the label first."""
        return (self.label, *self.says)


@dataclass(frozen=True, slots=True)
class Pair:
    """A concept in a colour of its own or another's."""

    concept: int
    colour: str | None = None


@dataclass(frozen=True, slots=True)
class Dataset:
    """Concepts, each in every style."""

    concepts: tuple[Concept, ...]
    pixels: Floats  # (concepts, styles, 4, SIDE, SIDE), 0 to 1, colours multiplied by opacity
    recoloured: Mapping[Pair, Floats]  # (styles, 4, SIDE, SIDE)
    held_out: frozenset[Pair]  # of the recoloured

    def of(self, pair: Pair) -> Floats:
        """(styles, 4, SIDE, SIDE)."""
        found: Floats = self.pixels[pair.concept] if pair.colour is None else self.recoloured[pair]
        return found

    @property
    def trained_on(self) -> list[Pair]:
        """Every pair that is not held out, the plain ones first."""
        plain = [Pair(n) for n in range(len(self.concepts))]
        return plain + [pair for pair in self.recoloured if pair not in self.held_out]


def gather(preset: PresetName, stop: threading.Event) -> Generator[Progress, None, Dataset]:
    """Fetch the sets and read the preset's pictures.

    Raises: ArchiveError, Stopped.
    """
    captions = yield from fetch(CAPTIONS, stop)
    emoji: list[dict[str, Any]] = json.loads(Files(captions).text("package/en/data.json"))
    mine: dict[str, dict[str, Any]] = json.loads(files(__package__).joinpath("captions.json").read_text("utf-8"))
    wanted = {entry["hexcode"]: entry for entry in emoji if _wanted(entry, preset, mine)}
    styles: list[dict[str, Floats]] = []
    for name, archive in STYLES.items():
        path = yield from fetch(archive, stop)
        yield Progress(f"reading {archive.name}")
        codes = {_plain(code): code for code in wanted}
        found: dict[str, Floats] = {}
        for file, content in Files(path):
            if file.startswith(_FOLDERS[name]):
                code = _plain(file.removeprefix(_FOLDERS[name]).split(".")[0].upper())
                if code in codes:
                    found[codes[code]] = read(content)
        styles.append(found)
    kept = [code for code in wanted if all(code in style for style in styles)]
    if not kept:
        raise ArchiveError("The packages hold none of the pictures that belong together.")
    concepts = tuple(
        Concept(
            code,
            wanted[code]["label"],
            tuple(wanted[code].get("tags", ())),
            tuple(mine.get(wanted[code]["label"], {}).get("says", ())),
        )
        for code in kept
    )
    pixels = np.stack([np.stack([style[code] for style in styles]) for code in kept])
    yield Progress("recolouring")
    objects = [n for n, each in enumerate(concepts) if mine.get(each.label, {}).get("recolour")]
    return with_colours(concepts, pixels, objects)


def _wanted(entry: Mapping[str, Any], preset: PresetName, mine: Mapping[str, Any]) -> bool:
    if "subgroup" not in entry or "200D" in entry["hexcode"] or entry["label"] in _NEVER:
        return False
    if preset == "full":
        return entry["group"] in _FULL_GROUPS
    return entry["subgroup"] in _MOOD_SUBGROUPS or entry["label"] in mine


def _plain(code: str) -> str:
    """A code without the sign that asks for the emoji's coloured form, which some sets leave out."""
    return code.replace("-FE0F", "")


def read(content: bytes) -> Floats:
    """A picture file → (4, SIDE, SIDE), 0 to 1, colours multiplied by opacity."""
    with Image.open(io.BytesIO(content)) as image:
        rgba = np.asarray(image.convert("RGBA"), dtype=np.float32).transpose(2, 0, 1) / 255
    channels: Floats = np.concatenate((rgba[:3] * rgba[3:], rgba[3:]))
    if channels.shape[1:] == (SIDE, SIDE):
        return channels
    small = [np.asarray(Image.fromarray(each).resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for each in channels]
    resized = np.stack(small).clip(0, 1).astype(np.float32)
    return np.concatenate((np.minimum(resized[:3], resized[3:]), resized[3:]))


def with_colours(concepts: tuple[Concept, ...], pixels: Floats, objects: list[int]) -> Dataset:
    """Add hue-shifted copies of those objects that have one colour in every style."""
    recoloured: dict[Pair, Floats] = {}
    held_out: set[Pair] = set()
    for n in objects:
        hues = [hue_of(each) for each in pixels[n]]
        if any(hue is None for hue in hues):
            continue
        for colour, target in COLOURS.items():
            if any(apart(hue, target) < ALIKE for hue in hues if hue is not None):
                continue
            pair = Pair(n, colour)
            recoloured[pair] = np.stack(
                [shifted(each, target - hue) for each, hue in zip(pixels[n], hues, strict=True) if hue is not None]
            )
            digest = hashlib.sha256(f"{concepts[n].label} {colour}".encode()).digest()
            if digest[0] < HELD_OUT * 256:
                held_out.add(pair)
    return Dataset(concepts, pixels, recoloured, frozenset(held_out))


def apart(one: float, other: float) -> float:
    """Degrees between two hues."""
    return abs((one - other + 180) % 360 - 180)


def hue_of(picture: Floats, *, least: float = LEAST_CONCENTRATION) -> float | None:
    """The hue of (4, SIDE, SIDE) in degrees; none where there is no colour, or no one colour."""
    hue, saturation, value = _hsv(picture)
    weight = saturation * value * picture[3]
    total = weight.sum()
    if total < LEAST_COLOUR * picture[3].sum() or not total:
        return None
    mean = complex((weight * np.exp(1j * np.deg2rad(hue))).sum() / total)
    return float(np.rad2deg(np.angle(mean)) % 360) if abs(mean) >= least else None


def shifted(picture: Floats, degrees: float) -> Floats:
    """(4, SIDE, SIDE) with every hue turned."""
    hue, saturation, value = _hsv(picture)
    sector = ((hue + degrees) % 360) / 60
    colours = []
    for offset in (5, 3, 1):  # red, green, blue
        k = (offset + sector) % 6
        colours.append(value - value * saturation * np.clip(np.minimum(k, 4 - k), 0, 1))
    turned: Floats = np.concatenate((np.stack(colours) * picture[3:], picture[3:])).astype(np.float32)
    return turned


def _hsv(picture: Floats) -> tuple[Floats, Floats, Floats]:
    """Hue in degrees, saturation and value, (SIDE, SIDE) each."""
    red, green, blue = np.divide(picture[:3], np.maximum(picture[3:], 1e-3)).clip(0, 1)
    value = np.maximum(np.maximum(red, green), blue)
    chroma = value - np.minimum(np.minimum(red, green), blue)
    safe = np.maximum(chroma, 1e-6)
    hue = np.where(
        value == red,
        (green - blue) / safe % 6,
        np.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    return hue * 60, chroma / np.maximum(value, 1e-6), value
