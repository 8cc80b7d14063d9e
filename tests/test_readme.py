"""What the README says is true: its commands run, its programs run, its table is the configuration."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.documents import blocks
from tests.support import ROOT, run

README = (ROOT / "README.md").read_text()
BLOCKS = blocks("README.md")
COMMANDS = [line for language, block in BLOCKS if language == "sh" for line in block.splitlines()]
PROGRAMS = [block for language, block in BLOCKS if language == "python"]
ELSEWHERE = {
    ".venv/bin/loquent wyoming --host 0.0.0.0 --allow 192.168.1.0/24": "tests/clients/wyoming/test_commands.py",
    "make serve": "the Makefile's own dry run",
    "make serve ENGINE=http://10.0.0.5:8000/v1": "the same, and tests/e2e/test_gateway.py",
    ".venv/bin/loquent serve --on ray": "tests/e2e/test_ray.py",
    ".venv/bin/loquent chat": "tests/clients/test_terminal.py, on a terminal",
    ".venv/bin/loquent train image --minutes 60 --out my-generator": "tests/server/commands/test_train_image.py",
    ".venv/bin/loquent train anomaly --normal my_messages.jsonl --out my-detector": "tests/clients/test_screen.py",
}


def test_the_readme_has_commands_and_programs() -> None:
    assert len(COMMANDS) >= 8
    assert len(PROGRAMS) == 5
    assert set(ELSEWHERE) <= set(COMMANDS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the reader is: what a command or a program makes is there for those that follow it."""
    made = tmp_path_factory.mktemp("reader")
    (made / "README.md").write_text(README)
    return made


def files(folder: Path) -> dict[Path, float]:
    """When each file was last written."""
    return {file: file.stat().st_mtime for file in folder.iterdir()}


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in ELSEWHERE])
def test_a_command_of_the_readme_works(command: str, server_url: str, folder: Path) -> None:
    words = command.replace(".venv/bin/loquent", str(Path(sys.executable).parent / "loquent"))
    before = files(folder)
    outcome = run("bash", "-c", words, cwd=folder, seconds=110, LOQUENT_URL=server_url)
    assert outcome.returncode == 0, outcome.stderr
    made = [file for file, written in files(folder).items() if before.get(file) != written]
    assert outcome.stdout.strip() or any(file.stat().st_size for file in made)
    if "capital of France" in command:
        assert "Paris" in outcome.stdout


@pytest.mark.parametrize("program", PROGRAMS, ids=["chat completions", "realtime", "speech", "listening", "images"])
def test_a_program_of_the_readme_works(program: str, server_url: str, folder: Path) -> None:
    assert "http://127.0.0.1:8700" in program
    outcome = run(sys.executable, "-c", program.replace("http://127.0.0.1:8700", server_url), cwd=folder)
    assert outcome.returncode == 0, outcome.stderr
    assert ("Drawn:" if "images" in program else "Paris") in outcome.stdout


def test_make_serve_runs_the_server() -> None:
    command = ["make", "--dry-run", "--no-print-directory", "serve"]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert outcome.stdout.rstrip().endswith("loquent serve")


def test_make_serve_with_an_engine_elsewhere_needs_no_pytorch() -> None:
    command = ["make", "--dry-run", "--no-print-directory", "serve", "ENGINE=http://10.0.0.5:8000/v1"]
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert outcome.stdout.rstrip().endswith("loquent serve --engine 'http://10.0.0.5:8000/v1'")
    assert "constraints.txt torch" not in outcome.stdout
    assert "[server" not in outcome.stdout


def test_the_table_has_every_key_with_its_default_and_what_config_toml_says_of_it() -> None:
    rows = dict(re.findall(r"^\| `(\w+(?:\.\w+)+)` \| (.*) \|$", README, re.MULTILINE))
    section, comment = "", ""
    expected: dict[str, str] = {}
    for line in (ROOT / "config.toml").read_text().splitlines():
        if found := re.fullmatch(r"\[([\w.]+)\]", line):
            section = found[1]
        elif line.startswith("# "):
            comment = f"{comment} {line[2:]}".strip()
        elif found := re.fullmatch(r"(\w+) = (.*)", line):
            value = found[2] if len(found[2]) < 40 else f"{found[2].partition(',')[0]}, …{found[2][-1]}"
            expected[f"{section}.{found[1]}"] = f"`{value}` | {comment}"
            comment = ""
        if not line:
            comment = ""
    assert rows == expected


def test_what_the_detector_finds_is_what_the_model_card_says() -> None:
    card = (ROOT / "pipelines/anomaly/bundled/MODEL_CARD.md").read_text().replace(" **missed**", "")
    rows = README.partition("**What it finds**")[2].partition("**What it does not find**")[0]
    told = [line.rstrip("|").strip() for line in rows.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(told) > 10
    for row in told[1:]:
        assert row in card


@pytest.mark.parametrize("page", ["README.md", *(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))])
def test_links_between_the_documents_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), f"{page}: {target}"


def test_every_test_that_the_documents_name_exists() -> None:
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "docs/complaints.md").read_text())
    assert len(named) > 10
    for file, test in named:
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file} has no {test}"
