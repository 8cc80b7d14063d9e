"""Pictures for the documentation: ``python -m tests.clients.web.pictures`` makes them anew."""

import asyncio
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.async_api import expect

from server.config import ServerSettings, Settings
from tests.clients.sounds import recording
from tests.clients.web.folder import served
from tests.clients.web.shop import PATIENCE_MS, Widget, browsing, scene, visiting
from tests.support import ROOT, ScriptedModel, running, started

REPLY = [
    "Your order left our warehouse **this morning**.\n\n",
    "- It should arrive tomorrow before noon.\n- You can [follow it](https://shop.example/orders/7) on its way.\n\n",
    "Is there anything else that I can do for you?",
]
DESK = {"width": 760, "height": 640}
SAID = "Please name three animals that live in the sea."
SMALL = {"width": 640, "height": 330}
CASES: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "light": ({"color_scheme": "light", "viewport": DESK}, {"locale": "en"}),
    "dark": ({"color_scheme": "dark", "viewport": DESK}, {"locale": "en"}),
    "mobile": ({"viewport": {"width": 360, "height": 640}, "device_scale_factor": 2}, {"locale": "en"}),
    "right-to-left": ({"viewport": DESK}, {"locale": "ar"}),
    "zoom": ({"viewport": {"width": 380, "height": 320}, "device_scale_factor": 2}, {"locale": "en"}),  # 200 %
}
# What is cut off at the side, or sticks out of the panel.
OVERFLOW = """(() => {
  const root = document.querySelector("loquent-chat").shadowRoot;
  const panel = root.querySelector(".panel").getBoundingClientRect();
  const out = [...root.querySelectorAll(".panel *")].filter((each) => {
    const { left, right, width } = each.getBoundingClientRect();
    return width > 1 && (left < panel.left - 1 || right > panel.right + 1);
  });
  const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
  return [...out.map((each) => each.outerHTML.slice(0, 80)), ...(wide ? ["the page scrolls sideways"] : [])];
})()"""


async def picture(name: str, folder: Path) -> list[str]:
    """Draw one of the cases into a folder; returns what does not fit."""
    options, attributes = CASES[name]
    given = {"greeting": "Good day! How can I help?", "heading": "Shop assistant", **attributes}
    async with scene(ScriptedModel(REPLY), browser={"reduced_motion": "reduce", **options}, attributes=given) as here:
        widget = await here.tab()
        await widget.page.locator("loquent-chat .launcher").click()
        widget.input = widget.page.locator("loquent-chat textarea")
        await widget.say("Where is my order?")
        await expect(widget.replies.last.locator("time")).to_be_visible(timeout=PATIENCE_MS)
        await expect(widget.replies.last).to_be_in_viewport()
        await widget.page.screenshot(path=folder / f"widget-{name}.png")
        found: list[str] = await widget.page.evaluate(OVERFLOW)
        return found


async def chat_client(folder: Path) -> None:
    """Draw the example of a chat client."""
    with served(ROOT / "examples/clients/page") as site:
        settings = Settings(server=ServerSettings(allowed_origins=(site,)))
        said = ["A lighthouse keeper once found a letter in a bottle. ", "It was addressed to the next storm."]
        async with running(ScriptedModel(said), settings) as server, visiting(viewport=SMALL) as visit:
            page = await visit.open(f"{site}/?server={server.url}")
            await page.get_by_label("Message", exact=True).fill("Tell me a story about the sea.")
            await page.get_by_role("button", name="Send").click()
            await expect(page.locator(".assistant")).to_have_text("".join(said), timeout=PATIENCE_MS)
            await page.screenshot(path=folder / "chat-client.png")


async def voice(url: str, question: Path, folder: Path) -> None:
    """Draw the first page of this server while somebody talks with it."""
    async with browsing(url, heard=question, viewport={"width": 1000, "height": 600}) as page:
        await page.get_by_text("Settings", exact=True).click()
        await page.get_by_role("button", name="Talk", exact=True).click()
        widget = Widget(page)
        await expect(widget.replies.locator("time")).to_be_visible(timeout=PATIENCE_MS)
        await expect(page.locator("#latency dd").nth(2)).to_contain_text("ms", timeout=PATIENCE_MS)
        await page.screenshot(path=folder / "voice.png")


async def main() -> None:
    """All of them, into docs/images."""
    folder = ROOT / "docs/images"
    for name in CASES:
        print(name, *await picture(name, folder))
    await chat_client(folder)
    with TemporaryDirectory() as temporary, started([str(Path(sys.executable).parent / "loquent")]) as url:
        question = await asyncio.to_thread(
            recording, url, "What is the capital of France?", Path(temporary, "said.wav")
        )
        await voice(url, question, folder)


if __name__ == "__main__":
    asyncio.run(main())
