"""A detector's files: numbers in ``detector.safetensors``, words in ``detector.json``. Nothing of it is run."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from pipelines.anomaly.calibrate import ALL, EVERY, HEADS, Calibration, CalibrationError, Level
from pipelines.anomaly.classifier import Classifier
from pipelines.anomaly.detector import Detector, Examples, Scaled
from pipelines.anomaly.kinds import LENGTHS, Identifier, Kind
from pipelines.anomaly.language import LETTER_BUCKETS, PAIR_BUCKETS, Language
from pipelines.anomaly.surface import FEATURES
from pipelines.anomaly.vae import VAE, Shape
from pipelines.anomaly.wording import BUCKETS, Wording
from pipelines.downloads.cache import sha256
from pipelines.embedding.passages import DIMENSIONS

FORMAT = 3
NUMBERS, WORDS = "detector.safetensors", "detector.json"
BUNDLED = Path(__file__).parent / "bundled"
LARGEST = 64 << 20  # bytes of either file


def save(detector: Detector, folder: Path, *, about: dict[str, Any]) -> None:
    """Write a detector into an existing folder; ``about`` says what it was made from, for people."""
    arrays: dict[str, np.ndarray[Any, Any]] = {
        "language.words": detector.language.words,
        "language.pairs": detector.language.pairs,
        "examples.embeddings": detector.examples.embeddings.astype(np.float16),
        "examples.surface": detector.examples.surface.astype(np.float32),
        "examples.scores": detector.examples.scores.astype(np.float32),
        "examples.held_out": detector.examples.held_out,
    }
    for length, runs in detector.language.runs.items():
        arrays[f"language.runs.{length}"] = runs
    for name, head in (("surface", detector.surface), ("semantic", detector.semantic)):
        arrays |= {f"{name}.mean": head.mean, f"{name}.deviation": head.deviation}
        arrays |= {f"{name}.vae.{key}": value.numpy() for key, value in head.vae.state_dict().items()}
    for name, classifier in (("injections", detector.injections), ("documents", detector.documents)):
        networks = [field.name for field in fields(classifier) if field.name != "wording"]
        arrays |= {f"{name}.{field}": getattr(classifier, field) for field in networks}
        arrays |= {
            f"{name}.wording": classifier.wording.weights.astype(np.float16),
            f"{name}.wording_bias": np.array([classifier.wording.bias], dtype=np.float32),
        }
    arrays |= {f"calibration.{head}.{length}": pool for (head, length), pool in detector.calibration.pools.items()}
    (folder / NUMBERS).write_bytes(save_arrays({key: np.ascontiguousarray(value) for key, value in arrays.items()}))
    words = {
        "format": FORMAT,
        "name": detector.name,
        "narrow": detector.narrow,
        "alpha": detector.alpha,
        "shares": dict(detector.calibration.shares),
        "shapes": {"surface": _shape(detector.surface.vae), "semantic": _shape(detector.semantic.vae)},
        "features": list(FEATURES),
        "sha256": sha256(folder / NUMBERS),
        "about": about,
        "examples": {
            "ids": list(detector.examples.ids),
            "texts": list(detector.examples.texts),
            "kinds": [[str(kind) for kind in kinds] for kinds in detector.examples.kinds],
        },
        "levels": {
            head: {key: [level.middle, level.spread, level.count] for key, level in levels.items()}
            for head, levels in detector.calibration.levels.items()
        },
        "vocabulary": list(detector.language.vocabulary),
    }
    (folder / WORDS).write_text(json.dumps(words, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def load(folder: Path = BUNDLED) -> Detector:
    """Read a detector.

    Raises: CalibrationError when a file is missing, damaged, does not belong to the other one, or holds what can't be.
    """
    try:
        if max((folder / name).stat().st_size for name in (NUMBERS, WORDS)) > LARGEST:
            raise CalibrationError(f"{folder} holds files that are too large to be a detector's.")
        words = json.loads((folder / WORDS).read_text(encoding="utf-8"))
        if words["format"] != FORMAT or words["features"] != list(FEATURES):
            raise CalibrationError(f"{folder} was made by another version of Loquent: run loquent train anomaly again.")
        if sha256(folder / NUMBERS) != words["sha256"]:
            raise CalibrationError(f"{folder / NUMBERS} is not the file that {WORDS} was written with.")
        return _read(words, load_arrays((folder / NUMBERS).read_bytes()))
    except CalibrationError as error:
        raise CalibrationError(f"{folder}: {error}" if str(folder) not in str(error) else str(error)) from None
    except OSError as error:
        raise CalibrationError(f"{folder} holds no detector: {error.strerror or error}.") from None
    except Exception as error:  # whatever is in the files, it is not a detector
        raise CalibrationError(f"{folder} can't be read as a detector: {type(error).__name__}.") from None


def _read(words: dict[str, Any], arrays: dict[str, Any]) -> Detector:
    for name, array in arrays.items():
        known = array if name != "examples.scores" else array[~np.isnan(array)]  # a head may have nothing to judge
        if array.dtype.kind == "f" and not np.isfinite(known).all():
            raise CalibrationError(f"{name} holds what is no number")
    vocabulary = tuple(str(word) for word in words["vocabulary"])
    language = Language(
        {length: _sized(arrays[f"language.runs.{length}"], size, kind="u") for length, size in LETTER_BUCKETS.items()},
        vocabulary,
        _sized(arrays["language.words"], len(vocabulary) + 1),
        _sized(arrays["language.pairs"], PAIR_BUCKETS, kind="u"),
    )
    count = len(words["examples"]["ids"])
    if len(words["examples"]["kinds"]) != count:
        raise CalibrationError("not every example has a kind")
    texts = tuple(str(text) for text in words["examples"]["texts"])
    if len(texts) not in (0, count):
        raise CalibrationError("not every example has its text")
    if not count:
        raise CalibrationError("there are no examples of normal messages")
    examples = Examples(
        tuple(str(id) for id in words["examples"]["ids"]),
        _sized(arrays["examples.embeddings"], count, DIMENSIONS).astype(np.float32),
        _sized(arrays["examples.surface"], count, len(FEATURES)),
        _sized(arrays["examples.scores"], count, 3),
        tuple((Kind.of(whole), Kind.of(said)) for whole, said in words["examples"]["kinds"]),
        _sized(arrays["examples.held_out"], count, kind="b"),
        texts,
    )
    alpha = float(words["alpha"])
    if not 0 < alpha < 0.5:
        raise CalibrationError("alpha is not between 0 and 0.5")
    return Detector(
        Identifier(),
        language,
        _scaled("surface", words, arrays, len(FEATURES)),
        _scaled("semantic", words, arrays, DIMENSIONS),
        _classifier("injections", arrays),
        _classifier("documents", arrays),
        examples,
        _calibration(words, arrays),
        alpha,
        str(words["name"]),
        bool(words["narrow"]),
    )


def _calibration(words: dict[str, Any], arrays: dict[str, Any]) -> Calibration:
    return Calibration(
        {
            head: {
                str(key): Level(float(middle), float(spread), int(known))
                for key, (middle, spread, known) in words["levels"][head].items()
            }
            for head in EVERY
        },
        {
            (head, length): arrays[f"calibration.{head}.{length}"]
            for head in EVERY
            for length in (ALL, *LENGTHS)
            if f"calibration.{head}.{length}" in arrays
        },
        {head: float(words["shares"][head]) for head in HEADS},
    )


def _classifier(name: str, arrays: dict[str, Any]) -> Classifier:
    networks, hidden = arrays[f"{name}.output"].shape
    if networks < 1:
        raise CalibrationError(f"the {name} classifier has no network")
    deviation = _sized(arrays[f"{name}.deviation"], DIMENSIONS)
    if (deviation <= 0).any():
        raise CalibrationError(f"a deviation of the {name} classifier is not above 0")
    return Classifier(
        _sized(arrays[f"{name}.mean"], DIMENSIONS),
        deviation,
        _sized(arrays[f"{name}.hidden"], networks, hidden, DIMENSIONS),
        _sized(arrays[f"{name}.hidden_bias"], networks, hidden),
        _sized(arrays[f"{name}.output"], networks, hidden),
        _sized(arrays[f"{name}.output_bias"], networks),
        Wording(
            _sized(arrays[f"{name}.wording"], 2 * BUCKETS).astype(np.float32),
            float(_sized(arrays[f"{name}.wording_bias"], 1)[0]),
        ),
    )


def _sized(array: Any, *shape: int, kind: str = "f") -> Any:
    """The array, if it has this shape and kind of numbers ("f", "u" or "b", as numpy has them)."""
    if array.shape != shape or array.dtype.kind != kind:
        raise CalibrationError(f"an array of {array.shape} ({array.dtype}) stands where one of {shape} belongs")
    return array


def _scaled(name: str, words: dict[str, Any], arrays: dict[str, Any], inputs: int) -> Scaled:
    hidden, latent = words["shapes"][name]
    _sized(arrays[f"{name}.vae.mean.weight"], latent, hidden)  # before anything of the size that it claims is made
    vae = VAE(Shape(inputs, int(hidden), int(latent)))
    prefix = f"{name}.vae."
    vae.load_state_dict(
        {
            key.removeprefix(prefix): torch.from_numpy(value.copy())
            for key, value in arrays.items()
            if key.startswith(prefix)
        }
    )
    deviation = _sized(arrays[f"{name}.deviation"], inputs)
    if (deviation <= 0).any():
        raise CalibrationError(f"a deviation of the {name} head is not above 0")
    return Scaled(vae.eval(), _sized(arrays[f"{name}.mean"], inputs), deviation)


def _shape(vae: VAE) -> list[int]:
    return [vae.shape.hidden, vae.shape.latent]
