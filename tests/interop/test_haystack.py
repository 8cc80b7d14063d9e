"""Haystack."""

import pytest

from tests.interop.peers import Cases, cases, fits_weather


@pytest.fixture(scope="module")
def told(server_url: str) -> Cases:
    return cases("haystack_peer.py", server_url)


@pytest.mark.parametrize("case", ["chat", "responses", "streamed"])
def test_an_agent_calls_the_function_and_ends_with_words(told: Cases, case: str) -> None:
    fits_weather(told[case])


def test_an_agents_words_are_streamed(told: Cases) -> None:
    assert told["streamed"]["chunks"] > 2


def test_a_typed_answer_validates(told: Cases) -> None:
    assert set(told["typed"]) == {"name", "country"}


def test_long_documents_get_their_embeddings(told: Cases) -> None:
    assert told["embeddings"] == {"embedded": 32}
