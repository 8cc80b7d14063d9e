"""The command ``llm``."""

import json

import pytest

from tests.interop.peers import Cases, cases, fits_weather


@pytest.fixture(scope="module")
def told(server_url: str) -> Cases:
    return cases("llm_peer.py", server_url)


@pytest.mark.parametrize("case", ["chain", "chain_whole"])
def test_a_chain_calls_the_function_and_ends_with_words(told: Cases, case: str) -> None:
    fits_weather(told[case])


def test_an_answer_fits_its_schema(told: Cases) -> None:
    assert set(json.loads(told["schema"])) == {"name", "country"}


def test_the_command_answers(told: Cases) -> None:
    assert told["command"].strip()
