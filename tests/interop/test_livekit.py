"""LiveKit's agents with its plugin for OpenAI."""

import pytest

from tests.interop.peers import Cases, cases, fits_weather


@pytest.fixture(scope="module")
def told(server_url: str) -> Cases:
    return cases("livekit_peer.py", server_url)


@pytest.mark.parametrize("case", ["chat", "responses", "realtime"])
def test_a_session_calls_the_function_and_ends_with_words(told: Cases, case: str) -> None:
    fits_weather(told[case])
    assert told[case]["errors"] == []
    assert told[case]["kinds"] == ["function_call", "function_call_output", "message"]
