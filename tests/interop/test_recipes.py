"""Every file of examples/clients that is a program, run as its first line says, against the real server."""

import json
import shutil
import wave
from pathlib import Path

import pytest

from tests.interop.peers import PYTHON, QUIET, SECONDS, node, says_words
from tests.support import ROOT, run

RECIPES = ROOT / "examples/clients"


@pytest.fixture
def reader(tmp_path: Path) -> Path:
    """A folder with the recipes, in which their JavaScript packages are installed."""
    folder = tmp_path / "clients"
    shutil.copytree(RECIPES, folder)
    (folder / "node_modules").symlink_to(ROOT / "tests/peers/node_modules")
    return folder


def said(reader: Path, server_url: str, recipe: str, *arguments: str) -> str:
    """What a recipe prints."""
    programs: dict[str, str | Path] = {".py": PYTHON, ".mjs": node(), ".sh": "sh"}
    environment = QUIET | {"LOQUENT_URL": server_url, "PATH": f"{PYTHON.parent}:/usr/bin:/bin"}
    outcome = run(
        programs[Path(recipe).suffix],
        recipe,
        *arguments,
        cwd=reader,
        seconds=SECONDS,
        env=environment,
        LLM_USER_PATH=str(reader),
    )
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


@pytest.mark.parametrize("recipe", ["openai_realtime.py", "openai_chat.mjs"])
def test_two_questions_are_answered_in_one_conversation(reader: Path, server_url: str, recipe: str) -> None:
    _, first, second = said(reader, server_url, recipe).split("> ")
    assert first.startswith("Name the capital of France.\n")
    assert "Paris" in first
    question, _, reply = second.partition("\n")
    assert question == "And of Italy?"
    assert "capital" in reply or "Rome" in reply  # what it was about is in the conversation alone


def test_a_spoken_reply_is_a_recording(reader: Path, server_url: str) -> None:
    assert "Paris" in said(reader, server_url, "openai_realtime.py", "--spoken", "Name the capital of France.")
    assert seconds(reader / "reply.wav") > 0.5


@pytest.mark.parametrize("recipe", ["openai_chat.py", "ai_sdk.mjs", "agents_realtime.mjs", "langchain_agent.py"])
def test_a_function_is_called_and_its_result_is_answered(reader: Path, server_url: str, recipe: str) -> None:
    question = "What is the price of the lamp Aurora?"
    before, _, after = said(reader, server_url, recipe, question).partition("[price_of_lamp")
    assert before.strip() in {"", f"> {question}"}
    call, _, reply = after.partition("]")
    assert "Aurora" in call
    says_words(reply)
    if recipe == "agents_realtime.mjs":
        assert seconds(reader / "reply.wav") > 0.5


def test_a_question_that_needs_no_function_is_answered_without(reader: Path, server_url: str) -> None:
    told = said(reader, server_url, "openai_chat.py", "Name the capital of France.")
    assert "Paris" in told
    assert "[" not in told


def test_fetch_streams_a_reply(reader: Path, server_url: str) -> None:
    assert "Paris" in said(reader, server_url, "fetch.mjs")


def test_the_command_answers_goes_on_and_fills_a_schema(reader: Path, server_url: str) -> None:
    told = said(reader, server_url, "llm.sh")
    assert "Paris" in told
    assert set(json.loads(told[told.rindex("{") :])) == {"name", "country"}


@pytest.mark.parametrize("recipe", ["openai_chat.py", "openai_chat.mjs", "fetch.mjs"])
def test_without_a_server_it_fails(reader: Path, recipe: str) -> None:
    with pytest.raises(AssertionError, match=r"(?i)connect|fetch failed"):
        said(reader, "http://127.0.0.1:1", recipe)


def test_the_list_of_recipes_is_complete() -> None:
    listed = (RECIPES / "README.md").read_text()
    for file in RECIPES.iterdir():
        assert file.name == "README.md" or f"({file.name})" in listed


def seconds(file: Path) -> float:
    """How long a recording is."""
    with wave.open(str(file), "rb") as recording:
        assert recording.getframerate() == 24_000
        return recording.getnframes() / 24_000
