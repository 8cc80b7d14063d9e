"""``loquent train image``: from emoji to a generator of pictures, with a report."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.cores import cores
from pipelines.downloads.archives import ArchiveError
from pipelines.downloads.cache import cache_folder, locked, new_folder
from pipelines.downloads.fetch import PackageError
from pipelines.downloads.progress import Progress, Stopped
from pipelines.embedding import minilm
from pipelines.embedding.model import EmbeddingModel
from server.commands.failure import Exit, Failure
from server.commands.progress import display, shown
from server.commands.training import foreign, interruptible

if TYPE_CHECKING:
    import torch

    from pipelines.image.training.dataset import PresetName
    from pipelines.image.training.train import Run


@dataclass(frozen=True, slots=True)
class ImageTraining:
    """What to train, and the output folder."""

    preset: "PresetName"
    out: str
    seed: int = 0
    minutes: float | None = None  # after which it stops; the next run resumes


def train_image(asked: ImageTraining) -> bool:
    """Train, or resume a stopped run; at its end measure and report. Returns whether the user interrupted it.

    Raises: Failure that says what to do.
    """
    if asked.minutes is not None and asked.minutes <= 0:
        raise Failure(Exit.USAGE, f"--minutes is how long to train now; {asked.minutes:g} is no time.")
    target = Path(asked.out)
    try:
        import matplotlib  # noqa: F401 - fails now rather than after the work
    except ModuleNotFoundError as error:
        raise Failure(Exit.RUN_TIME, f"Training needs {error.name}: pip install 'loquent[train]'") from None
    from pipelines.image.training.report import PARTS
    from pipelines.image.training.train import TrainingError

    if strange := foreign(target, PARTS):
        raise Failure(
            Exit.USAGE, f"{target} holds {strange}, which is no part of a generator; name another folder with --out."
        )
    stop = threading.Event()
    deadline = time.monotonic() + asked.minutes * 60 if asked.minutes else float("inf")
    with interruptible(stop) as interrupted, display() as show:

        def watched(step: Progress) -> None:
            show(step)
            if time.monotonic() > deadline:
                stop.set()

        def measured(step: Progress) -> None:
            show(step)
            if interrupted:  # nothing is lost: training is over
                raise Stopped

        try:
            _train(asked, target, stop, partial(shown, show=watched), partial(shown, show=measured))
        except Stopped:
            return bool(interrupted)
        except (TrainingError, ArchiveError, PackageError) as error:
            raise Failure(Exit.RUN_TIME, str(error)) from None
    return False


@contextmanager
def _deterministic(device: "torch.device") -> Iterator[None]:
    """Make training deterministic on a CPU, where that costs nothing."""
    import torch

    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(device.type == "cpu")
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _train(asked: ImageTraining, target: Path, stop: threading.Event, run: Any, measure: Any) -> None:
    """``run`` does work that stops cleanly by itself; ``measure`` does work that may be aborted."""
    import torch

    from pipelines.image.training import dataset as pictures
    from pipelines.image.training import train

    preset = train.PRESETS[asked.preset]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.set_num_threads(cores())
    data = run(pictures.gather(preset.name, stop))
    model = minilm.load(run(minilm.prepare(stop)), exact=True)
    wording = measure(train.embed_captions(data, model, threads=cores()))
    training = train.Run(preset, data, wording, seed=asked.seed, device=device)
    checkpoint = cache_folder() / "image" / f"{preset.name}-seed{asked.seed}.pt"
    try:
        lock = run(locked(checkpoint, stop))  # two runs of one preset and seed would overwrite each other
        try:
            with _deterministic(device):
                run(train.train(training, checkpoint, stop))
        finally:
            lock.release()
    except Stopped:
        print(f"Stopped at step {training.step} of {preset.steps}. The same command goes on from there.")
        raise
    _write(target, training, model, measure)
    print(f"The generator is in {target}; its report: {target / 'report.html'}")
    print(f'To use it, in config.toml:\n[image]\nweights = "{target}"')


def _write(target: Path, training: "Run", model: EmbeddingModel, run: Any) -> None:
    from pipelines.image.training import recipe
    from pipelines.image.training.dataset import STYLES

    preset = training.preset
    result = run(recipe.measured(training, model, threads=cores()))
    about = {
        "recipe": f"loquent train image --preset {preset.name} --seed {training.seed}",
        "steps": preset.steps,
        "pictures of a step": preset.batch,
        "parameters": sum(each.numel() for each in training.generator.parameters()),
        "packages": ", ".join(f"{each.name} {each.version} ({each.licence})" for each in STYLES.values()),
    }
    with new_folder(target.resolve()) as folder:
        run(recipe.write(folder, training, model, result, about, threads=cores()))
        folder.chmod(0o755)  # a temporary folder is private to its owner
