"""``loquent train anomaly``: from messages to a detector, with a report."""

import threading
from collections.abc import Generator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.cores import cores
from pipelines.downloads.archives import ArchiveError
from pipelines.downloads.cache import new_folder
from pipelines.downloads.fetch import PackageError
from pipelines.downloads.progress import Progress
from server.commands.failure import Exit, Failure
from server.commands.progress import display, shown
from server.commands.training import foreign

if TYPE_CHECKING:
    from pipelines.anomaly.training.train import Trained
    from pipelines.embedding.model import EmbeddingModel


@dataclass(frozen=True, slots=True)
class Training:
    """The training data and the output folder."""

    normal: str | None  # a file of an operator's messages; None: the bundled recipe
    out: str
    narrow: bool = False
    alpha: float = 0.01
    seed: int = 0


def train_anomaly(asked: Training) -> None:
    """Train, calibrate, report. Raises: Failure that says what to do."""
    if not 0 < asked.alpha < 0.5:
        raise Failure(Exit.USAGE, f"--alpha is a share of messages, such as 0.01; {asked.alpha:g} is none.")
    if asked.narrow and asked.normal is None:
        raise Failure(Exit.USAGE, "--narrow requires your assistant's own messages: --normal my_messages.jsonl")
    target = Path(asked.out)
    if strange := foreign(target, PARTS):
        raise Failure(
            Exit.USAGE, f"{target} holds {strange}, which is no part of a detector; name another folder with --out."
        )
    try:
        import matplotlib  # noqa: F401 - fails now rather than after the work

        if asked.normal is None:
            import hassil  # noqa: F401
    except ModuleNotFoundError as error:
        raise Failure(Exit.RUN_TIME, f"Training needs {error.name}: pip install 'loquent[train]'") from None
    with display() as show:
        _train(asked, target, partial(shown, show=show))


PARTS = {"detector.json", "detector.safetensors", "report.html", "losses.png", "roc.png", "latent.png", "MODEL_CARD.md"}


def _train(asked: Training, target: Path, run: Any) -> None:
    import torch

    from pipelines.anomaly.calibrate import CalibrationError
    from pipelines.anomaly.training.train import TrainingError
    from pipelines.embedding import e5

    torch.set_num_threads(cores())
    torch.use_deterministic_algorithms(True)
    stop = threading.Event()
    try:
        messages = _read_own(asked)  # before anything is fetched
        model = e5.load(run(e5.prepare(stop)))
        if messages is None:
            trained, about = _bundled(asked, model, stop, run)
        else:
            trained, about = _own(asked, messages, model, stop, run)
    except (TrainingError, ArchiveError, CalibrationError, PackageError) as error:
        raise Failure(Exit.RUN_TIME, str(error)) from None
    run(_write(target, trained, about, card=messages is None))
    print(f"The detector is in {target}; its report: {target / 'report.html'}")
    print(f'To use it, in config.toml:\n[anomaly]\ndetector = "{target}"\nalpha = {asked.alpha:g}')


def _read_own(asked: Training) -> Any:
    from pipelines.anomaly.training import own

    return None if asked.normal is None else own.read_own(Path(asked.normal))


def _bundled(
    asked: Training, model: "EmbeddingModel", stop: threading.Event, run: Any
) -> "tuple[Trained, dict[str, Any]]":
    from pipelines.anomaly.training import corpora, judging, recipe

    corpus = run(recipe.gather(model, stop, seed=asked.seed, threads=cores()))
    trained = run(recipe.run(corpus, model, stop, alpha=asked.alpha, seed=asked.seed, threads=cores()))
    result = run(judging.judge(corpus, trained.detector, model, stop, seed=asked.seed, threads=cores()))
    about = {
        "recipe": "loquent train anomaly",
        "seed": asked.seed,
        "messages trained on": len(corpus.normal("train")),
        "messages calibrated on": len(corpus.normal("calibrate")),
        "only judge": ", ".join(source.name for source in corpora.SOURCES if source.part == "test"),
        "packages": ", ".join(f"{each.name} {each.version} ({each.licence})" for each in corpora.ARCHIVES.values()),
    }
    return replace(trained, result=result), about


def _own(
    asked: Training, messages: Any, model: "EmbeddingModel", stop: threading.Event, run: Any
) -> "tuple[Trained, dict[str, Any]]":
    from pipelines.anomaly.training import own
    from pipelines.anomaly.weights import load

    base = load()
    trained = run(
        own.run(messages, base, model, stop, narrow=asked.narrow, alpha=asked.alpha, seed=asked.seed, threads=cores())
    )
    odd = trained.suspicious
    if odd:
        print(
            f"{len(odd)} messages look like attacks to the bundled detector. If they are, leave them out and "
            "train again:"
        )
        print("  " + ", ".join(odd[:20]) + (", …" if len(odd) > 20 else ""))
    if trained.scarce:
        few = ", ".join(f"{language} ({count} messages)" for language, count in trained.scarce)
        print(f"Too few to know what is normal: {few}. Messages in these languages are judged with caution; add some.")
    if (least := trained.detector.calibration.least_alpha()) > asked.alpha:
        print(
            f"With so few messages some heads detect nothing below alpha = {least:.2g}. Add messages, or choose a "
            "larger --alpha, which allows more false alarms."
        )
    return trained, {
        "messages": len(messages.texts),
        "narrow": asked.narrow,
        "seed": asked.seed,
        "look like attacks": ", ".join(odd) or "none",
    }


def _write(target: Path, trained: "Trained", about: dict[str, Any], *, card: bool) -> Generator[Progress, None, None]:
    from pipelines.anomaly.training import report
    from pipelines.anomaly.weights import save

    yield Progress("writing the report")
    with new_folder(target.resolve()) as folder:
        save(trained.detector, folder, about=about)
        report.write(folder, trained, about)
        folder.chmod(0o755)  # a temporary folder is private to its owner
        if card and trained.result is not None:
            (folder / "MODEL_CARD.md").write_text(
                report.card(trained.detector, about, trained.result), encoding="utf-8"
            )
