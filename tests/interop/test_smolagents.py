"""smolagents. It wants a call in every step, its answer too; a helped model calls the nearest function each time."""

import pytest

from tests.interop.peers import Cases, cases


@pytest.fixture(scope="module")
def told(server_url: str) -> Cases:
    return cases("smolagents_peer.py", server_url)


def test_every_step_calls_a_function_with_its_arguments(told: Cases) -> None:
    agent = told["agent"]
    assert agent["calls"]
    assert all(set(call) == {"city"} for call in agent["calls"])
    assert agent["calls"][0] == {"city": "Paris"}
    assert set(agent["names"]) <= {"get_weather", "final_answer"}
    assert set(agent["errors"]) <= {"Reached max steps."}


def test_a_message_is_answered_whole_and_streamed(told: Cases) -> None:
    assert told["generated"].strip()
    assert told["streamed"] > 2
