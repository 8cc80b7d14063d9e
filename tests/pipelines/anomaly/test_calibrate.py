"""Conformal p-values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipelines.anomaly.calibrate import CELLS, HEADS, Calibration, CalibrationError, HeadName, cell

EVENLY: dict[HeadName, float] = dict.fromkeys(HEADS, 1 / len(HEADS))


def calibration(scores: list[float], cells: list[str] | None = None) -> Calibration:
    return Calibration.of(dict.fromkeys(HEADS, (scores, cells or ["short"] * len(scores))), EVENLY)


def test_a_p_value_counts_the_scores_that_are_as_high() -> None:
    made = calibration([float(n) for n in range(99)])
    assert made.p_value("surface", "short", 98.5) == pytest.approx(0.01)
    assert made.p_value("surface", "short", 98.0) == pytest.approx(0.02)
    assert made.p_value("surface", "short", -1.0) == 1.0


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(-1000, 1000).map(float), min_size=51, max_size=70), st.sampled_from(HEADS))
def test_normal_scores_are_found_no_more_often_than_alpha(scores: list[float], head: HeadName) -> None:
    """The guarantee, exactly: among n + 1 exchangeable scores at most α (n + 1) have a p-value of at most α."""
    for alpha in (0.05, 0.2, 0.5):
        found = 0
        for left_out in range(len(scores)):
            made = calibration(scores[:left_out] + scores[left_out + 1 :])
            found += made.p_value(head, "short", scores[left_out]) <= alpha
        assert found <= alpha * len(scores) + 1e-9


def test_each_kind_of_message_is_judged_by_its_own() -> None:
    scores = [float(n) for n in range(100)] + [1000.0 + n for n in range(100)]
    made = calibration(scores, ["short"] * 100 + ["long"] * 100)
    assert made.p_value("letters", "short", 500.0, alpha=0.05) == pytest.approx(1 / 101)
    assert made.p_value("letters", "long", 500.0, alpha=0.05) == 1.0


def test_a_kind_with_few_messages_is_judged_by_all() -> None:
    """Of few scores none is so rare that it would be found: a head would be blind to such messages."""
    made = calibration([float(n) for n in range(2000)], ["short"] * 1900 + ["long"] * 100)
    assert not made.judges("letters", "long", 0.01)
    assert made.judges("letters", "long", 0.05)
    assert made.p_value("letters", "long", 3000.0, alpha=0.01) == pytest.approx(1 / 2001)
    assert made.p_value("letters", "long", 3000.0, alpha=0.05) == pytest.approx(1 / 101)


def test_no_number_is_as_unusual_as_can_be() -> None:
    made = calibration([0.0] * 99)
    assert made.p_value("surface", "short", float("nan")) == pytest.approx(0.01)
    assert made.p_value("surface", "short", float("inf")) == pytest.approx(0.01)


def test_the_heads_share_one_budget() -> None:
    made = calibration([0.0] * 99)
    p_values: dict[HeadName, float] = dict.fromkeys(HEADS, 0.5)
    p_values["injection"] = 0.01
    p_value, head = made.combined(p_values)
    assert p_value == pytest.approx(0.05)
    assert head == "injection"


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Hello", "short"),
        ("Could you please tell me how late it is in Lisbon right now?", "medium"),
        ("word " * 60, "long"),
        ("Proszę włączyć światło w łazience", "accented"),
        ("Включи свет на кухне", "other scripts"),
        ("キッチンの電気をつけて", "other scripts"),
        ("12345", "short"),
    ],
)
def test_messages_are_told_apart_by_length_and_script(text: str, kind: str) -> None:
    assert cell(text) == kind
    assert kind in CELLS


@pytest.mark.parametrize(
    ("scores", "shares"),
    [
        (dict.fromkeys(HEADS, np.array([1.0, 0.0], dtype=np.float32)), EVENLY),
        (dict.fromkeys(HEADS, np.array([0.0, np.nan], dtype=np.float32)), EVENLY),
        (dict.fromkeys(HEADS, np.array([0.0, np.inf], dtype=np.float32)), EVENLY),
        (dict.fromkeys(HEADS[:-1], np.array([0.0], dtype=np.float32)), EVENLY),
        (dict.fromkeys(HEADS, np.array([0.0], dtype=np.float32)), EVENLY | {"surface": 0.9}),
        (dict.fromkeys(HEADS, np.array([0.0], dtype=np.float32)), EVENLY | {"surface": -0.2, "order": 0.6}),
    ],
)
def test_what_can_be_no_calibration_is_refused(
    scores: dict[HeadName, NDArray[np.float32]], shares: dict[HeadName, float]
) -> None:
    with pytest.raises(CalibrationError):
        Calibration({(head, "short"): values for head, values in scores.items()}, shares)
