"""Pydantic AI."""

import pytest

from tests.interop.peers import Cases, cases, fits_report, fits_weather


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


@pytest.mark.parametrize("case", ["typed_with_function", "typed_with_function_responses", "schema_with_function"])
def test_a_loop_over_a_function_ends_with_its_typed_output(told: Cases, case: str) -> None:
    fits_report(told[case])
