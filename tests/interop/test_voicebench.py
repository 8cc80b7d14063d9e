"""voicebench: a conversation that it plays, records and judges by what is heard of it."""

import json
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.interop.peers import PYTHON, QUIET
from tests.support import ROOT, run

SAID = {
    "sea": "Tell me about the sea.",
    "stop": "Stop it, please.",
    "bread": "How do I bake bread?",
    "okay": "Okay.",
    "capital": "What is the capital of France?",
}


@pytest.fixture(scope="module")
def report(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What voicebench reports of one conversation."""
    folder = tmp_path_factory.mktemp("voicebench")
    shutil.copy(ROOT / "tests/peers/voicebench.yaml", folder)
    for name, text in SAID.items():
        body = json.dumps({"input": text, "response_format": "wav"}).encode()
        request = urllib.request.Request(  # noqa: S310 - a server of this machine
            f"{server_url}/v1/audio/speech", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            (folder / f"{name}.wav").write_bytes(response.read())
    url = server_url.replace("http", "ws", 1) + "/v1/realtime"
    command = PYTHON.with_name("voicebench")
    environment = QUIET | {"PYTHONPATH": str(ROOT / "tests/peers")}
    outcome = run(
        *(command, "run", folder / "voicebench.yaml", "--url", url, "--out", folder / "report"),
        seconds=200,
        env=environment,
        cwd=folder,
    )
    print(outcome.stdout)
    (found,) = Path(folder / "report").rglob("*.json")
    told: dict[str, Any] = json.loads(found.read_text())
    return told


def test_a_conversation_passes_turn_by_turn(report: dict[str, Any]) -> None:
    failed = [turn for session in report["sessions"] for turn in session["turns"] if not turn["passed"]]
    assert failed == []
    assert report["passed"], report["assertions"]
    assert report["summary"]["turns_passed"] == 6
