"""``loquent wyoming``, and ``[wyoming] port`` beside the server."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.faults.process import free_port
from server.commands.beside import own_address
from tests.clients.wyoming import home_assistant
from tests.support import ROOT, run, started

KEY = "a-key-for-this-test"


@contextmanager
def command(loquent: str, *options: str) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """The running command, and its port."""
    with subprocess.Popen(
        [loquent, "wyoming", "--port", "0", "--log-level", "error", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line.startswith("Wyoming listens on tcp://127.0.0.1:")
            yield process, int(line.rpartition(":")[2])
        finally:
            process.kill()


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
async def test_the_command_serves_until_a_signal(loquent: str, server_url: str, by: signal.Signals) -> None:
    with command(loquent, "--url", server_url) as (process, port):
        assert (await home_assistant.load_info(port)).tts[0].voices[0].name == "en_US-joe-medium"
        process.send_signal(by)
        assert await asyncio.to_thread(process.wait, 20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--host", "0.0.0.0"], "Wyoming has no keys"),  # noqa: S104 - nothing listens
        (["--host", "0.0.0.0", "--allow", "home"], "a network looks like"),  # noqa: S104 - likewise
        (["--host", "192.0.2.1", "--allow", "192.0.2.0/24"], "can't listen on 192.0.2.1"),
        (["--url", "ftp://x"], "is no URL of a server"),
    ],
)
def test_what_can_not_be_served_is_a_usage_error(loquent: str, options: list[str], why: str) -> None:
    outcome = run(loquent, "wyoming", *options)
    assert outcome.returncode == 2
    assert why in outcome.stderr


async def test_it_runs_beside_the_server_also_where_a_key_is_needed(loquent: str) -> None:
    port = free_port()
    environment = {
        "LOQUENT__WYOMING__PORT": str(port),
        "LOQUENT__SERVER__KEYS": f'["{KEY}"]',
    }
    with started([loquent], environment) as address:
        async with asyncio.timeout(60):
            while not (info := await home_assistant.load_info(port)).tts:
                await asyncio.sleep(0.1)
        assert info.asr[0].models[0].name == "whisper-base"
        answer = await home_assistant.converse(port, "Say hello.", device_id="x")
        assert answer.type == "handled"
        refused = run(loquent, "ask", "Say hello.", "--url", address, env={**os.environ, "LOQUENT_API_KEY": ""})
        assert refused.returncode == 3, "other clients need the key as before"


def test_the_server_does_not_start_where_others_could_connect(loquent: str) -> None:
    environment = {"LOQUENT__WYOMING__PORT": "10799", "LOQUENT__WYOMING__HOST": "0.0.0.0"}  # noqa: S104 - it ends
    outcome = run(loquent, "serve", "--port", "0", env=environment)
    assert (outcome.returncode, "[wyoming] allow" in outcome.stderr) == (2, True)


@pytest.mark.parametrize(
    ("address", "own"),
    [
        ("http://0.0.0.0:8700", "http://127.0.0.1:8700"),
        ("https://[::]:8700", "https://[::1]:8700"),
        ("http://192.168.1.5:8700", "http://192.168.1.5:8700"),
    ],
)
def test_a_process_reaches_its_own_server(address: str, own: str) -> None:
    assert own_address(address) == own
