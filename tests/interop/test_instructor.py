"""Instructor."""

import pytest

from tests.interop.peers import INSTRUCTOR, Cases, cases


@pytest.fixture(scope="module")
def told(server_url: str) -> Cases:
    return cases("instructor_peer.py", server_url, INSTRUCTOR)


@pytest.mark.parametrize("case", ["tools", "tools_strict", "json_schema", "responses"])
def test_an_answer_validates_at_the_first_try(told: Cases, case: str) -> None:
    assert set(told[case]) == {"name", "country"}


def test_an_answer_comes_in_parts(told: Cases) -> None:
    assert told["partial"]["parts"] > 2
    assert told["partial"]["last"]["name"]
