"""The AI SDK (``ai`` and ``@ai-sdk/openai``)."""

from typing import Any

import pytest

from tests.interop.peers import Cases, cases, fits_report, fits_weather, says_words


@pytest.fixture(scope="module")
def told(server_url: str) -> Cases:
    return cases("ai_sdk.mjs", server_url)


def _fits(city: dict[str, Any]) -> None:
    assert set(city) == {"name", "country", "inhabitants"}
    assert isinstance(city["inhabitants"], int)


@pytest.mark.parametrize("case", ["object_responses", "object_chat", "output_of_text"])
def test_an_object_fits_its_schema(told: Cases, case: str) -> None:
    _fits(told[case])


def test_an_object_is_streamed_in_parts(told: Cases) -> None:
    assert told["object_streamed"]["parts"] > 2
    _fits(told["object_streamed"]["object"])


@pytest.mark.parametrize("case", ["output_with_function", "output_with_function_chat"])
def test_a_loop_over_a_function_ends_with_its_object(told: Cases, case: str) -> None:
    fits_report(told[case])


@pytest.mark.parametrize("case", ["text_responses", "text_chat", "streamed_responses", "streamed_chat"])
def test_a_text_calls_the_function_and_ends_with_words(told: Cases, case: str) -> None:
    fits_weather(told[case])


@pytest.mark.parametrize("case", ["streamed_responses", "streamed_chat"])
def test_a_stream_has_every_part_of_the_loop(told: Cases, case: str) -> None:
    kinds = told[case]["kinds"]
    assert told[case]["errors"] == []
    assert kinds.count("tool-input-delta") > 1
    assert [kind for kind in kinds if not kind.endswith("-delta")] == [
        *("start", "start-step", "tool-input-start", "tool-input-end", "tool-call", "tool-result", "finish-step"),
        *("start-step", "text-start", "text-end", "finish-step", "finish"),
    ]


def test_messages_of_use_chat_hold_calls_and_texts_of_two_turns(told: Cases) -> None:
    chat = told["use_chat"]
    assert chat["errors"] == []
    assert [call["city"] for call in chat["calls"]] == ["Paris", "Rome"]
    for turn in chat["turns"]:
        step, call, behind, text = turn
        assert step["type"] == behind["type"] == "step-start"
        assert (call["type"], call["state"]) == ("tool-get_weather", "output-available")
        assert (text["type"], text["state"]) == ("text", "done")
        says_words(text["text"])


def test_a_request_of_many_long_texts_is_embedded(told: Cases) -> None:
    assert told["embeddings"] == {"count": 40, "length": 384}
