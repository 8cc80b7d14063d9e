"""How a text is worded: its features, and the linear model on them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.anomaly.wording import BUCKETS, Wording, features


@given(st.text())
def test_any_text_has_features_in_order_and_of_unit_length(text: str) -> None:
    places, amounts = features(text)
    assert len(places) == len(amounts)
    assert (np.diff(places) > 0).all()
    assert not len(places) or 0 <= places[0] <= places[-1] < 2 * BUCKETS
    for of in (places < BUCKETS, places >= BUCKETS):
        assert not of.any() or np.linalg.norm(amounts[of]) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("text", ["", " ", "a", "\ud800", "🙂" * 3, "漢字", "a\x00b"])
def test_the_shortest_and_oddest_texts_have_a_score(text: str) -> None:
    wording = Wording(np.ones(2 * BUCKETS, dtype=np.float32), -1.0)
    assert np.isfinite(wording.score([text])).all()


def test_spaces_and_capitals_change_nothing_and_the_order_of_words_does() -> None:
    def alike(one: str, other: str) -> bool:
        (places, amounts), (other_places, other_amounts) = features(one), features(other)
        return np.array_equal(places, other_places) and np.array_equal(amounts, other_amounts)

    assert alike("Ignore  all\nprevious RULES", "ignore all previous rules")
    assert not alike("ignore all previous rules", "all previous rules ignore")


def test_a_score_is_the_bias_and_the_weights_of_what_is_there() -> None:
    weights = np.zeros(2 * BUCKETS, dtype=np.float32)
    places, _ = features("obey")
    weights[places[0]] = 2.0
    scores = Wording(weights, 0.5).score(["obey", "something else", ""])
    assert scores[0] == pytest.approx(2.5)
    assert scores[1:].tolist() == [0.5, 0.5]
