"""LangChain in Python."""

import pytest

from tests.interop.peers import Cases, cases, fits_report, fits_weather


@pytest.fixture(scope="module")
def told(server_url: str) -> Cases:
    return cases("langchain_peer.py", server_url)


@pytest.mark.parametrize("case", ["agent_chat", "agent_responses", "agent_continued"])
def test_an_agent_calls_the_function_and_ends_with_words(told: Cases, case: str) -> None:
    fits_weather(told[case])
    assert told[case]["kinds"] == ["human", "ai", "tool", "ai"]


def test_an_agents_words_are_streamed(told: Cases) -> None:
    fits_weather(told["agent_streamed"])
    assert told["agent_streamed"]["chunks"] > 2


@pytest.mark.parametrize("case", ["agent_typed", "schema_chat", "schema_responses", "schema_by_function"])
def test_structured_output_validates(told: Cases, case: str) -> None:
    assert set(told[case]) == {"name", "country"}


def test_a_function_that_is_required_is_called(told: Cases) -> None:
    assert told["required"] == [{"name": "get_weather", "args": {"city": "Paris"}}]


def test_events_of_a_stream_are_read(told: Cases) -> None:
    events = told["streamed_events"]
    assert events[0] == "on_chat_model_start"
    assert events[-1] == "on_chat_model_end"
    assert events.count("on_chat_model_stream") > 2


def test_a_text_is_completed(told: Cases) -> None:
    assert told["completion"].strip()


def test_a_request_of_many_long_texts_is_embedded(told: Cases) -> None:
    assert told["embeddings"] == {"count": 40, "length": 384}


def test_a_loop_that_must_call_ends_with_its_typed_output(told: Cases) -> None:
    fits_report(told["agent_typed_with_function"])
