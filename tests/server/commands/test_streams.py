"""Standard input of any bytes, standard output that is closed or full: every command says so, or works."""

import asyncio
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from server.config import ServerSettings, Settings, hash_key
from tests.support import ROOT, ScriptedModel, ScriptedVoice, echo, run, running, scripted_pipeline, scripted_speech

ODD = b"caf\xe9 au lait"
REPLACED = "caf\N{REPLACEMENT CHARACTER} au lait"
WARNING = "loquent: standard input is not all UTF-8; odd bytes became \N{REPLACEMENT CHARACTER}\n"


def execute(
    command: Sequence[str | bytes], given: bytes | None = None, *, stdout: Any = subprocess.PIPE, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command, whose arguments and input may be any bytes, to its end; what it prints must be UTF-8."""
    outcome = subprocess.run(
        command,
        input=given,
        stdin=subprocess.DEVNULL if given is None else None,
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=60,
        cwd=ROOT,
        env=os.environ | environment,
        check=False,
    )
    out = "" if outcome.stdout is None else outcome.stdout.decode()
    return subprocess.CompletedProcess(command, outcome.returncode, out, outcome.stderr.decode())


@pytest.mark.parametrize(
    ("given", "question", "warning"),
    [
        (ODD, REPLACED, WARNING),
        (b"\xef\xbb\xbfcaf\xc3\xa9", "café", ""),
        ("café".encode("utf-16"), "café", ""),
        (b"cut \xf0\x9f\x98", "cut \N{REPLACEMENT CHARACTER}", WARNING),
        (b"\xff" * 70 + b"\xfe\x80 x", "\N{REPLACEMENT CHARACTER}" * 72 + " x", WARNING),
        (b"a nul \0 and a bell \a", "a nul \0 and a bell \a", ""),
    ],
)
async def test_a_question_of_any_bytes_is_asked(loquent: str, given: bytes, question: str, warning: str) -> None:
    async with running(ScriptedModel(echo)) as server:
        outcome = await asyncio.to_thread(execute, [loquent, "ask", "--url", server.url], given)
    assert (outcome.returncode, outcome.stdout.strip(), outcome.stderr) == (0, question, warning)


async def test_arguments_of_any_bytes_are_sent(loquent: str) -> None:
    async with running(ScriptedModel(echo)) as server:
        command: list[str | bytes] = [loquent, "ask", "--json", "--url", server.url, "--model", ODD, ODD]
        outcome = await asyncio.to_thread(execute, command)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert json.loads(outcome.stdout)["text"].strip() == REPLACED


async def test_a_text_of_any_bytes_is_spoken(loquent: str) -> None:
    voice = ScriptedVoice()
    speech = scripted_speech(voice)
    async with running(scripted_pipeline(ScriptedModel(echo), speech=speech)) as server:
        sound = subprocess.DEVNULL
        outcome = await asyncio.to_thread(execute, [loquent, "speak", "--url", server.url], ODD, stdout=sound)
    assert (outcome.returncode, outcome.stderr) == (0, WARNING)
    assert voice.said, "the sentence was spoken"


def test_a_prompt_of_any_bytes_is_drawn(loquent: str, server_url: str, tmp_path: Path) -> None:
    file = tmp_path / "cat.png"
    outcome = execute([loquent, "draw", "--url", server_url, "-o", str(file)], b"happy cat \xe9")
    assert (outcome.returncode, outcome.stderr) == (0, WARNING)
    assert file.read_bytes().startswith(b"\x89PNG")


def test_lines_of_any_bytes_are_screened(loquent: str, server_url: str) -> None:
    command = [loquent, "screen", "--json", "--url", server_url]
    outcome = execute(command, b"When do you open?\n" + ODD + b"\r\n\xff\xfe\n")
    assert (outcome.returncode, outcome.stderr) == (0, WARNING)
    texts = [json.loads(line)["text"] for line in outcome.stdout.splitlines()]
    assert texts == ["When do you open?", REPLACED, "\N{REPLACEMENT CHARACTER}" * 2]
    argument = execute([*command, ODD])
    assert (argument.returncode, argument.stderr) == (0, "")
    assert json.loads(argument.stdout)["text"] == REPLACED


def test_what_the_output_can_not_encode_is_escaped_or_replaced(loquent: str, server_url: str) -> None:
    for option in ((), ("--json",)):
        outcome = execute([loquent, "screen", "--url", server_url, *option, "漢字"], PYTHONIOENCODING="ascii")
        assert (outcome.returncode, outcome.stderr) == (0, "")
        assert "??" in outcome.stdout or json.loads(outcome.stdout)["text"] == "漢字"


WRITERS = [
    ["ask", "--max-tokens", "3", "Hi"],
    ["ask", "--max-tokens", "3", "--json", "Hi"],
    ["speak", "Hi."],
    ["draw", "happy cat"],
    ["screen", "Hi"],
    ["screen", "--json", "Hi"],
    ["models", "list"],
    ["config", "check"],
    ["keys", "new"],
    ["widget"],
    ["--help"],
    ["--version"],
    ["ask", "--help"],
]


@pytest.mark.parametrize("words", WRITERS, ids=" ".join)
@pytest.mark.parametrize(("to", "why"), [(">/dev/full", "No space left on device"), (">&-", "it is closed")])
def test_an_output_that_takes_nothing_is_said(
    loquent: str, server_url: str, words: list[str], to: str, why: str
) -> None:
    outcome = execute(["bash", "-c", f'exec "$@" {to}', "bash", loquent, *words], LOQUENT_URL=server_url)
    assert outcome.returncode == 1
    assert outcome.stderr.endswith(f"loquent: standard output can't be written: {why}.\n")
    assert "Traceback" not in outcome.stderr
    assert "Exception" not in outcome.stderr


@pytest.mark.parametrize("words", WRITERS, ids=" ".join)
def test_a_reader_that_has_seen_enough_ends_a_command_silently(loquent: str, server_url: str, words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    outcome = execute([loquent, *words], stdout=writer, LOQUENT_URL=server_url)
    os.close(writer)
    assert outcome.returncode == 1
    assert "loquent:" not in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert "Exception" not in outcome.stderr


def test_a_file_on_a_full_disk_is_said(loquent: str, server_url: str, tmp_path: Path) -> None:
    full = tmp_path / "full.png"
    full.symlink_to("/dev/full")
    for words in (["speak", "Hi.", "--format", "wav"], ["draw", "happy cat"]):
        outcome = execute([loquent, *words, "-o", str(full), "--url", server_url])
        assert (outcome.returncode, outcome.stderr) == (
            1,
            f"loquent: {full} can't be written: No space left on device.\n",
        )


def test_closed_standard_streams_do_no_harm(loquent: str, server_url: str) -> None:
    closed = execute(
        ["bash", "-c", 'exec "$@" <&- 2>&-', "bash", loquent, "screen", "--json", "Hi"], LOQUENT_URL=server_url
    )
    assert closed.returncode == 0
    assert json.loads(closed.stdout)["text"] == "Hi"
    failing = execute(["bash", "-c", 'exec "$@" 2>&-', "bash", loquent, "ask"])
    assert (failing.returncode, failing.stdout) == (2, ""), "an error does not become output"


def test_verdicts_go_to_the_output_while_the_progress_is_on_a_terminal(loquent: str, server_url: str) -> None:
    terminal, end = pty.openpty()
    outcome = subprocess.run(
        [loquent, "screen", "--json", "Hi"],
        env=os.environ | {"LOQUENT_URL": server_url, "TERM": "xterm"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=end,
        timeout=60,
        check=False,
    )
    os.close(end)
    os.close(terminal)
    assert outcome.returncode == 0
    assert json.loads(outcome.stdout)["text"] == "Hi"


KEY = "lq-a-key"


@pytest.mark.parametrize("words", [["ask", "Hi"], ["speak", "Hi."]], ids=" ".join)
async def test_the_line_end_of_a_keys_file_is_no_part_of_the_key(loquent: str, words: list[str]) -> None:
    settings = Settings(server=ServerSettings(keys=(hash_key(KEY),)))
    pipeline = scripted_pipeline(ScriptedModel(echo), speech=scripted_speech(ScriptedVoice()))
    async with running(pipeline, settings) as server:
        command = [loquent, *words, "--url", server.url]
        outcome = await asyncio.to_thread(execute, command, LOQUENT_API_KEY=f"{KEY}\r\n", stdout=subprocess.DEVNULL)
    assert (outcome.returncode, outcome.stderr) == (0, "")


@pytest.mark.parametrize(
    "words", [["ask", "Hi"], ["chat"], ["speak", "Hi"], ["draw", "cat"], ["screen", "Hi"]], ids=" ".join
)
@pytest.mark.parametrize("key", ["two\nlines", "schlüssel", "a\x7fb"])
def test_a_key_that_can_be_none_is_said(loquent: str, words: list[str], key: str) -> None:
    outcome = execute([loquent, *words, "--url", "http://127.0.0.1:9"], LOQUENT_API_KEY=key)
    assert outcome.returncode == 3
    assert outcome.stderr.startswith("loquent: LOQUENT_API_KEY can't be a key")
    assert key not in outcome.stderr


@pytest.mark.parametrize("words", [["ask", "Hi"], ["screen", "Hi"]], ids=" ".join)
@pytest.mark.parametrize(
    "url", [b"http://caf\xe9", b"http://a..b", b"http://127.0.0.1/a b", "http://127.0.0.1/ä".encode()]
)
def test_an_address_of_odd_characters_is_said(loquent: str, words: list[str], url: bytes) -> None:
    outcome = execute([loquent, *words, "--url", url])
    assert outcome.returncode == 2
    assert "is no URL of a server" in outcome.stderr


def test_help_loads_nothing_that_a_command_needs() -> None:
    script = (
        "import sys\n"
        "from server.commands.main import main\n"
        "assert main(['ask', '--help']) == main(['--help']) == 0\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)\n"
    )
    outcome = run(sys.executable, "-c", script)
    loaded = set(outcome.stderr.split())
    assert "server" in loaded, outcome.stderr
    assert not loaded & {"clients", "pipelines", "asyncio", "rich", "websockets", "pydantic", "aiohttp", "torch"}


def test_the_command_line_runs_as_a_module_too() -> None:
    outcome = run(sys.executable, "-m", "server.commands", "--version")
    assert re.fullmatch(r"loquent \d+\.\d+\.\d+\n", outcome.stdout)
