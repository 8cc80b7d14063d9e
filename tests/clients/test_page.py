"""The first page in a real browser, whose microphone hears a recording."""

import asyncio
import io
import shutil
import threading
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from playwright.async_api import Page, async_playwright, expect

from server.backend import abort
from server.config import ServerSettings, Settings, hash_key
from server.realtime.connection import Connection
from tests.support import ScriptedModel, running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_MS = 30_000

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@asynccontextmanager
async def browsing(url: str, *, heard: Path | None = None) -> AsyncIterator[Page]:
    """The page at ``url``; its microphone hears a WAV file once. Fails where the page reports an error of its own."""
    options = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    if heard is not None:
        options.append(f"--use-file-for-fake-audio-capture={heard}%noloop")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *options])
        try:
            page = await browser.new_page()
            faults: list[str] = []
            page.on("pageerror", lambda error: faults.append(str(error)))
            await page.goto(url)
            yield page
            assert faults == []
        finally:
            await browser.close()


@pytest.fixture
async def question(server_url: str, tmp_path: Path) -> Path:
    """A recording of a question, behind a second of silence and with more behind it."""
    body = {"input": "What is the capital of France?", "response_format": "pcm"}
    async with aiohttp.ClientSession() as http, http.post(f"{server_url}/v1/audio/speech", json=body) as response:
        pcm = await response.read()
    target = io.BytesIO()
    with wave.open(target, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(24_000)
        file.writeframes(bytes(48_000 * 2) + pcm + bytes(48_000 * 30))
    path = tmp_path / "question.wav"
    path.write_bytes(target.getvalue())
    return path


async def test_a_message_that_is_written_is_answered() -> None:
    async with running(ScriptedModel(["Hel", "lo."])) as server, browsing(server.url) as page:
        await page.get_by_label("Message").fill("Hi")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#log .user")).to_have_text("Hi", timeout=PATIENCE_MS)
        await expect(page.locator("#log .assistant")).to_have_text("Hello.", timeout=PATIENCE_MS)


async def test_what_the_microphone_hears_is_answered_aloud(server_url: str, question: Path) -> None:
    async with browsing(server_url, heard=question) as page:
        await page.get_by_role("button", name="Talk", exact=True).click()
        await expect(page.locator("#log .user")).to_contain_text("the capital of", timeout=PATIENCE_MS)
        await expect(page.locator("#log .assistant")).not_to_be_empty(timeout=PATIENCE_MS)
        assert await page.evaluate("document.querySelector('#open').getAttribute('aria-pressed')") == "true"


async def test_the_microphone_is_heard_while_the_button_is_held(server_url: str, question: Path) -> None:
    async with browsing(server_url, heard=question) as page:
        button = page.get_by_role("button", name="Hold to talk")
        await button.hover()
        await page.mouse.down()
        await asyncio.sleep(6)  # the recording's question
        await page.mouse.up()
        await expect(page.locator("#log .user")).to_contain_text("the capital of", timeout=PATIENCE_MS)
        await expect(page.locator("#log .assistant")).not_to_be_empty(timeout=PATIENCE_MS)


async def test_a_server_with_a_key_asks_for_it() -> None:
    settings = Settings(server=ServerSettings(keys=(hash_key("secret"),)))
    async with running(ScriptedModel(["Hello."]), settings) as server, browsing(server.url) as page:
        await expect(page.locator("#unlock")).to_be_visible(timeout=PATIENCE_MS)
        await page.get_by_label("Key").fill("secret")
        await page.get_by_role("button", name="Connect").click()
        await expect(page.locator("#state")).to_have_text("Connected", timeout=PATIENCE_MS)
        await page.get_by_label("Message").fill("Hi")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#log .assistant")).to_have_text("Hello.", timeout=PATIENCE_MS)


async def test_a_server_that_goes_away_is_reported_and_found_again() -> None:
    async with running(ScriptedModel(["Hello."])) as server, browsing(server.url) as page:
        await expect(page.locator("#state")).to_have_text("Connected", timeout=PATIENCE_MS)
        server.backend.live.drain()
        await expect(page.locator("#state")).to_contain_text("Not connected", timeout=PATIENCE_MS)
        await page.get_by_label("Message").fill("Hi")
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#log .assistant")).to_have_text("Hello.", timeout=PATIENCE_MS)


async def test_a_connection_that_breaks_loses_nothing() -> None:
    gate = threading.Semaphore(0)
    words = [f"{number} " for number in range(30)]
    async with running(ScriptedModel(words, gate=gate)) as server, browsing(server.url) as page:
        await page.get_by_label("Message").fill("Count")
        await page.get_by_role("button", name="Send").click()
        for part in range(3):
            gate.release(10)
            await expect(page.locator("#log .assistant")).to_contain_text(f"{10 * part + 5}", timeout=PATIENCE_MS)
            for connection in list(server.backend.connections):
                assert isinstance(connection, Connection)
                abort(connection._request)
        gate.release(10)
        whole = "".join(words).strip()
        await expect(page.locator("#log .assistant")).to_have_text(whole, timeout=PATIENCE_MS)
        await expect(page.locator("#state")).to_have_text("Connected", timeout=PATIENCE_MS)
        await page.get_by_label("Message").fill("Again")
        gate.release(100)
        await page.get_by_role("button", name="Send").click()
        await expect(page.locator("#log .assistant").nth(1)).to_have_text(whole, timeout=PATIENCE_MS)
        assert len(server.backend.live) == 1


async def test_the_page_loads_nothing_of_others_and_is_in_no_frame() -> None:
    async with running(ScriptedModel(["Hello."])) as server, server.http.get(server.url) as response:
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "http" not in (await response.text()).replace("https://", "")
