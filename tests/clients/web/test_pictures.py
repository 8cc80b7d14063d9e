"""The pictures of the documentation can be drawn, and on none of the widget is anything cut off."""

import asyncio
from pathlib import Path

import pytest

from tests.clients.sounds import recording
from tests.clients.web.pictures import CASES, SAID, chat_client, picture, voice
from tests.clients.web.shop import CHROMIUM

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@pytest.mark.parametrize("name", CASES)
async def test_everything_fits(name: str, tmp_path: Path) -> None:
    assert await picture(name, tmp_path) == []
    assert (tmp_path / f"widget-{name}.png").stat().st_size > 1000


async def test_the_other_pages_are_drawn(server_url: str, tmp_path: Path) -> None:
    await chat_client(tmp_path)
    question = await asyncio.to_thread(recording, server_url, SAID, tmp_path / "said.wav")
    await voice(server_url, question, tmp_path)
    for name in ("chat-client", "voice"):
        assert (tmp_path / f"{name}.png").stat().st_size > 1000
