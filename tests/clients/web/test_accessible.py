"""The widget for people who hear it, who use a keyboard, or who see little."""

import threading
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.clients.web.shop import CHROMIUM, PATIENCE_MS, Widget, scene
from tests.support import ROOT, ScriptedModel

AXE = ROOT / "clients" / "web" / "node_modules" / "axe-core" / "axe.min.js"

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
    pytest.mark.skipif(not AXE.exists(), reason="axe-core is not installed: make test installs it"),
]

RICH = """## A heading

Some **bold**, *emphasised* and ~~deleted~~ text with `code`, and [a link](https://example.com/).

- one
  - two
- [x] three

| a | b |
| --- | ---: |
| 1 | 2 |

```python
print("a line that is so long that it has to be scrolled, for it does not fit into the panel of the widget")
```

> quoted
"""

FOCUSED = """(() => {
  let at = document.activeElement;
  while (at?.shadowRoot) at = at.shadowRoot.activeElement;
  return at?.getAttribute("aria-label") ?? at?.textContent;
})()"""

# What a screen reader is told: the texts of live regions, whenever they change.
LISTEN = """(() => {
  window.spoken = [];
  const root = document.querySelector("loquent-chat").shadowRoot;
  for (const region of root.querySelectorAll("[aria-live], [role=status], [role=alert], [role=log]")) {
    const polite = region.getAttribute("aria-live") ?? "polite";
    if (polite === "off") continue;
    new MutationObserver(() => window.spoken.push(region.textContent))
      .observe(region, { childList: true, characterData: true, subtree: true });
  }
})()"""


async def violations(page: Page) -> list[str]:
    """What axe finds, by every rule of WCAG 2.2 AA and its best practices."""
    if not await page.evaluate("'axe' in window"):
        await page.evaluate(AXE.read_text())
    tags = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
    options = {"runOnly": {"type": "tag", "values": tags}, "rules": {"target-size": {"enabled": True}}}
    found: dict[str, Any] = await page.evaluate("(options) => axe.run(document, options)", options)
    return [
        f"{each['id']}: {node['html'][:120]} {node['failureSummary'][:300]}"
        for each in found["violations"]
        for node in each["nodes"]
    ]


async def ready(widget: Widget, count: int) -> None:
    """Wait until so many replies are complete."""
    await expect(widget.replies.nth(count - 1).locator("time")).to_be_visible(timeout=PATIENCE_MS)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("locale", ["en", "ar"])
@pytest.mark.parametrize("size", [{"width": 1280, "height": 800}, {"width": 360, "height": 640}], ids=["desk", "phone"])
async def test_axe_finds_nothing_in_any_state(scheme: Any, locale: str, size: Any) -> None:
    gate = threading.Semaphore(0)

    def reply(prompt: str) -> list[str]:
        return ["", RICH] if "Rich" in prompt else [f"{number} " for number in range(30)]

    async with scene(
        ScriptedModel(reply, gate=gate),
        browser={"color_scheme": scheme, "viewport": size, "bypass_csp": True, "reduced_motion": "reduce"},
        attributes={"locale": locale, "greeting": "Good day!", "quick_replies": "Where is my order?|Opening hours"},
    ) as here:
        page = await here.visit.open(here.site.url)
        widget = Widget(page)
        seen: dict[str, list[str]] = {"closed": await violations(page)}
        await page.locator("loquent-chat .launcher").click()
        seen["open"] = await violations(page)
        widget.input = page.locator("loquent-chat textarea")
        await widget.say("Count")
        await expect(widget.replies.last).to_be_visible()
        seen["waiting"] = await violations(page)
        gate.release(3)
        await expect(widget.replies.last).to_contain_text("1", timeout=PATIENCE_MS)
        seen["streaming"] = await violations(page)
        await page.locator("loquent-chat .send").click()
        gate.release(1)
        await ready(widget, 2)
        seen["stopped"] = await violations(page)
        gate.release(100)
        await widget.say("Rich")
        await ready(widget, 3)
        seen["rich"] = await violations(page)
        here.site.refuses = True
        await widget.call("chat.setUser({ id: 'another', name: 'Ada' })")
        await expect(page.locator("loquent-chat .status")).to_be_visible(timeout=PATIENCE_MS)
        seen["refused"] = await violations(page)
        assert {state: found for state, found in seen.items() if found} == {}


async def test_a_screen_reader_is_given_each_reply_once_and_whole() -> None:
    gate = threading.Semaphore(0)
    async with scene(ScriptedModel(["Some ", "**bold** ", "words."], gate=gate)) as here:
        widget = await here.opened()
        await widget.page.evaluate(LISTEN)
        for count in (1, 2):
            await widget.say("Hi")
            for _ in range(3):
                gate.release(1)
                await widget.page.wait_for_timeout(50)
            gate.release(1)
            await ready(widget, count)
        assert await widget.page.evaluate("window.spoken") == ["Some bold words."] * 2


async def test_a_whole_conversation_by_keyboard() -> None:
    gate = threading.Semaphore(0)
    async with scene(ScriptedModel([f"{number} " for number in range(20)], gate=gate)) as here:
        page = await here.visit.open(here.site.url)
        widget = Widget(page)
        keys = page.keyboard

        async def to(name: str) -> None:
            for _ in range(30):
                if await page.evaluate(FOCUSED) == name:
                    return
                await keys.press("Tab")
            raise AssertionError(f"Tab does not reach {name}")

        await page.locator("#buy").focus()
        await to("Open the chat")
        await keys.press("Enter")
        await expect(widget.input).to_be_focused()
        await keys.type("Count")
        await keys.press("Shift+Enter")
        await keys.type("please")
        await keys.press("Enter")
        gate.release(3)
        await expect(widget.replies.last).to_contain_text("1", timeout=PATIENCE_MS)
        await to("Stop the reply")
        await keys.press("Enter")
        gate.release(1)
        await ready(widget, 1)
        assert (await widget.texts())[0] == ("user", "done", "Count\nplease")
        await to("Good reply")
        await keys.press("Space")
        await expect(page.get_by_role("button", name="Good reply")).to_have_attribute("aria-pressed", "true")
        gate.release(100)
        await to("Try again")
        await keys.press("Enter")
        await ready(widget, 1)
        await expect(widget.replies.locator(".body")).to_contain_text("19", timeout=PATIENCE_MS)
        await expect(widget.input).to_be_focused()
        await keys.press("Escape")
        await expect(page.get_by_role("button", name="Open the chat")).to_be_focused()
