"""``loquent train tasks``: a small T5 that says numbers and dates in words, to try models with an encoder."""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pipelines.cores import cores
from pipelines.downloads.cache import cache_folder, locked, new_folder
from pipelines.downloads.progress import Progress, Stopped
from server.commands.failure import Exit, Failure
from server.commands.progress import display, shown
from server.commands.training import foreign, interruptible


def train_tasks(out: str, seed: int) -> bool:
    """Train, or resume a stopped run; at its end judge and write. Returns whether the user interrupted it.

    Raises: Failure that says what to do.
    """
    import torch

    from pipelines.chat.training import train
    from pipelines.chat.training.spelling import TASKS

    target = Path(out)
    if strange := foreign(target, {*train.FILES, train.REPORT}):
        text = f"{target} holds {strange}, which is no part of such a model; name another folder with --out."
        raise Failure(Exit.USAGE, text)
    torch.set_num_threads(cores())
    run, stop = train.Run(seed), threading.Event()
    checkpoint = cache_folder() / "tasks" / f"seed{seed}.pt"
    with interruptible(stop), display() as show:
        try:
            lock = shown(locked(checkpoint, stop), show)  # two runs of one seed would overwrite each other
            try:
                shown(train.train(run, checkpoint, stop), show)
            finally:
                lock.release()
            result = shown(train.judge(run), partial(_unless, stop, show))
        except Stopped:
            print(f"Stopped at step {run.step} of {run.steps}. The same command goes on from there.")
            return True
        except train.TrainingError as error:
            raise Failure(Exit.RUN_TIME, str(error)) from None
    with new_folder(target.resolve()) as folder:
        train.write(run, folder, result)
        folder.chmod(0o755)  # a temporary folder is private to its owner
    for task, share in result.items():
        print(f"{task}: {share:.1%} of held-out inputs without a mistake")
    prefixes = ", ".join(f'{name} = "{prefix}"' for name, prefix in TASKS.items())
    print(f"The model is in {target}. To use it, in config.toml:")
    print(f'[chat]\nmodel = "{target}"\ntasks = {{ {prefixes} }}')
    return False


def _unless(stop: threading.Event, show: Callable[[Progress], None], step: Progress) -> None:
    """Show the step. Raises: Stopped once that was asked for."""
    if stop.is_set():
        raise Stopped
    show(step)
