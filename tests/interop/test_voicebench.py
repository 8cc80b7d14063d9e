"""voicebench: a conversation that it plays, records and judges by what is heard of it."""

import io
import json
import shutil
import urllib.request
import wave
from pathlib import Path
from typing import Any

import pytest

from tests.clients.sounds import plain, words
from tests.interop.peers import PYTHON, QUIET
from tests.support import ROOT, run

CONVERSATIONS = 4  # at most
SAID = {
    "sea": "Tell me about the sea.",
    "stop": "Stop it, please.",
    "bread": "How do I bake bread?",
    "okay": "Okay.",
    "capital": "What is the capital of France?",
}


@pytest.fixture(scope="module")
def report(server_url: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What voicebench reports of one conversation; another one where it could not tell, with other sounds: the same
    ones would be answered as they were before."""
    folder = tmp_path_factory.mktemp("voicebench")
    shutil.copy(ROOT / "tests/peers/voicebench.yaml", folder)
    for _ in range(CONVERSATIONS):
        for name, text in SAID.items():
            (folder / f"{name}.wav").write_bytes(understood(server_url, text))
        found = judged(server_url, folder)
        if not ambiguous(found):
            break
    return found


def understood(server_url: str, text: str) -> bytes:
    """A sound of the text in which the server hears its words: no two are the same, and some are unclear."""
    for _ in range(8):
        body = json.dumps({"input": text, "response_format": "wav"}).encode()
        request = urllib.request.Request(  # noqa: S310 - a server of this machine
            f"{server_url}/v1/audio/speech", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
            sound: bytes = response.read()
        with wave.open(io.BytesIO(sound)) as file:
            if words(server_url, file.readframes(file.getnframes()), file.getframerate()) == plain(text):
                break
    return sound


def judged(server_url: str, folder: Path) -> dict[str, Any]:
    """One run of it."""
    url = server_url.replace("http", "ws", 1) + "/v1/realtime"
    command = PYTHON.with_name("voicebench")
    environment = QUIET | {"PYTHONPATH": str(ROOT / "tests/peers")}
    shutil.rmtree(folder / "report", ignore_errors=True)
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


def ambiguous(report: dict[str, Any]) -> bool:
    """Whether a reply ended by itself where voicebench could not know that nothing had interrupted it."""
    notes = [note for session in report["sessions"] for turn in session["turns"] for note in turn["notes"]]
    return any("a natural end of the reply this close looks the same" in note for note in notes)


def test_a_conversation_passes_turn_by_turn(report: dict[str, Any]) -> None:
    failed = [turn for session in report["sessions"] for turn in session["turns"] if not turn["passed"]]
    assert failed == []
    assert report["passed"], report["assertions"]
    assert report["summary"]["turns_passed"] == 6
