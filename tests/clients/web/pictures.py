"""Pictures of the widget for the documentation: ``python -m tests.clients.web.pictures`` makes them anew."""

import asyncio
from pathlib import Path
from typing import Any

from playwright.async_api import expect

from tests.clients.web.shop import PATIENCE_MS, scene
from tests.support import ROOT, ScriptedModel

REPLY = [
    "Your order left our warehouse **this morning**.\n\n",
    "- It should arrive tomorrow before noon.\n- You can [follow it](https://shop.example/orders/7) on its way.\n\n",
    "Is there anything else that I can do for you?",
]
DESK = {"width": 760, "height": 640}
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


async def main() -> None:
    """All of them, into docs/images."""
    for name in CASES:
        print(name, *await picture(name, ROOT / "docs" / "images"))


if __name__ == "__main__":
    asyncio.run(main())
