"""The example of a shop, as its README starts it: two servers on two origins, and a visitor who signs in."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import expect

from bench.faults.process import free_port
from server.access.key_file import change_keys
from server.access.keys import make_key
from server.config import ServerSettings, Settings
from tests.clients.web.shop import CHROMIUM, PATIENCE_MS, Widget, visiting
from tests.support import PATIENCE, ROOT, ScriptedModel, running

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@asynccontextmanager
async def shop(chat: str, key: str) -> AsyncIterator[str]:
    """The shop's process; yields its address."""
    url = f"http://127.0.0.1:{free_port()}"
    environment = os.environ | {"LOQUENT_URL": chat, "LOQUENT_API_KEY": key, "SHOP_URL": url}
    process = await asyncio.create_subprocess_exec(
        sys.executable, ROOT / "examples/shop/server.py", env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as http:
            while True:
                try:
                    async with http.get(url) as response:
                        assert response.status == 200
                        break
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.05)
        yield url
    finally:
        process.kill()
        await process.wait()


async def test_who_has_signed_in_chats_and_who_has_not_can_not(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    key, known = make_key("shop", ("secrets",), None, time.time())
    change_keys(file, lambda keys: [*keys, known])
    settings = Settings(server=ServerSettings(keys_file=str(file)))
    async with (
        running(ScriptedModel(["The desk lamp ", "is **good** for reading."]), settings) as server,
        shop(server.url, key) as url,
        visiting() as visit,
    ):
        page = await visit.open(url)
        widget = Widget(page)
        await widget.open()
        await expect(page.get_by_text("No connection; trying again")).to_be_visible(timeout=PATIENCE_MS)
        await page.keyboard.press("Escape")
        await page.get_by_label("Your name").fill("Ada <img src=x>")
        await page.get_by_role("button", name="Sign in to chat").click()
        await widget.open()
        await page.get_by_role("button", name="Which lamp is good for reading?").click()
        await expect(widget.replies.last.locator(".body")).to_have_text(
            "The desk lamp is good for reading.", timeout=PATIENCE_MS
        )
        await expect(page.locator("loquent-chat .user .who")).to_contain_text("Ada <img src=x>")
        refused = await page.evaluate(
            """fetch(new URL("/v1/chat/completions", document.querySelector("loquent-chat").server), { method: "POST" })
                 .then((response) => response.status, () => "refused")"""
        )
        assert refused == "refused"
