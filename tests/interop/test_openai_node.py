"""The openai package in JavaScript, over TLS: its Realtime speaks wss alone."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.peers import Cases, cases, fits_weather
from tests.server.test_tls import signed
from tests.support import started


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return signed(tmp_path_factory.mktemp("tls"), "one")


@pytest.fixture(scope="module")
def secure_url(loquent: str, certificate: tuple[Path, Path]) -> Iterator[str]:
    """The real server with the real model, over TLS."""
    environment = {
        "LOQUENT__SERVER__TLS_CERT": str(certificate[0]),
        "LOQUENT__SERVER__TLS_KEY": str(certificate[1]),
        "LOQUENT__PIPELINE__STAGES": '["chat"]',
        "LOQUENT__CHAT__TOOLS": "guided",
        "PYTHONASYNCIODEBUG": "",
    }
    with started([loquent], environment) as address:
        yield address


@pytest.fixture(scope="module")
def told(secure_url: str, certificate: tuple[Path, Path]) -> Cases:
    return cases("openai_node.mjs", secure_url, NODE_EXTRA_CA_CERTS=str(certificate[0]))


def test_a_runner_of_chat_completions_calls_the_function(told: Cases) -> None:
    fits_weather(told["chat"])


@pytest.mark.parametrize("case", ["chat_typed", "responses_typed"])
def test_a_typed_answer_validates(told: Cases, case: str) -> None:
    assert set(told[case]) == {"name", "country"}


def test_a_stream_of_responses_has_no_gap_and_is_continued(told: Cases) -> None:
    fits_weather(told["responses"])
    assert told["responses"]["numbers"] == list(range(len(told["responses"]["numbers"])))


@pytest.mark.parametrize("case", ["realtime_ws", "realtime_native"])
def test_a_realtime_talk_calls_the_function_over_wss(told: Cases, case: str) -> None:
    assert told[case]["errors"] == []
    fits_weather(told[case])
    assert told[case]["kinds"].count("response.done") == 2
