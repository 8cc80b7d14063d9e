"""``loquent history``, and what ``serve`` and ``config check`` say of the setting."""

import asyncio
import json
import os
import pty
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from server.history.interface import PutConversation, PutItem, StoredItem
from server.history.responses import HistoryStore
from server.response_store import Record
from tests.pipelines.chat.model.test_transformer import tiny_folder
from tests.server.commands.test_main import served
from tests.server.commands.test_streams import execute
from tests.server.history.databases import history
from tests.server.history.test_deletion import files_with
from tests.support import run

MARKER = "zq-marker-text"


def command(loquent: str, *words: str, store: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return run(loquent, "history", *words, LOQUENT__HISTORY__STORE=store, **more)


async def fill(store: str) -> None:
    """Two conversations of anna's, one of bert's, and a response of each."""
    async with history(store) as stored:
        for number, (owner, id) in enumerate((("anna", "conv_1"), ("anna", "conv_2"), ("bert", "conv_3"))):
            item = PutItem(StoredItem("i", {"id": "i", "text": f"{MARKER} of {owner}"}))
            await stored.record(owner, id, PutConversation({"token": "hash"}, {"k": "v"}, created_at=number), item)
        for owner in ("anna", "bert"):
            body = {"id": "resp_1", "object": "response", "output": []}
            items = ({"id": "i", "text": f"{MARKER} of {owner}"},)
            await HistoryStore(stored).put(owner, Record(f"resp_{owner}", body, items))


async def test_conversations_are_listed_and_exported_by_owner(loquent: str, store: str) -> None:
    await fill(store)
    listed = command(loquent, "list", store=store)
    assert (listed.returncode, listed.stderr) == (0, "")
    lines = [line.split() for line in listed.stdout.splitlines()]
    assert [line[2:] for line in lines] == [
        ["conv_1", "realtime", "1", "item", "anna"],
        ["conv_2", "realtime", "1", "item", "anna"],
        ["conv_3", "realtime", "1", "item", "bert"],
    ]
    exported = command(loquent, "export", "--owner", "anna", store=store)
    assert (exported.returncode, exported.stderr) == (0, "")
    records = [json.loads(line) for line in exported.stdout.splitlines()]
    assert [(each["object"], each["owner"], each["id"]) for each in records] == [
        ("conversation", "anna", "conv_1"),
        ("conversation", "anna", "conv_2"),
        ("response", "anna", "resp_1"),
    ]
    assert records[0]["items"] == [{"id": "i", "text": f"{MARKER} of anna"}]
    assert records[2]["input"] == [{"id": "i", "text": f"{MARKER} of anna"}]
    assert "token" not in exported.stdout
    one = command(loquent, "export", "--conversation", "conv_3", store=store)
    assert [json.loads(line)["id"] for line in one.stdout.splitlines()] == ["conv_3"]
    assert command(loquent, "export", "--before", "2001-01-01", store=store).stdout == ""


async def test_deletion_says_what_it_deleted_and_leaves_the_others(loquent: str, store: str) -> None:
    await fill(store)
    deleted = command(loquent, "delete", "--owner", "anna", "--yes", store=store)
    assert (deleted.returncode, deleted.stderr) == (0, "")
    assert deleted.stdout.startswith("Deleted 2 conversations and 1 stored response from ")
    async with history(store) as stored:
        assert [each.owner async for each in stored.export()] == ["bert"]
        assert await HistoryStore(stored).get("bert", "resp_bert")
    again = command(loquent, "delete", "--owner", "anna", "--yes", store=store)
    assert (again.returncode, again.stdout[:49]) == (0, "Deleted 0 conversations and 0 stored responses fr")
    everything = command(loquent, "delete", "--all", "--yes", store=store)
    assert everything.stdout.startswith("Deleted 1 conversation and 1 stored response from ")


async def test_deletion_leaves_no_byte_of_what_it_deletes(loquent: str, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    store = f"sqlite:///{folder}/history.db"
    await fill(store)
    assert files_with(folder, f"{MARKER} of anna")
    assert command(loquent, "delete", "--owner", "anna", "--yes", store=store).returncode == 0
    assert files_with(folder, f"{MARKER} of anna") == []
    assert files_with(folder, f"{MARKER} of bert")


def test_a_server_beside_it_forgets_what_is_deleted(
    loquent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "data"
    store = f"sqlite:///{folder}/history.db"
    monkeypatch.setenv("LOQUENT__HISTORY__STORE", store)
    monkeypatch.setenv("LOQUENT__PIPELINE__STAGES", '["chat"]')
    with served(loquent, tmp_path, "--log-level", "debug") as (process, url):
        asked = json.dumps({"items": [{"role": "user", "content": MARKER}]}).encode()
        made = request(f"{url}/v1/conversations", asked)
        assert files_with(folder, MARKER)
        assert command(loquent, "delete", "--all", "--yes", store=store).returncode == 0
        assert files_with(folder, MARKER) == []
        assert request(f"{url}/v1/conversations")["data"] == []
        with pytest.raises(urllib.error.HTTPError):
            request(f"{url}/v1/conversations/{made['id']}")
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 0
        assert "POST /v1/conversations: 200" in log
        assert MARKER not in log, "no log holds a message's text, however much is logged"
    assert files_with(folder, MARKER) == []


def test_help_teaches_what_the_command_does(loquent: str) -> None:
    assert "history" in run(loquent, "--help").stdout
    said = run(loquent, "history", "--help").stdout
    for word in ("list", "export", "delete", "--owner", "--before", "JSON", "[history] store", "without being asked"):
        assert word in said


def request(url: str, body: bytes | None = None) -> Any:
    with urllib.request.urlopen(url, body, timeout=20) as answer:  # noqa: S310 - our own server
        return json.load(answer)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["delete"], "say what to delete"),
        (["delete", "--yes"], "say what to delete"),
        (["delete", "--all", "--owner", "anna", "--yes"], "say what to delete"),
        (["delete", "--all"], "add --yes"),
        (["list", "--before", "yesterday"], "'yesterday' is no date such as 2026-01-31"),
        (["export", "--before", "99999-01-01"], "is no date"),
        (["burn"], "invalid choice"),
    ],
)
def test_a_call_that_is_wrong_or_unclear_exits_with_2_and_says_why(
    loquent: str, tmp_path: Path, words: list[str], said: str
) -> None:
    outcome = command(loquent, *words, store=f"sqlite:///{tmp_path}/history.db")
    assert outcome.returncode == 2
    assert said in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not (tmp_path / "history.db").exists()


def test_where_nothing_is_stored_that_is_said(loquent: str, tmp_path: Path) -> None:
    off = command(loquent, "list", store="none")
    assert (off.returncode, off.stdout) == (2, "")
    assert '[history] store is "none"' in off.stderr
    store = f"sqlite:///{tmp_path}/history.db"
    new = command(loquent, "delete", "--all", "--yes", store=store)
    assert (new.returncode, new.stdout) == (0, "")
    assert "Nothing is stored" in new.stderr
    assert not (tmp_path / "history.db").exists()


@pytest.mark.parametrize("words", [["list"], ["export"], ["delete", "--all", "--yes"]], ids=" ".join)
@pytest.mark.parametrize(("to", "why"), [(">/dev/full", "No space left on device"), (">&-", "it is closed")])
async def test_an_output_that_takes_nothing_is_said(
    loquent: str, tmp_path: Path, words: list[str], to: str, why: str
) -> None:
    store = f"sqlite:///{tmp_path}/history.db"
    await fill(store)
    shell: list[str | bytes] = ["bash", "-c", f'exec "$@" {to}', "bash", loquent, "history", *words]
    outcome = execute(shell, LOQUENT__HISTORY__STORE=store)
    assert outcome.returncode == 1
    assert outcome.stderr == f"loquent: standard output can't be written: {why}.\n"


@pytest.mark.parametrize("words", [["list"], ["export"]], ids=" ".join)
async def test_a_reader_that_has_seen_enough_ends_it_silently(loquent: str, tmp_path: Path, words: list[str]) -> None:
    store = f"sqlite:///{tmp_path}/history.db"
    await fill(store)
    reader, writer = os.pipe()
    os.close(reader)
    outcome = execute([loquent, "history", *words], stdout=writer, LOQUENT__HISTORY__STORE=store)
    os.close(writer)
    assert (outcome.returncode, outcome.stderr) == (1, "")


async def test_any_text_is_exported_as_ascii(loquent: str, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path}/history.db"
    odd = "nul \0 half \ud800 漢字 \x1b[31m"
    async with history(store) as stored:
        await stored.record("a", "conv_1", PutConversation(metadata={odd: odd}), PutItem(StoredItem(odd, {"t": odd})))
    for encoding in ("ascii", "utf-8"):
        outcome = execute([loquent, "history", "export"], LOQUENT__HISTORY__STORE=store, PYTHONIOENCODING=encoding)
        assert (outcome.returncode, outcome.stderr) == (0, "")
        assert outcome.stdout.isascii()
        assert json.loads(outcome.stdout)["items"] == [{"t": odd}]
    odd_words: list[str | bytes] = [loquent, "history", "list", "--owner", b"caf\xe9"]
    none = execute(odd_words, LOQUENT__HISTORY__STORE=store)
    assert (none.returncode, none.stdout, none.stderr) == (0, "", "")


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, 0), ("n\n", 1, 3), ("\n", 1, 3)])
async def test_on_a_terminal_deletion_asks_first(
    loquent: str, tmp_path: Path, answer: str, code: int, left: int
) -> None:
    store = f"sqlite:///{tmp_path}/history.db"
    await fill(store)
    terminal, end = pty.openpty()
    os.write(terminal, answer.encode())
    outcome = await asyncio.to_thread(
        subprocess.run,
        [loquent, "history", "delete", "--all"],
        env=os.environ | {"LOQUENT__HISTORY__STORE": store},
        stdin=end,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    os.close(end)
    os.close(terminal)
    assert outcome.returncode == code
    assert outcome.stderr.startswith("Delete 3 conversations and 2 stored responses from ")
    assert ("nothing was deleted" in outcome.stderr) == (code == 1)
    async with history(store) as stored:
        assert len([each async for each in stored.export()]) == left


# The setting


@pytest.mark.parametrize("store", ["mysql://x", "postgresql://h:port/x", "sqlite:///", "sqlite://x", "/tmp/x", ""])  # noqa: S108
def test_a_setting_that_names_no_database_is_said_without_being_repeated(loquent: str, store: str) -> None:
    outcome = run(loquent, "config", "check", LOQUENT__HISTORY__STORE=store or " ")
    assert outcome.returncode == 2
    assert "history.store: must be" in outcome.stderr
    assert "(it is" not in outcome.stderr


def test_a_password_is_never_shown(loquent: str, tmp_path: Path) -> None:
    url = "postgresql://me:hush%40hush@127.0.0.1:9/talks?sslmode=disable&password=hush2"
    shown = run(loquent, "config", "check", LOQUENT__HISTORY__STORE=url)
    assert 'history.store = "postgresql://me:***@127.0.0.1:9/talks?sslmode=disable&password=***"' in shown.stdout
    wrong = run(loquent, "config", "check", LOQUENT__HISTORY__STORE=url.replace(":9/", ":x/"))
    listed = command(loquent, "list", store=url)
    assert listed.returncode == 1
    model = str(tiny_folder(tmp_path, "llama"))
    words = ("serve", "--port", "0", "--model", model, "--log-level", "debug")
    patience = {"LOQUENT__HISTORY__PATIENCE": "0.3", "LOQUENT__HISTORY__STORE": url}
    waited = run(loquent, *words, cwd=tmp_path, env=patience)
    assert waited.returncode == 1
    assert "postgresql://me:***@127.0.0.1:9/talks" in waited.stderr
    for outcome in (shown, wrong, listed, waited):
        assert "hush" not in outcome.stdout + outcome.stderr
        assert "Traceback" not in outcome.stderr


def test_a_file_that_is_no_database_ends_the_server_with_a_message(loquent: str, tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    file.write_text("no database" * 1000)
    model = str(tiny_folder(tmp_path, "llama"))
    outcome = run(
        loquent, "serve", "--port", "0", "--model", model, cwd=tmp_path, LOQUENT__HISTORY__STORE=f"sqlite:///{file}"
    )
    assert outcome.returncode == 1
    assert f"{file} is no database that can be read" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_a_server_that_waits_for_its_database_ends_at_once_when_asked(loquent: str, tmp_path: Path) -> None:
    environment = os.environ | {"LOQUENT__HISTORY__STORE": "postgresql://me@127.0.0.1:9/talks"}
    model = str(tiny_folder(tmp_path, "llama"))
    command = [loquent, "serve", "--port", "0", "--model", model]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "waiting for the history" in line:
                break
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
        assert "Traceback" not in process.stderr.read()
