"""Wake words, detected by a process that may die."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.wake import Detect

from clients.wyoming import waking
from clients.wyoming.waking import Waking, installed
from tests.clients.sounds import spoken
from tests.clients.wyoming.support import adapting, exchange, kinds, sound
from tests.support import PATIENCE, eventually

WAKE = "Hey Jarvis, what is the time?"
LAST = ("detection", "not-detected", "error")
NOWHERE = "http://127.0.0.1:9"  # wake words need no server


@pytest.fixture
async def port() -> AsyncIterator[int]:
    """An adapter without a server: what breaks the protocol never gets that far."""
    async with adapting(NOWHERE) as port:
        yield port


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (48_000, 2), (22_050, 1)])
async def test_a_wake_word_is_detected_in_sound_of_any_rate(
    port: int, server_url: str, rate: int, channels: int
) -> None:
    mono = spoken(server_url, WAKE, rate)
    pcm = b"".join(mono[i : i + 2] * channels for i in range(0, len(mono), 2))
    found = await exchange(port, Detect().event(), *sound(pcm, rate, 2, channels), last=LAST)
    assert [event.data["name"] for event in found] == ["hey_jarvis"]
    assert 500 < found[0].data["timestamp"] < 2_500


@pytest.mark.parametrize("names", [["alexa"], ["alexa", "hey_mycroft"]])
async def test_other_words_than_the_asked_ones_are_not_detected(port: int, server_url: str, names: list[str]) -> None:
    found = await exchange(port, Detect(names=names).event(), *sound(spoken(server_url, WAKE)), last=LAST)
    assert kinds(found) == ["not-detected"]


async def test_a_word_is_detected_again_in_the_same_stream(port: int, server_url: str) -> None:
    pcm = (spoken(server_url, WAKE) + bytes(64_000)) * 2
    events = [*sound(pcm), Event("ping", {"text": "end"})]
    found = await exchange(port, Detect().event(), *events, last=("pong",))
    assert kinds(found) == ["detection", "detection", "pong"]


async def test_noise_is_no_wake_word(port: int) -> None:
    state, noise = 1, bytearray()
    for _ in range(64_000):
        state = state * 1_103_515_245 + 12_345 & 0x7FFF_FFFF
        noise.append(state >> 16 & 0xFF)
    found = await exchange(port, Detect().event(), *sound(bytes(noise)), last=LAST)
    assert kinds(found) == ["not-detected"]


async def detect(asked: Waking, pcm: bytes) -> list[Event]:
    """A detection without an adapter around it."""
    events, found = sound(pcm), list[Event]()

    async def take() -> Event:
        await asyncio.sleep(0)
        return events.pop(0)

    async def send(event: Event) -> None:
        found.append(event)

    async with asyncio.timeout(PATIENCE):
        await asked.detect(Detect().event(), await take(), take, send)
    return found


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("raise SystemExit(1)", "does not start"),
        ("print('ready', flush=True)\nimport os; os.read(0, 9); os.abort()", "has ended"),
        ("print('ready', flush=True)\nimport time; time.sleep(60)", "has ended"),
    ],
)
async def test_a_process_that_dies_or_hangs_harms_its_own_detection_only(
    program: str, why: str, tmp_path: Path, server_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waking, "FEED_SECONDS", 1.0)
    file = tmp_path / "child.py"
    file.write_text(program)
    pcm = spoken(server_url, WAKE)
    broken, sane = Waking(installed(), program=file), Waking(installed())
    outcomes = await asyncio.gather(detect(broken, pcm * 20), detect(sane, pcm), return_exceptions=True)
    assert why in str(outcomes[0])
    assert isinstance(outcomes[1], list)
    assert kinds(outcomes[1]) == ["detection"]


async def test_detections_are_bounded() -> None:
    asked = Waking(installed(), most=0)
    with pytest.raises(Exception, match="There are 0 detections in progress"):
        await detect(asked, bytes(32_000))


async def test_the_process_ends_with_its_peer(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[asyncio.subprocess.Process] = []
    start = asyncio.create_subprocess_exec

    async def remembered(*words: Any, **options: Any) -> asyncio.subprocess.Process:
        started.append(await start(*words, **options))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", remembered)
    async with AsyncTcpClient("127.0.0.1", port) as client:
        for event in (Detect().event(), *sound(bytes(32_000))[:-1]):
            await client.write_event(event)
        await eventually(lambda: bool(started), "a process was started")
        assert started[0].returncode is None
    await eventually(lambda: started[0].returncode is not None, "it has ended")
