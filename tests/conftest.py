"""Fixtures for every test."""

import asyncio
import signal
import sys
import threading
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from pipelines.downloads.progress import finish
from pipelines.embedding.minilm import prepare
from pipelines.image.weights import Drawer
from tests.support import PATIENCE, START_SECONDS, e5_file, started
from tests.tiny_generator import understanding

# An example takes longer than hypothesis expects where another process has the core.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

# A script that runs tests in the background lets them ignore Ctrl-C, and so would every program that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
async def no_task_left_behind() -> AsyncIterator[None]:
    """After each test the event loop is as it was."""
    before = asyncio.all_tasks()
    yield
    for _ in range(10):  # what a collected generator of a client library leaves to the loop may end
        await asyncio.sleep(0)
    left = {task for task in asyncio.all_tasks() - before - {asyncio.current_task()} if not task.done()}
    assert not left, f"tasks left behind: {left}"


@pytest.fixture(autouse=True)
def own_configuration(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No configuration, key or history of whoever runs the tests."""
    for name in ("LOQUENT_CONFIG", "LOQUENT_URL", "LOQUENT_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a message asks to be drawn is understood however slow the machine is."""
    monkeypatch.setattr("pipelines.image.stage.UNDERSTANDING", PATIENCE)


@pytest.fixture
def silent_card(tmp_path: Path) -> dict[str, str]:
    """An environment whose sound card plays everything, at once, to nobody."""
    return _sound(tmp_path, 'pcm.!default { type null hint { show on description "silent" } }')


@pytest.fixture
def no_card(tmp_path: Path) -> dict[str, str]:
    """An environment without a sound card."""
    return _sound(tmp_path, "pcm.!default { type hw card 31 }")


def _sound(folder: Path, default: str) -> dict[str, str]:
    file = folder / "asound.conf"
    file.write_text(f"</usr/share/alsa/alsa.conf>\n{default}\n")
    return {"ALSA_CONFIG_PATH": str(file)}


@pytest.fixture(scope="session")
def loquent() -> str:
    """The installed command."""
    return str(Path(sys.executable).parent / "loquent")


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of the English embedding model."""
    return finish(prepare(threading.Event()))


@pytest.fixture(scope="session")
def e5() -> Path:
    """The file of the embedding model of many languages."""
    return e5_file()


@pytest.fixture(scope="session")
def drawer(minilm: Path) -> Drawer:
    """A small generator that knows a few captions."""
    return understanding(minilm)


def _wait_for_every_stage(address: str) -> None:
    """What may load while turns flow already is there for every test."""
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        with urllib.request.urlopen(f"{address}/metrics", timeout=10) as response:  # noqa: S310 - our own server
            lines = response.read().decode().splitlines()
        if {"loquent_anomaly_ready 1.0", "loquent_image_ready 1.0", "loquent_listening_ready 1.0"} <= set(lines):
            return
        time.sleep(0.1)
    raise AssertionError("the detector, the generator or the recogniser was never loaded")


@pytest.fixture(scope="session")
def server_url(loquent: str) -> Iterator[str]:
    """The real server with the real bundled model, in a process of its own."""
    with started([loquent]) as address:
        _wait_for_every_stage(address)
        yield address
