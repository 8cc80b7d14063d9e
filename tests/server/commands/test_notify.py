"""A service manager learns from the process itself when it is ready, and when it ends."""

import signal
import socket
from pathlib import Path

import pytest

from server.commands.notify import notify
from tests.server.commands.test_main import served
from tests.support import PATIENCE


def test_a_server_says_when_it_is_ready_and_when_it_stops(
    loquent: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with served(loquent, tmp_path) as (process, address):
            assert manager.recv(1000).decode() == f"READY=1\nSTATUS=listens on {address}"
            process.send_signal(signal.SIGTERM)
            assert manager.recv(1000).decode().startswith("STOPPING=1\n")
            assert process.wait(timeout=PATIENCE) == 0


def test_a_name_in_the_abstract_namespace_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("")  # the system chooses a free one
        manager.settimeout(PATIENCE)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + manager.getsockname()[1:].decode())
        notify("READY=1")
        assert manager.recv(1000) == b"READY=1"


def test_a_manager_that_is_gone_is_no_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nowhere"))
    notify("READY=1")
