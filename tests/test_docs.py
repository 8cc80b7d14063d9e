"""What the pages of docs/ show is true: their programs run, and their excerpts are of the files that they explain."""

import re
import sys
from pathlib import Path

import pytest

from tests.documents import blocks
from tests.support import ROOT, run

RUNS = {
    "chat-client": ["> Name the capital of France.\n", "Paris", "> And of Italy?\n"],
    "voice": ["You: ", "Paris", "You said: "],
}


@pytest.mark.parametrize("page", RUNS)
def test_the_programs_of_a_page_run_one_after_the_other(page: str, server_url: str, tmp_path: Path) -> None:
    printed = ""
    for language, block in blocks(f"docs/{page}.md"):
        if language == "sh":
            program = ["bash", "-c", block.replace(".venv/bin/loquent", str(Path(sys.executable).parent / "loquent"))]
        elif language == "python":
            program = [sys.executable, "-c", block.replace("http://127.0.0.1:8700", server_url)]
        else:
            continue
        outcome = run(*program, cwd=tmp_path, seconds=110, LOQUENT_URL=server_url)
        assert outcome.returncode == 0, outcome.stderr
        printed += outcome.stdout
    for words in RUNS[page]:
        assert words in printed


def test_the_excerpts_are_of_the_page() -> None:
    code = (ROOT / "examples/clients/page/chat.js").read_text()
    excerpts = [block for language, block in blocks("docs/chat-client.md") if language == "js"]
    assert len(excerpts) >= 5
    for excerpt in excerpts:
        assert excerpt in code or "openai-insecure-api-key" in excerpt


@pytest.mark.parametrize("page", ["chat-client", "voice", "web", "tools"])
def test_the_files_that_a_page_runs_are_there(page: str) -> None:
    for path in re.findall(r"\b(examples/[\w./-]+\w)", (ROOT / f"docs/{page}.md").read_text()):
        assert (ROOT / path).exists(), path
