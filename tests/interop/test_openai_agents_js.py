"""The Agents SDK in JavaScript."""

import pytest

from tests.interop.peers import Cases, cases, fits_conversation, fits_weather, recordings


@pytest.fixture(scope="module")
def told(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Cases:
    folder = recordings(server_url, tmp_path_factory.mktemp("said"))
    return cases("openai_agents.mjs", server_url, RECORDINGS=str(folder))


def test_a_spoken_conversation_with_a_function_and_an_interruption(told: Cases) -> None:
    fits_conversation(told["conversation"])


@pytest.mark.parametrize("case", ["chat", "chat_streamed", "responses", "responses_streamed", "responses_chosen"])
def test_a_run_calls_the_function_and_ends_with_words(told: Cases, case: str) -> None:
    fits_weather(told[case])


def test_a_streamed_run_gets_the_arguments_in_deltas(told: Cases) -> None:
    kinds = told["responses_streamed"]["kinds"]
    assert kinds.count("response.function_call_arguments.delta") > 1
    assert kinds.count("response.completed") == 2


def test_a_typed_output_validates(told: Cases) -> None:
    assert set(told["typed"]) == {"name", "country"}


@pytest.mark.parametrize("case", ["realtime", "realtime_spoken"])
def test_a_realtime_session_calls_the_function_and_ends_with_words(told: Cases, case: str) -> None:
    fits_weather(told[case])
    assert told[case]["errors"] == []
    assert {"tool_start", "tool_end", "agent_end"} <= set(told[case]["kinds"])
    assert bool(told[case]["sound"]) is (case == "realtime_spoken")
