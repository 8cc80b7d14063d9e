"""The pages of examples/clients in a real browser, served as their first lines say, against the real server."""

import json
import shutil
import threading
from pathlib import Path

import pytest
from playwright.async_api import expect

from server.config import ServerSettings, Settings
from tests.clients.web.folder import served
from tests.clients.web.shop import CHROMIUM, PATIENCE_MS, visiting
from tests.clients.web.test_widget import COUNT, WHOLE, cut
from tests.support import ROOT, ScriptedModel, running, started

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

CLIENTS = ROOT / "examples/clients"


async def test_the_page_streams_stops_and_comes_back() -> None:
    gate = threading.Semaphore(0)
    with served(CLIENTS / "page") as site:
        settings = Settings(server=ServerSettings(allowed_origins=(site,)))
        async with running(ScriptedModel(COUNT, gate=gate), settings) as server, visiting() as visit:
            page = await visit.open(f"{site}/?server={server.url}")
            send, stop = (page.get_by_role("button", name=name) for name in ("Send", "Stop"))
            await page.get_by_label("Message", exact=True).fill("Count")
            await send.click()
            replies = page.locator(".assistant")
            gate.release(10)
            await expect(replies).to_contain_text("7", timeout=PATIENCE_MS)
            cut(server)
            gate.release(100)
            await expect(stop).to_be_disabled(timeout=PATIENCE_MS)
            assert await replies.text_content() == WHOLE
            while gate.acquire(blocking=False):
                pass
            await page.get_by_label("Message", exact=True).fill("Again")
            await send.click()
            gate.release(3)
            await expect(replies.nth(1)).to_contain_text("1", timeout=PATIENCE_MS)
            await stop.click()
            gate.release(1)
            await expect(page.get_by_role("status")).to_contain_text("cancelled", timeout=PATIENCE_MS)
            assert await page.locator(".user").all_text_contents() == ["Count", "Again"]


@pytest.mark.e2e
async def test_both_pages_get_the_real_servers_replies(loquent: str, tmp_path: Path) -> None:
    folder = tmp_path / "clients"
    shutil.copytree(CLIENTS, folder)
    (folder / "node_modules").symlink_to(ROOT / "tests/peers/node_modules")
    with served(folder) as site:
        environment = {
            "LOQUENT__SERVER__ALLOWED_ORIGINS": json.dumps([site]),
            "LOQUENT__PIPELINE__STAGES": '["chat"]',
        }
        with started([loquent], environment) as url:
            file = folder / "deep_chat.html"
            text = file.read_text()
            assert "http://127.0.0.1:8700" in text
            file.write_text(text.replace("http://127.0.0.1:8700", url))
            async with visiting() as visit:
                page = await visit.open(f"{site}/page/?server={url}")
                await page.get_by_label("Message", exact=True).fill("Name the capital of France.")
                await page.get_by_role("button", name="Send").click()
                await expect(page.locator(".assistant")).to_contain_text("Paris", timeout=PATIENCE_MS)
                deep = await visit.open(f"{site}/deep_chat.html")
                await deep.locator("deep-chat #text-input").fill("Name the capital of France.")
                await deep.locator("deep-chat #text-input").press("Enter")
                await expect(deep.locator("deep-chat .ai-message-text")).to_contain_text("Paris", timeout=PATIENCE_MS)
