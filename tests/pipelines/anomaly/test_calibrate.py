"""Conformal p-values."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from pipelines.anomaly.calibrate import (
    ALL,
    ENOUGH,
    EVERY,
    HEADS,
    LEAST,
    Calibration,
    CalibrationError,
    HeadName,
    Level,
    Scored,
)
from pipelines.anomaly.kinds import LENGTHS, Identifier, Kind, script_of

EVENLY: dict[HeadName, float] = dict.fromkeys(HEADS, 1 / len(HEADS))
ENGLISH = Kind("short", "latin", ("en",))
POLISH = Kind("short", "latin", ("pl",))
UNHEARD = Kind("short", "latin", ("xx",))


def calibration(*scored: tuple[list[float], Kind]) -> Calibration:
    scores = [score for each, _ in scored for score in each]
    kinds = [kind for each, kind in scored for _ in each]
    return Calibration.fit(dict.fromkeys(EVERY, Scored(scores, kinds)), EVENLY)


def normal(count: int, *, middle: float = 0.0, seed: int = 0) -> list[float]:
    return [float(score) for score in np.random.default_rng(seed).normal(middle, 1.0, count)]


def test_normal_scores_are_found_about_as_often_as_alpha_in_each_language() -> None:
    """Polish scores lie far above English ones, and are no rarer for it."""
    made = calibration((normal(4000), ENGLISH), (normal(1000, middle=6.0, seed=1), POLISH))
    for kind, middle in ((ENGLISH, 0.0), (POLISH, 6.0)):
        fresh = normal(4000, middle=middle, seed=2)
        for alpha in (0.01, 0.05, 0.2):
            found = sum(made.p_value("letters", kind, score) <= alpha for score in fresh) / len(fresh)
            assert 0.4 * alpha < found < 2 * alpha


def test_a_higher_score_is_never_more_usual() -> None:
    made = calibration((normal(500), ENGLISH), (normal(50, middle=3.0), POLISH))
    for kind in (ENGLISH, POLISH, UNHEARD):
        p_values = [made.p_value("surface", kind, score) for score in np.linspace(-5, 50, 200)]
        assert p_values == sorted(p_values, reverse=True)
        assert p_values[-1] == pytest.approx(1 / (len(made.pools["surface", ALL]) + 1))


def test_what_is_long_and_odd_does_not_hide_what_is_short_and_odd() -> None:
    odd = [*normal(3 * LEAST, seed=1), *[60.0] * (LEAST // 6)]
    made = calibration((normal(3 * LEAST), ENGLISH), (odd, Kind("medium", "latin", ("en",))))
    assert made.p_value("letters", ENGLISH, 30.0) < 1 / LEAST
    assert made.p_value("letters", Kind("medium", "latin", ("en",)), 30.0) > 0.02
    few = calibration((normal(LEAST), ENGLISH), (odd, Kind("medium", "latin", ("en",))))
    assert few.p_value("letters", ENGLISH, 30.0) > 0.02, "too few of this length to be judged among themselves"


def test_few_messages_of_a_language_lean_on_their_script() -> None:
    """Of twelve messages nobody can tell what one in a hundred is like: their spread is mostly that of others."""
    few = calibration((normal(4000), ENGLISH), ([3.0] * 2 * ENOUGH, POLISH))
    level = few.levels["letters"]["short latin pl"]
    assert 0.0 < level.middle < 3.0
    assert level.spread > 0.3, "twelve equal scores do not make any other one an anomaly"
    assert few.knows("letters", POLISH)


def test_a_language_that_is_not_known_is_judged_with_caution() -> None:
    languages = [
        (normal(400, middle=float(n), seed=n), Kind("short", "latin", (name,))) for n, name in enumerate("abcdef")
    ]
    made = calibration(*languages)
    assert not made.knows("letters", UNHEARD)
    assert made.p_value("letters", UNHEARD, 8.0) > made.p_value("letters", Kind("short", "latin", ("a",)), 8.0)
    assert made.p_value("letters", UNHEARD, 1000.0) < 0.01, "still nothing is allowed to be anything"


def test_a_text_of_two_possible_languages_is_judged_by_the_one_that_suits_it() -> None:
    made = calibration((normal(1000), ENGLISH), (normal(1000, middle=6.0, seed=1), POLISH))
    either = Kind("short", "latin", ("en", "pl"))
    assert made.p_value("letters", either, 6.0) == made.p_value("letters", POLISH, 6.0)
    assert made.p_value("letters", either, 6.0) > made.p_value("letters", ENGLISH, 6.0)


def test_no_number_is_as_unusual_as_can_be() -> None:
    made = calibration((normal(99), ENGLISH))
    least = 1 / (len(made.pools["surface", ALL]) + 1)
    assert made.p_value("surface", ENGLISH, math.nan) == least
    assert made.p_value("surface", ENGLISH, math.inf) == least


def test_the_heads_share_one_budget() -> None:
    made = calibration((normal(99), ENGLISH))
    p_values: dict[HeadName, float] = dict.fromkeys(HEADS, 0.5)
    p_values["injection"] = 0.01
    p_value, head = made.combined(p_values)
    assert p_value == pytest.approx(0.05)
    assert head == "injection"


@pytest.mark.parametrize(
    ("text", "length", "script", "language"),
    [
        ("Hello, how are you doing?", "short", "latin", "en"),
        ("Could you please tell me how late it is in Lisbon right now?", "medium", "latin", "en"),
        ("word " * 60, "long", "latin", "en"),
        ("Proszę włączyć światło w łazience", "short", "latin", "pl"),
        ("Включи, пожалуйста, свет на кухне", "short", "cyrillic", "ru"),
        ("キッチンの電気をつけてください", "short", "cjk", "ja"),
        ("أشعل الضوء في المطبخ من فضلك", "short", "arabic", "ar"),
        ("Vui lòng bật đèn trong nhà bếp", "short", "latin", "vi"),
    ],
)
def test_messages_are_told_apart_by_length_script_and_language(
    text: str, length: str, script: str, language: str
) -> None:
    kind = Identifier().kind(text)
    assert (kind.length, kind.script) == (length, script)
    assert language in kind.languages
    assert Kind.of(str(kind)) == kind


@pytest.mark.parametrize("text", ["", "12345", "!?", "👍👍", "\ud800"])
def test_what_has_no_letters_has_no_language(text: str) -> None:
    assert Identifier().kind(text).languages == ()
    assert script_of(text) == "latin"


def pools_of(heads: Sequence[HeadName], pool: NDArray[np.float32]) -> dict[tuple[HeadName, str], NDArray[np.float32]]:
    return {(head, ALL): pool for head in heads}


LEVELS: dict[HeadName, dict[str, Level]] = {head: {length: Level(0.0, 1.0, 9) for length in LENGTHS} for head in EVERY}


@pytest.mark.parametrize(
    ("pools", "shares"),
    [
        (pools_of(EVERY, np.array([1.0, 0.0], dtype=np.float32)), EVENLY),
        (pools_of(EVERY, np.array([0.0, np.nan], dtype=np.float32)), EVENLY),
        (pools_of(EVERY, np.array([0.0, np.inf], dtype=np.float32)), EVENLY),
        (pools_of(EVERY[:-1], np.array([0.0], dtype=np.float32)), EVENLY),
        (pools_of(EVERY, np.array([0.0], dtype=np.float32)), EVENLY | {"surface": 0.9}),
        (pools_of(EVERY, np.array([0.0], dtype=np.float32)), EVENLY | {"surface": -0.2, "order": 0.6}),
    ],
)
def test_what_can_be_no_calibration_is_refused(
    pools: dict[tuple[HeadName, str], NDArray[np.float32]], shares: dict[HeadName, float]
) -> None:
    with pytest.raises(CalibrationError):
        Calibration(LEVELS, pools, shares)


@pytest.mark.parametrize("level", [Level(math.nan, 1.0, 9), Level(0.0, 0.0, 9), Level(0.0, -1.0, 9)])
def test_a_level_that_can_be_none_is_refused(level: Level) -> None:
    pools = pools_of(EVERY, np.array([0.0], dtype=np.float32))
    with pytest.raises(CalibrationError, match="level"):
        Calibration(LEVELS | {"letters": {**LEVELS["letters"], "short latin en": level}}, pools, EVENLY)
