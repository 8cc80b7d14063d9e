"""Functions of another distribution and of an MCP server, in a process that is started as a user starts it."""

import json
import re
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT, START_SECONDS, environment_with, run, started

MCP = {"command": [sys.executable, str(ROOT / "tests/peers/mcp_server.py"), "stdio"], "allow": ["add"]}
ENVIRONMENT = {
    "LOQUENT__PIPELINE__STAGES": '["anomaly", "tools", "chat"]',
    "LOQUENT__TOOLS__FUNCTIONS": '["order_status", "opening_hours", "cancel_order"]',
    "LOQUENT__TOOLS__ASK": '["cancel_order"]',
    "LOQUENT__TOOLS__MCP": json.dumps({"sums": MCP}),
    "LOQUENT__CHAT__MAX_TOKENS": "100",
}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the server's packages, and the example installed into it."""
    return environment_with(ROOT / "examples/tools", tmp_path_factory.mktemp("environment"))


def ask(address: str, *messages: tuple[str, str], **body: Any) -> dict[str, Any]:
    talk = [{"role": role, "content": text} for role, text in messages]
    request = urllib.request.Request(  # noqa: S310 - our own server
        f"{address}/v1/chat/completions",
        json.dumps({"messages": talk, **body}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
        choice: dict[str, Any] = json.loads(answer.read())["choices"][0]
    return choice


def calls(address: str) -> dict[str, float]:
    """How many calls had which outcome."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=60) as answer:  # noqa: S310
        found = re.findall(r'^loquent_tool_calls_total\{outcome="(\w+)"\} (\S+)$', answer.read().decode(), re.MULTILINE)
    return {outcome: float(count) for outcome, count in found}


@pytest.mark.e2e
@pytest.mark.timeout(2 * START_SECONDS)
def test_the_model_answers_with_what_the_servers_functions_say(python: Path) -> None:
    with started([str(python), "-m", "server.commands"], ENVIRONMENT, cwd=Path("/")) as address:
        ask(address, ("user", "warm up"))
        urllib.request.urlopen(  # noqa: S310 - waits for the embeddings
            urllib.request.Request(  # noqa: S310
                f"{address}/v1/embeddings", b'{"input": "hi"}', {"Content-Type": "application/json"}
            )
        ).close()
        before = calls(address)
        reply = ask(address, ("user", "What are the opening hours of the shop on sunday?"))
        assert reply["finish_reason"] == "stop"
        assert reply["message"]["content"]
        assert calls(address).get("done", 0) == before.get("done", 0) + 1, "the package's function was called"
        ask(address, ("user", "Add two numbers: 20 and 22"))
        assert calls(address)["done"] == before.get("done", 0) + 2, "the MCP server's function was called"
        assert ask(address, ("user", "Who wrote Hamlet?"))["finish_reason"] == "stop"
        assert calls(address)["done"] == before.get("done", 0) + 2, "nothing was called"
        session = {"loquent": {"session": "s1"}}
        question = ask(address, ("user", "Cancel an order: 1001"), **session)["message"]["content"]
        assert re.fullmatch(r'May I run cancel_order with \{"number": "\d{4}"\}\?', question)
        ask(address, ("user", "Cancel an order: 1001"), ("assistant", question), ("user", "Yes, please."), **session)
        assert calls(address)["done"] == before.get("done", 0) + 3, "it was approved"


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"LOQUENT__TOOLS__FUNCTIONS": '["missing"]'}, "no function 'missing' of an installed package; there are"),
        ({"LOQUENT__TOOLS__MCP": '{"x": {"command": ["a"], "url": "http://b"}}'}, "either a command or a url"),
        ({"LOQUENT__TOOLS__ROUNDS": "0"}, "tools.rounds"),
    ],
)
def test_a_wrong_section_ends_the_start_with_what_to_do(loquent: str, environment: dict[str, str], says: str) -> None:
    outcome = run(loquent, "serve", env={"LOQUENT__SERVER__PORT": "0", **environment})
    assert outcome.returncode == 2
    assert says in outcome.stderr
