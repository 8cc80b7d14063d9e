"""The first page in a real browser, whose microphone hears a recording."""

import asyncio
import threading
from pathlib import Path

import pytest
from playwright.async_api import expect

from server.config import ServerSettings, Settings, hash_key
from tests.clients.sounds import recording
from tests.clients.web.shop import CHROMIUM, PATIENCE_MS, Widget, browser, browsing, until
from tests.clients.web.test_accessible import AXE, violations
from tests.support import ScriptedModel, running

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


@pytest.fixture
async def question(server_url: str, tmp_path: Path) -> Path:
    """A recording of a question."""
    return await asyncio.to_thread(recording, server_url, "What is the capital of France?", tmp_path / "question.wav")


async def test_a_message_that_is_written_is_answered_and_measured() -> None:
    async with running(ScriptedModel(["Hel", "lo."])) as server, browsing(server.url) as page:
        widget = Widget(page)
        await widget.say("Hi")
        await expect(widget.replies.locator(".body")).to_have_text("Hello.", timeout=PATIENCE_MS)
        await expect(page.locator("#latency dd").first).to_contain_text("ms", timeout=PATIENCE_MS)
        await expect(page.locator("#plot rect")).to_have_count(1)
        await expect(page.locator("#server")).to_contain_text(f"at {server.url}")


async def test_what_the_microphone_hears_is_answered_aloud(server_url: str, question: Path) -> None:
    async with browsing(server_url, heard=question) as page:
        widget = Widget(page)
        await page.get_by_role("button", name="Talk", exact=True).click()
        await expect(page.locator("loquent-chat .user .body")).to_contain_text("the capital of", timeout=PATIENCE_MS)
        await expect(widget.replies.locator(".body")).not_to_be_empty(timeout=PATIENCE_MS)
        await expect(page.locator("#latency dd").nth(2)).to_contain_text("ms", timeout=PATIENCE_MS)
        button = page.get_by_role("button", name="Talk", exact=True)
        await expect(button).to_have_attribute("aria-pressed", "true")
        await button.click()
        await expect(button).to_have_attribute("aria-pressed", "false")
        await widget.say("Hi")
        await expect(widget.replies.nth(1).locator("time")).to_be_visible(timeout=PATIENCE_MS)


async def test_the_microphone_is_heard_while_the_button_is_held(server_url: str, question: Path) -> None:
    async with browsing(server_url, heard=question) as page:
        await page.get_by_label("Microphone").select_option("hold")
        button = page.get_by_role("button", name="Hold to talk")
        await button.hover()
        await page.mouse.down()
        await asyncio.sleep(6)  # the recording's question
        await page.mouse.up()
        await expect(page.locator("loquent-chat .user .body")).to_contain_text("the capital of", timeout=PATIENCE_MS)
        await expect(Widget(page).replies.locator(".body")).not_to_be_empty(timeout=PATIENCE_MS)


async def test_a_server_with_a_key_asks_for_it() -> None:
    settings = Settings(server=ServerSettings(keys=(hash_key("secret"),)))
    async with running(ScriptedModel(["Hello."]), settings) as server, browsing(server.url) as page:
        await expect(page.locator("#unlock")).to_be_visible(timeout=PATIENCE_MS)
        await page.get_by_label("The server's key").fill("secret")
        await page.get_by_role("button", name="Connect").click()
        widget = Widget(page)
        await widget.say("Hi")
        await expect(widget.replies.locator(".body")).to_have_text("Hello.", timeout=PATIENCE_MS)
        await expect(page.locator("#unlock")).to_be_hidden()
        await page.get_by_text("Use it from your code").click()
        await expect(page.locator("#snippets code")).to_contain_text("LOQUENT_API_KEY")


async def test_a_server_that_goes_away_is_found_again() -> None:
    async with running(ScriptedModel(["Hello."])) as server, browsing(server.url) as page:
        widget = Widget(page)
        await widget.say("Hi")
        await expect(widget.replies.locator(".body")).to_have_text("Hello.", timeout=PATIENCE_MS)
        server.backend.live.drain()
        await widget.say("Again")
        await expect(widget.replies.nth(1).locator(".body")).to_have_text("Hello.", timeout=PATIENCE_MS)


async def test_its_switches_are_settings_of_the_session() -> None:
    model = ScriptedModel(["Hello."])
    async with running(model) as server, browsing(server.url) as page:
        widget = Widget(page)
        await page.get_by_label("Instructions").fill("Speak like a pirate.")
        await page.get_by_label("Temperature").fill("0.4")
        await page.get_by_label("Most tokens").fill("7")
        await page.get_by_label("Most tokens").press("Tab")
        await page.evaluate(
            """void Loquent.on("event", ({ type, response }) => {
              if (type === "response.created") window.most = response.max_output_tokens;
            })"""
        )
        await widget.say("Hi")
        await expect(widget.replies.locator(".body")).to_have_text("Hello.", timeout=PATIENCE_MS)
        assert "Speak like a pirate." in model.prompts[-1]
        assert await page.evaluate("window.most") == 7
        await page.get_by_label("Temperature").fill("9")
        await page.get_by_label("Temperature").press("Tab")
        assert await page.evaluate("document.querySelector('[max=\"2\"]').validity.rangeOverflow")


async def test_its_events_can_be_searched() -> None:
    gate = threading.Semaphore(100)
    async with running(ScriptedModel(["Hello."], gate=gate)) as server, browsing(server.url) as page:
        await page.get_by_text("Events", exact=True).click()
        await Widget(page).say("Hi")
        await expect(page.locator("#events li").filter(has_text='"response.done"')).to_have_count(1)
        await page.get_by_label("Filter the events").fill("output_text.delta")
        shown = "[...document.querySelectorAll('#events li')].filter((each) => !each.hidden).length"
        await until(page, f"{shown} > 0")
        texts = await page.locator("#events li:not([hidden])").all_inner_texts()
        assert all("output_text.delta" in text for text in texts)


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed: make test installs it")
@pytest.mark.parametrize("width", [1280, 380])
async def test_axe_finds_nothing_on_the_page(width: int) -> None:
    async with running(ScriptedModel(["Hello."])) as server, browser() as launched:
        context = await launched.new_context(bypass_csp=True, viewport={"width": width, "height": 800})
        page = await context.new_page()
        await page.goto(server.url)
        for summary in ("Events", "Use it from your code"):
            await page.get_by_text(summary, exact=True).click()
        widget = Widget(page)
        await widget.say("Hi")
        await expect(widget.replies.locator("time")).to_be_visible(timeout=PATIENCE_MS)
        assert await violations(page) == []


async def test_the_page_loads_nothing_of_others_and_is_in_no_frame() -> None:
    async with running(ScriptedModel(["Hello."])) as server, server.http.get(server.url) as response:
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "http" not in (await response.text()).replace("https://", "")
