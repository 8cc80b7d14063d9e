"""A generator's files: numbers in ``image.safetensors``, words in ``image.json``. Nothing of it is run."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from pipelines.downloads.cache import sha256
from pipelines.embedding.passages import DIMENSIONS
from pipelines.image.generator import Generator, Shape
from pipelines.image.repertoire import Repertoire, Words

FORMAT = 1
NUMBERS, WORDS = "image.safetensors", "image.json"
BUNDLED = Path(__file__).parent / "bundled"
LARGEST = 64 << 20  # bytes of either file
MOST_CHANNELS = 2048  # of a layer


class WeightsError(Exception):
    """The files hold no generator; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Drawer:
    """A generator and its repertoire."""

    words: Words
    generator: Generator
    repertoire: Repertoire


def save(folder: Path, words: Words, generator: Generator, captions: torch.Tensor, drawn: torch.Tensor) -> None:
    """Write into an existing folder; captions (K, 384) and drawn (N, 384) are in the order of ``words.concepts``."""
    tensors = {f"generator.{name}": value.half().contiguous() for name, value in generator.state_dict().items()}
    tensors |= {"captions": captions.half().contiguous(), "drawn": drawn.half().contiguous()}
    (folder / NUMBERS).write_bytes(save_tensors(tensors))
    described = {
        "format": FORMAT,
        "name": words.name,
        "shape": asdict(generator.shape),
        "sha256": sha256(folder / NUMBERS),
        "styles": list(words.styles),
        "about": dict(words.about),
        "concepts": [
            {"label": label, "captions": list(captions), "colours": list(colours)}
            for label, captions, colours in words.concepts
        ],
    }
    (folder / WORDS).write_text(json.dumps(described, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def load(folder: Path = BUNDLED) -> Drawer:
    """Read a generator.

    Raises: WeightsError when a file is missing, damaged, does not belong to the other one, or holds what can't be.
    """
    try:
        if max((folder / name).stat().st_size for name in (NUMBERS, WORDS)) > LARGEST:
            raise WeightsError(f"{folder} holds files that are too large to be a generator's.")
        described = json.loads((folder / WORDS).read_text(encoding="utf-8"))
        if described["format"] != FORMAT:
            raise WeightsError(f"{folder} was made by another version: run loquent train image again.")
        if sha256(folder / NUMBERS) != described["sha256"]:
            raise WeightsError(f"{folder / NUMBERS} is not the file that {WORDS} was written with.")
        return _read(folder, described, load_tensors((folder / NUMBERS).read_bytes()))
    except WeightsError:
        raise
    except OSError as error:
        raise WeightsError(f"{folder} holds no generator: {error.strerror or error}.") from None
    except Exception as error:  # whatever is in the files, it is no generator
        raise WeightsError(f"{folder} can't be read as a generator: {type(error).__name__}.") from None


def _read(folder: Path, described: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Drawer:
    if not all(torch.isfinite(each).all() for each in tensors.values()):
        raise WeightsError(f"{folder / NUMBERS} holds what is no number.")
    shape = Shape(**(described["shape"] | {"widths": tuple(int(width) for width in described["shape"]["widths"])}))
    sizes = (*shape.widths, shape.last, shape.hidden, shape.noise)
    if shape.text != DIMENSIONS or not all(0 < size <= MOST_CHANNELS for size in sizes):
        raise WeightsError(f"{folder / WORDS} has a shape that no generator here has.")
    words = Words(
        str(described["name"]),
        tuple(str(style) for style in described["styles"]),
        tuple(
            (str(each["label"]), tuple(map(str, each["captions"])), tuple(map(str, each["colours"])))
            for each in described["concepts"]
        ),
        described["about"],
    )
    owners = [n for n, (_, captions, _) in enumerate(words.concepts) for _ in captions]
    captions, drawn = tensors.pop("captions").float(), tensors.pop("drawn").float()
    many = sum(1 + len(colours) for _, _, colours in words.concepts)
    if captions.shape != (len(owners), DIMENSIONS) or drawn.shape != (many, DIMENSIONS):
        raise WeightsError(f"{folder / NUMBERS} has not as many captions as {WORDS}.")
    if len(words.styles) != shape.styles or not owners:
        raise WeightsError(f"{folder / WORDS} names no concepts, or not as many styles as there are.")
    generator = Generator(shape)
    generator.load_state_dict({name.removeprefix("generator."): value.float() for name, value in tensors.items()})
    generator = generator.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    repertoire = Repertoire(
        [label for label, _, _ in words.concepts],
        [colours for _, _, colours in words.concepts],
        owners,
        captions.numpy().astype(np.float32),
        drawn.numpy().astype(np.float32),
    )
    return Drawer(words, generator, repertoire)
