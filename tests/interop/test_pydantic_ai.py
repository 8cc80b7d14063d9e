"""Pydantic AI."""

import pytest

from tests.interop.peers import Cases, cases, fits_weather


@pytest.fixture(scope="module")
def told(server_url: str) -> Cases:
    return cases("pydantic_ai_peer.py", server_url)


@pytest.mark.parametrize("case", ["typed_by_function", "typed_by_schema", "typed_responses"])
def test_a_typed_output_validates_at_the_first_try(told: Cases, case: str) -> None:
    assert isinstance(told[case]["inhabitants"], int)


@pytest.mark.parametrize("case", ["chat", "responses", "streamed"])
def test_an_agent_calls_the_function_and_ends_with_words(told: Cases, case: str) -> None:
    fits_weather(told[case])


def test_an_agents_words_are_streamed(told: Cases) -> None:
    assert told["streamed"]["chunks"] > 2


def test_a_loop_that_must_call_ends_with_its_typed_output(told: Cases) -> None:
    assert told["typed_with_function"]["calls"] == [{"city": "Paris"}]
    assert set(told["typed_with_function"]["output"]) == {"city", "weather"}
