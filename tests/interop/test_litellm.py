"""LiteLLM."""

import pytest

from tests.interop.peers import Cases, cases, fits_weather


@pytest.fixture(scope="module")
def told(server_url: str) -> Cases:
    return cases("litellm_peer.py", server_url)


@pytest.mark.parametrize("case", ["chat", "streamed"])
def test_a_loop_calls_the_function_and_ends_with_words(told: Cases, case: str) -> None:
    fits_weather(told[case])


def test_words_are_streamed(told: Cases) -> None:
    assert told["streamed"]["chunks"] > 2


def test_a_typed_answer_validates(told: Cases) -> None:
    assert set(told["typed"]) == {"name", "country"}


@pytest.mark.parametrize("case", ["reasoning", "responses"])
def test_a_question_is_answered(told: Cases, case: str) -> None:
    assert told[case].strip()


def test_a_text_is_embedded(told: Cases) -> None:
    assert told["embeddings"] == 384
