"""``loquent train tasks``: a model that a server loads, in parts, and what it refuses."""

import signal
from functools import partial
from pathlib import Path

import pytest

from pipelines.chat.model.load import load
from pipelines.chat.settings import ChatSettings
from pipelines.chat.training import train
from server.commands.failure import Exit, Failure
from server.commands.train_tasks import train_tasks
from tests.support import run

Run = train.Run


@pytest.fixture
def short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of a few steps, with a cache of its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(train, "Run", partial(Run, steps=6, batch=8))
    monkeypatch.setattr(train, "judge", partial(train.judge, count=4))


@pytest.mark.usefixtures("short")
def test_a_stopped_run_goes_on_and_its_model_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    advance, target = Run.advance, tmp_path / "tasks"

    def interrupted(self: Run) -> float:
        if self.step == 3:
            signal.raise_signal(signal.SIGINT)
        return advance(self)

    with monkeypatch.context() as patched:
        patched.setattr(Run, "advance", interrupted)
        assert train_tasks(str(target), 0)
    assert "Stopped at step 4 of 6" in capsys.readouterr().out
    assert not target.exists()
    assert not train_tasks(str(target), 0)
    said = capsys.readouterr().out
    assert f'model = "{target}"' in said
    settings = {"model": str(target), "dtype": "float32", "threads": 1, "streams": 1}
    assert load(target, ChatSettings.model_validate(settings)).encoder is not None


@pytest.mark.usefixtures("short")
def test_a_folder_with_something_else_in_it_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(Failure, match=r"thesis\.txt") as failure:
        train_tasks(str(tmp_path), 0)
    assert failure.value.code == Exit.USAGE


def test_options_of_the_other_trainings_are_named(loquent: str) -> None:
    done = run(loquent, "train", "tasks", "--minutes", "3")
    assert done.returncode == Exit.USAGE
    assert "--minutes means nothing" in done.stderr
