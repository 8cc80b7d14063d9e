"""Figures beside their goals: what is met, what falls short, and what was not measured."""

import re
import subprocess
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch

from bench import agreement, results
from bench.company import busy
from bench.goals import GOALS, SINGLE, WHOLE
from bench.verdicts import Goal, closing, each, one, over_the_best

SPEED = Goal("speed", each("speed/{}", (1, 4)), "≥", (1.5, 2.0), " ×")


def test_a_goal_is_met_when_every_level_reaches_its_own_bound() -> None:
    verdict = SPEED.judge({"speed/1": 1.5, "speed/4": 2.0})
    assert verdict.met
    assert verdict.row == ["speed", "1.50 / 2.00 ×", "≥ 1.50 / 2.00 ×", "met"]


def test_a_goal_falls_short_by_what_its_worst_level_misses() -> None:
    verdict = SPEED.judge({"speed/1": 1.4, "speed/4": 1.25})
    assert not verdict.met
    assert verdict.word == "short by 0.75 ×"


def test_a_figure_that_no_bench_gave_meets_no_goal() -> None:
    verdict = SPEED.judge({"speed/1": 9.0})
    assert not verdict.met
    assert verdict.word == "not measured"


def test_one_bound_holds_for_every_level() -> None:
    goal = Goal("wait", each("wait/{}", (1, 4)), "≤", (10,))
    assert goal.judge({"wait/1": 10, "wait/4": 9}).met
    assert not goal.judge({"wait/1": 10, "wait/4": 11}).met


def test_a_server_is_compared_with_the_best_of_the_peers_that_were_measured() -> None:
    values = over_the_best("{}/{}", (1, 4), "ours", ("slow", "fast", "absent"))
    figures = {"ours/1": 8.0, "slow/1": 2.0, "fast/1": 4.0, "ours/4": 9.0, "slow/4": 3.0}
    assert values(figures) == [2.0, 3.0]


def test_without_any_peer_there_is_no_comparison() -> None:
    with pytest.raises(KeyError):
        over_the_best("{}/{}", (1,), "ours", ("absent",))({"ours/1": 8.0})


def test_the_closing_line_counts_and_names_what_is_missing() -> None:
    goals = [Goal(name, one(name), "≤", (1,)) for name in ("a", "b", "c", "d")]
    verdicts = [goal.judge({"a": 1.0, "b": 2.0}) for goal in goals]
    assert closing(verdicts) == "1 of 4 goals met; short: b; not measured: c · d."


def test_no_two_goals_have_the_same_name() -> None:
    names = [goal.measure for goal in (*WHOLE, *GOALS.values())]
    assert len(set(names)) == len(names)


def test_every_single_figure_is_written_by_the_bench_that_it_names() -> None:
    for path in SINGLE:
        bench, figure = path.split("/")
        code = Path("bench", f"{bench}.py").read_text()
        assert re.search(rf'"{figure}"', code), path


def test_figures_are_read_as_they_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    runs: results.Runs = {
        ("long", ""): [{"first": 1.0}, {"first": 5.0}, {"first": 2.0}],
        ("closed", "4"): [{"tokens": float("inf")}],
    }
    results.write("streams", "text", results.medians(runs))
    assert results.read().figures == {"streams/long/first": 2.0}


def test_the_busy_process_ends_when_what_runs_beside_it_fails() -> None:
    before = {process.pid for process in psutil.Process().children()}

    def beside() -> set[int]:
        return {process.pid for process in psutil.Process().children()} - before

    with pytest.raises(subprocess.SubprocessError), busy():
        assert len(beside()) == 1
        raise subprocess.SubprocessError
    assert not beside()


@pytest.mark.parametrize("vocabulary", [5, 6])
def test_the_log_likelihoods_that_llama_cpp_wrote_are_read(tmp_path: Path, vocabulary: int) -> None:
    window, windows = 8, 2
    tokens = np.arange(window * windows, dtype=np.int32) % vocabulary
    rows = np.zeros((windows * (window - window // 2 - 1), 4 + 2 * ((vocabulary + 1) // 2)), np.uint16)
    rows[:, :4] = np.array([0.5, -4.0], np.float32).view(np.uint16)
    rows[:, 4 : 4 + vocabulary] = np.arange(vocabulary)
    path = tmp_path / "likelihoods"
    sizes = np.array([window, vocabulary, windows], np.int32).tobytes()
    path.write_bytes(agreement.MAGIC + sizes + tokens.tobytes() + rows.tobytes())
    given = agreement.parsed(path)
    assert given.wanted.tolist() == [token % vocabulary for token in (5, 6, 7, 13, 14, 15)]
    assert torch.equal(given.likelihoods, (torch.arange(vocabulary) * 0.5 - 4.0).expand(6, vocabulary))
