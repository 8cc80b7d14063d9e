"""``loquent chat`` on a real terminal against the real server."""

import asyncio
import io
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pexpect
import pytest
from rich.console import Console

from clients.target import Target, session
from clients.terminal.chat import _answer, _History
from loquent import LoquentError, Session, Text, UsageError
from loquent.address import websocket_address
from tests.clients.terminal_screen import TerminalScreen
from tests.support import ScriptedModel, echo, eventually, needs_portaudio, run, running

SECONDS = 60
CTRL_C = "\x03"


@contextmanager
def chatting(loquent: str, url: str, home: Path, *words: str, greeting: str = "", **more: str) -> Iterator[Any]:
    environment = (
        os.environ
        | more
        | {
            "LOQUENT_URL": url,
            "TERM": "xterm",
            "PROMPT_TOOLKIT_NO_CPR": "1",
            "XDG_STATE_HOME": str(home),
            "PYTHONWARNINGS": "",
        }
    )
    child = pexpect.spawn(
        loquent, ["chat", *words], env=environment, encoding="utf-8", timeout=SECONDS, dimensions=(40, 100)
    )
    try:
        child.expect(greeting)
        child.expect("Ctrl-D leaves")
        child.expect(">")
        yield child
    finally:
        child.close(force=True)


def test_a_conversation_in_the_terminal(loquent: str, server_url: str, tmp_path: Path) -> None:
    with chatting(loquent, server_url, tmp_path) as child:
        child.send("Name the capital of France.\r")
        child.expect("Paris")
        child.expect(">")
        child.send("And of\x1b\rItaly?\r")  # Alt-Enter starts a new line
        child.expect("Rome")
        child.expect(">")
        child.send("\x04")
        child.expect("Goodbye")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0
    history = (tmp_path / "loquent/history").read_text()
    assert "+Name the capital of France." in history
    assert "+And of\n+Italy?" in history
    assert (tmp_path / "loquent/history").stat().st_mode & 0o077 == 0, "nobody else reads it"


@needs_portaudio
def test_replies_are_played_and_an_interrupt_silences_them(
    loquent: str, server_url: str, tmp_path: Path, silent_card: dict[str, str]
) -> None:
    with chatting(loquent, server_url, tmp_path, "--speak", "--max-tokens", "60", **silent_card) as child:
        child.send("Name the capital of France.\r")
        child.expect("Paris")
        child.expect(">")
        begin_a_long_reply(child)
        child.send(CTRL_C)
        child.expect("cancelled")
        child.expect(">")
        child.send("Name the capital of France.\r")
        child.expect("Paris")
        child.expect("\\n.*>")
        child.send("\x04")
        child.expect("Goodbye")


@needs_portaudio
def test_without_a_sound_card_the_client_says_what_to_do(
    loquent: str, server_url: str, no_card: dict[str, str]
) -> None:
    outcome = run(loquent, "chat", "--speak", "--url", server_url, env=no_card)
    assert outcome.returncode == 1
    assert "no sound card" in outcome.stderr


def begin_a_long_reply(child: Any) -> None:
    child.send("Write a long poem about the sea.\r")
    child.expect("depths|shadows|ocean")  # a word of the reply, not of the question


def test_the_first_interrupt_cancels_the_reply_and_the_talk_goes_on(
    loquent: str, server_url: str, tmp_path: Path
) -> None:
    with chatting(loquent, server_url, tmp_path) as child:
        begin_a_long_reply(child)
        child.send(CTRL_C)
        child.expect("cancelled")
        child.expect(">")
        child.send("Name the capital of France.\r")
        child.expect("Paris")
        child.expect(">")
        child.send("half a thought" + CTRL_C)
        child.expect("Ctrl-C again leaves")
        child.send(CTRL_C)
        child.expect("Goodbye")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0


def test_what_is_typed_amid_a_reply_waits_for_the_prompt(loquent: str, server_url: str, tmp_path: Path) -> None:
    with chatting(loquent, server_url, tmp_path, "--max-tokens", "60") as child:
        begin_a_long_reply(child)
        child.send("Name the capital of France.")
        child.expect("limit of tokens")
        assert "France" not in child.before
        child.expect("France")
        child.send("\r")
        child.expect("Paris")


def test_a_chat_without_a_writable_home_stores_nothing_and_goes_on(
    loquent: str, server_url: str, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    with chatting(loquent, server_url, tmp_path / "file", "--max-tokens", "20", greeting="not stored") as child:
        child.send("Name the capital of France.\r")
        child.expect("Paris")
        child.expect(">")
        child.send("\x04")
        child.expect("Goodbye")
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0


def test_a_disk_that_fills_up_does_not_end_the_conversation(tmp_path: Path) -> None:
    history = _History(tmp_path / "gone" / "history")
    history.append_string("What can be typed again.")
    assert history.get_strings() == ["What can be typed again."]


async def test_odd_bytes_that_are_typed_are_sent_as_what_is_no_character(loquent: str, tmp_path: Path) -> None:
    def talk(url: str) -> None:
        with chatting(loquent, url, tmp_path) as child:
            os.write(child.child_fd, b"caf\xe9 \r")
            child.expect("caf\N{REPLACEMENT CHARACTER} indeed")
            child.expect(">")
            child.send("Goodbye.\r")
            child.expect("Goodbye. indeed")

    async with running(ScriptedModel(lambda prompt: [*echo(prompt), "indeed"])) as server:
        await asyncio.to_thread(talk, server.url)


async def test_a_reply_taller_than_the_terminal_is_shown_once(loquent: str) -> None:
    """Each item comes when the one before it is seen, so that every one of them has been drawn."""
    items = [f"Item {n}." for n in range(1, 61)]
    gate = threading.Semaphore(0)

    def read(url: str) -> str:
        command = ["ask", "--url", url, "Count."]
        child = pexpect.spawn(
            loquent, command, env=os.environ | {"TERM": "xterm"}, encoding="utf-8", timeout=SECONDS, dimensions=(24, 80)
        )
        seen = io.StringIO()
        child.logfile_read = seen
        for item in items:
            gate.release()
            child.expect_exact(item)
        gate.release()
        child.expect(pexpect.EOF)
        child.close()
        assert child.exitstatus == 0
        return seen.getvalue()

    async with running(ScriptedModel([f"- {item}\n" for item in items], gate=gate)) as server:
        screen = TerminalScreen(24, 80)
        screen.feed(await asyncio.to_thread(read, server.url))
    assert re.findall(r"Item \d+\.", " ".join(screen.lines)) == items


async def test_a_cancel_that_the_server_does_not_take_ends_with_its_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asyncio.Event()

    async def stuck(self: Session) -> None:
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(Session, "cancel", stuck)
    gate = threading.Semaphore(0)
    out = io.StringIO()
    handler = signal.getsignal(signal.SIGINT)
    async with running(ScriptedModel(["Hel", "lo."], gate=gate)) as server, session(Target.of(url=server.url)) as talk:
        before = asyncio.all_tasks()
        answering = asyncio.create_task(_answer(talk, "Hi", Console(file=out), None))
        gate.release()
        await eventually(lambda: signal.getsignal(signal.SIGINT) is not handler, "the client to handle Ctrl-C")
        signal.raise_signal(signal.SIGINT)
        await asyncio.wait_for(asked.wait(), SECONDS)
        gate.release(5)
        await answering
        assert {task for task in asyncio.all_tasks() - before if not task.done()} == set(), "no task is left"
    assert "Hello." in out.getvalue()


async def test_a_message_that_is_refused_leaves_the_next_question_its_own_answer() -> None:
    async with running(ScriptedModel(echo)) as server, session(Target.of(url=server.url)) as talk:

        async def ask(text: str) -> str:
            return "".join([piece.text async for piece in talk.ask(text) if isinstance(piece, Text)]).strip()

        assert await ask("first question") == "first question"
        with pytest.raises(LoquentError, match="70"):
            await ask("x" * 70_000)
        assert await ask("second question") == "second question"
        assert await ask("漢" * 20_000) == "漢" * 20_000  # 60 kB, unless every character were escaped
        assert await ask("third question") == "third question"


def test_a_second_interrupt_leaves_though_the_server_does_not_answer(loquent: str, tmp_path: Path) -> None:
    """The first one asks the server to cancel; a server that is stuck must not keep the user."""
    with (
        subprocess.Popen([loquent, "serve", "--port", "0"], stdout=subprocess.PIPE, text=True) as server,
        ExitStack() as resuming,
    ):
        resuming.callback(server.kill)
        assert server.stdout is not None
        with chatting(loquent, server.stdout.readline().split()[3], tmp_path) as child:
            begin_a_long_reply(child)
            server.send_signal(signal.SIGSTOP)
            child.send(CTRL_C)
            child.send(CTRL_C)
            child.expect(pexpect.EOF)
            child.close()
            assert child.exitstatus == 130


@pytest.mark.parametrize(
    ("url", "websocket"),
    [
        ("http://127.0.0.1:8700", "ws://127.0.0.1:8700/v1/realtime"),
        ("https://bot.example/", "wss://bot.example/v1/realtime"),
        ("https://bot.example/base/v1", "wss://bot.example/base/v1/realtime"),
        ("ws://[::1]:9", "ws://[::1]:9/v1/realtime"),
    ],
)
def test_the_websocket_is_found_from_the_servers_address(url: str, websocket: str) -> None:
    assert websocket_address(url) == websocket


@pytest.mark.parametrize("url", ["127.0.0.1:8700", "ftp://x", "http://", "nonsense", "http://x:87000", "http://["])
def test_an_address_that_is_none_is_said(url: str) -> None:
    with pytest.raises(UsageError, match=re.escape(url)):
        websocket_address(url)


def test_the_target_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOQUENT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("LOQUENT_API_KEY", "lq-x")
    target = Target.of(temperature=0.0, seed=None)
    assert (target.url, target.key) == ("http://127.0.0.1:1", "lq-x")
    assert target.session == {"loquent": {"sampling": {"temperature": 0.0}}, "output_modalities": ["text"]}
    assert Target.of().session == {"output_modalities": ["text"]}, "sound would be lost"
