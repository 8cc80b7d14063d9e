"""The openai package in Python, in an environment of its own."""

import pytest

from tests.interop.peers import Cases, cases, fits_weather


@pytest.fixture(scope="module")
def told(server_url: str) -> Cases:
    return cases("openai_peer.py", server_url)


@pytest.mark.parametrize("case", ["chat_streamed", "conversation", "realtime"])
def test_a_loop_calls_the_function_and_ends_with_words(told: Cases, case: str) -> None:
    fits_weather(told[case])


def test_the_stream_helper_parses_arguments(told: Cases) -> None:
    assert "tool_calls.function.arguments.done" in told["chat_streamed"]["kinds"]


def test_a_conversation_holds_every_item_of_the_loop(told: Cases) -> None:
    assert told["conversation"]["kinds"] == ["message", "function_call", "function_call_output", "message"]


def test_a_picture_comes_as_the_png_that_examples_decode(told: Cases) -> None:
    assert bytes.fromhex(told["picture"]) == b"\x89PNG\r\n\x1a\n"


def test_every_other_endpoint_answers(told: Cases) -> None:
    assert told["speech"] > 10_000
    assert told["moderation"] is False
    assert told["embedding"] == 384
    assert "gpt-4o-mini" in told["models"]
