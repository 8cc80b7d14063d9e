"""What a model, or a visitor's name, might bring: it is shown, and nothing of it runs or leaves."""

import base64
import io
from urllib.parse import urlsplit

import pytest
from PIL import Image
from playwright.async_api import Request, expect

from server.limits.settings import LimitSettings
from tests.clients.web.attacks import AWAY, attacks
from tests.clients.web.shop import CHROMIUM, PATIENCE_MS, scene, settings
from tests.support import ScriptedModel

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

# Everything of the widget that a text could have brought in, and that is no text.
LOOK = """(() => {
  const found = [];
  const root = document.querySelector("loquent-chat").shadowRoot;
  const names = "A ARTICLE BLOCKQUOTE BR BUTTON CODE DEL DIV EM FORM H2 HEADER HR I IMG LI OL P PRE SECTION SPAN "
    + "STRONG TABLE TBODY TD TEXTAREA TH THEAD TIME TR UL svg path";
  const known = new Set(names.split(" "));
  for (const element of root.querySelectorAll("*")) {
    if (!known.has(element.tagName)) found.push(`element ${element.tagName}`);
    for (const { name, value } of element.attributes) {
      if (/^on|^style$|^srcset$|^action$|^formaction$|^ping$/i.test(name)) found.push(`attribute ${name}=${value}`);
    }
    if (element.tagName === "A" && !["http:", "https:", "mailto:", "tel:"].includes(element.protocol)) {
      found.push(`link ${element.href}`);
    }
    if (element.tagName === "A" && !element.relList.contains("noopener")) found.push(`opener ${element.href}`);
    if (element.tagName === "IMG") found.push(`picture ${element.src}`);
  }
  if (/[\\u202a-\\u202e\\u001b\\u0000\\u009b]/.test(root.querySelector(".log").textContent)) found.push("disguise");
  return found;
})()"""


def limits() -> LimitSettings:
    """So that as many messages may be sent as there are attacks."""
    many = 100_000_000
    return LimitSettings(secret_requests=many, secret_tokens=many, address_requests=many, address_tokens=many)


async def test_nothing_that_a_model_says_runs_or_leaves() -> None:
    texts = attacks()
    assert len(texts) >= 150
    assert len(set(texts)) == len(texts)
    said = iter(texts)
    asked: list[str] = []

    def note(request: Request) -> None:
        asked.append(request.url)

    async with scene(ScriptedModel(lambda _: [next(said)]), given=settings(limits=limits())) as here:
        here.visit.context.on("request", note)
        widget = await here.opened()
        for number, text in enumerate(texts):
            await widget.call(f"chat.send('attack {number}')")
            await expect(widget.replies).to_have_count(number + 1, timeout=PATIENCE_MS)
            await expect(widget.replies.nth(number).locator("time")).to_be_attached(timeout=PATIENCE_MS)
            assert await widget.page.evaluate(LOOK) == [], text[:200]
        messages = await widget.texts()
        assert [text for role, _, text in messages if role == "assistant"] == texts
        assert await here.visit.violations() == []
        own = {urlsplit(here.site.url).netloc, urlsplit(here.server.url).netloc}
        assert {urlsplit(each).netloc for each in asked} <= own
        assert not [each for each in asked if AWAY in each]


async def test_nothing_of_a_visitors_name_runs_or_leaves() -> None:
    async with scene(ScriptedModel(["Hello."])) as here:
        widget = await here.opened()
        await widget.say("Hi")
        await expect(widget.replies.locator("time")).to_be_visible(timeout=PATIENCE_MS)
        for text in attacks():
            await widget.page.evaluate("(name) => Loquent.setUser({ name })", text)
            assert await widget.page.evaluate(LOOK) == [], text[:200]
            assert await widget.messages.count() == 2
        assert await here.visit.violations() == []


async def test_a_picture_of_the_server_is_shown_and_one_of_another_origin_is_not() -> None:
    file = io.BytesIO()
    Image.new("RGB", (1, 1)).save(file, "PNG")
    png = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"

    def reply(_: str) -> list[str]:
        return [f"![a dot]({png}) ![far]({AWAY}.png) ![near]({address}/v1/images/files/x.png)"]

    address = ""
    async with scene(ScriptedModel(reply)) as here:
        address = here.server.url
        widget = await here.opened()
        await widget.say("Draw")
        await expect(widget.replies.locator("time")).to_be_visible(timeout=PATIENCE_MS)
        shown = await widget.replies.locator("img").evaluate_all("all => all.map((each) => [each.alt, each.src])")
        assert shown == [["a dot", png], ["near", f"{address}/v1/images/files/x.png"]]
        await expect(widget.replies.locator(".body")).to_contain_text("far")
