"""LiveKit's agents with its plugin for OpenAI."""

import pytest

from tests.interop.peers import Cases, cases, fits_conversation, fits_weather, recordings


@pytest.fixture(scope="module")
def told(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Cases:
    folder = recordings(server_url, tmp_path_factory.mktemp("said"))
    return cases("livekit_peer.py", server_url, RECORDINGS=str(folder))


def test_a_spoken_conversation_with_a_function_and_an_interruption(told: Cases) -> None:
    fits_conversation(told["conversation"])


@pytest.mark.parametrize("case", ["chat", "responses", "realtime"])
def test_a_session_calls_the_function_and_ends_with_words(told: Cases, case: str) -> None:
    fits_weather(told[case])
    assert told[case]["errors"] == []
    assert told[case]["kinds"] == ["function_call", "function_call_output", "message"]
