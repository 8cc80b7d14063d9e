"""Pipecat."""

import pytest

from tests.interop.peers import Cases, cases, fits_conversation, fits_weather, recordings


@pytest.fixture(scope="module")
def told(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> Cases:
    folder = recordings(server_url, tmp_path_factory.mktemp("said"))
    return cases("pipecat_peer.py", server_url, RECORDINGS=str(folder))


def test_a_spoken_conversation_with_a_function_and_an_interruption(told: Cases) -> None:
    fits_conversation(told["conversation"])


def test_the_realtime_service_completes_text_turns(told: Cases) -> None:
    assert told["realtime"]["errors"] == []
    assert "Paris" in told["realtime"]["replies"][0]
    assert "Rome" in told["realtime"]["replies"][1]


@pytest.mark.parametrize("case", ["realtime_call", "chat_call"])
def test_a_pipeline_calls_the_function_and_says_its_result(told: Cases, case: str) -> None:
    assert told[case]["errors"] == []
    fits_weather(told[case])
