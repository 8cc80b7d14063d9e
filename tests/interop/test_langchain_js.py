"""LangChain in JavaScript."""

import pytest

from tests.interop.peers import Cases, cases, fits_weather


@pytest.fixture(scope="module")
def told(server_url: str) -> Cases:
    return cases("langchain.mjs", server_url)


@pytest.mark.parametrize("case", ["agent_chat", "agent_responses"])
def test_an_agent_calls_the_function_and_ends_with_words(told: Cases, case: str) -> None:
    fits_weather(told[case])
    assert told[case]["kinds"] == ["human", "ai", "tool", "ai"]


def test_an_agents_words_are_streamed(told: Cases) -> None:
    fits_weather(told["streamed"])
    assert told["streamed"]["chunks"] > 2


@pytest.mark.parametrize("case", ["schema_chat", "schema_responses", "schema_by_function"])
def test_structured_output_validates(told: Cases, case: str) -> None:
    assert set(told[case]) == {"name", "country"}


def test_a_request_of_many_long_texts_is_embedded(told: Cases) -> None:
    assert told["embeddings"] == {"count": 40, "length": 384}
