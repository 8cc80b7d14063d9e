"""The requests of Home Assistant's integration for OpenAI."""

from typing import Any

import pytest

from tests.interop.peers import Cases, cases
from tests.support import valid

STRING = {"type": "string"}
PARAMETERS: dict[str, Any] = {
    "HassTurnOn": {"properties": {"name": STRING, "area": STRING, "floor": STRING, "domain": {"items": STRING}}},
    "HassLightSet": {"properties": {"name": STRING, "color": STRING, "brightness": {"minimum": 0, "maximum": 100}}},
    "GetLiveContext": {"properties": {}},
}


@pytest.fixture(scope="module")
def told(server_url: str) -> Cases:
    return cases("home_assistant.py", server_url)


@pytest.mark.parametrize("case", ["turned_on", "reasoning_model"])
def test_a_sentence_calls_a_function_and_ends_with_words(told: Cases, case: str) -> None:
    assert told[case]["calls"]
    for call in told[case]["calls"]:
        assert valid({"type": "object", **PARAMETERS[call["name"]]}, call["arguments"])
    assert told[case]["text"].strip()
    assert told[case]["text"].lstrip()[0] not in "{[<"


def test_a_talk_goes_on_behind_a_call(told: Cases) -> None:
    assert told["second_turn"]["calls"] == []
    assert told["second_turn"]["text"].strip()


def test_a_task_generates_data_of_its_schema(told: Cases) -> None:
    data = told["structured"]
    assert set(data) == {"name", "age", "size"}
    assert data["size"] in ("small", "large")
