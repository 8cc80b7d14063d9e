"""A shop's site on an origin of its own, whose pages have the widget and a strict Content Security Policy."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from playwright.async_api import Browser, BrowserContext, Locator, Page, async_playwright

from pipelines.build import Pipeline
from server.config import ServerSettings, Settings, hash_key
from server.web.file import WidgetFile
from tests.support import Running, ScriptedModel, running

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE_MS = 30_000
KEY = "a key of the shop's server"
WIDGET = WidgetFile.read()
WATCH = """
window.faults = [];
document.addEventListener("securitypolicyviolation", (event) =>
  faults.push(`${event.violatedDirective}: ${event.blockedURI} ${event.sample}`));
window.ran = (what) => faults.push(`ran: ${what}`);
window.alert = window.confirm = window.prompt = (what) => window.ran(what);
"""


def settings(**others: Any) -> Settings:
    """Of a server that wants the shop's key."""
    return Settings(server=ServerSettings(keys=(hash_key(KEY),)), **others)


@dataclass
class Shop:
    """The shop's site: where it is, and whom its server has given client secrets."""

    url: str
    server: str
    minted: int = 0
    refuses: bool = False
    attributes: dict[str, str] = field(default_factory=dict)
    body: str = ""

    def policy(self) -> str:
        """Nothing but the shop's own files, the widget, its server, and what that has drawn."""
        socket = self.server.replace("http", "ws", 1)
        return (
            f"default-src 'none'; script-src {self.server}; style-src 'self'; img-src {self.server} data:; "
            f"connect-src 'self' {self.server} {socket}; base-uri 'none'; form-action 'none'; "
            "require-trusted-types-for 'script'; trusted-types 'none'"
        )

    async def page(self, request: web.Request) -> web.Response:
        """The one page."""
        given = {"server": self.server, "secret-url": "/secret", **self.attributes}
        attributes = " ".join(f'{name}="{escape(value)}"' for name, value in given.items())
        script = (
            f'<script src="{self.server}{WIDGET.path}" integrity="{WIDGET.integrity}" crossorigin="anonymous" defer>'
            f"</script><loquent-chat {attributes}></loquent-chat>"
        )
        if request.path == "/bare":
            script = ""
        text = (
            '<!doctype html><html lang="en"><meta charset="utf-8"><title>Shop</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f'<main><h1>Shop</h1><button id="buy">Buy</button>{self.body}</main>{script}</html>'
        )
        headers = {"Content-Security-Policy": self.policy()}
        return web.Response(text=text, content_type="text/html", headers=headers)

    async def secret(self, request: web.Request) -> web.Response:
        """A client secret for the shop's visitor."""
        if self.refuses:
            return web.json_response({"error": "not signed in"}, status=403)
        body = {"loquent": {"origin": self.url}}
        headers = {"Authorization": f"Bearer {KEY}"}
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{self.server}/v1/realtime/client_secrets", json=body, headers=headers) as response,
        ):
            response.raise_for_status()
            self.minted += 1
            return web.json_response(await response.json())


async def _blank(_: web.Request) -> web.Response:
    return web.Response(text="A page without a chat.")


@asynccontextmanager
async def shop(server: str, **attributes: str) -> AsyncIterator[Shop]:
    """The shop's site, whose widget speaks to the server at this address."""
    site = Shop("", server, attributes={name.replace("_", "-"): value for name, value in attributes.items()})
    app = web.Application()
    app.add_routes(
        [
            web.get("/", site.page),
            web.get("/bare", site.page),
            web.post("/secret", site.secret),
            web.get("/blank", _blank),
        ]
    )
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        place = web.TCPSite(runner, "127.0.0.1", 0)
        await place.start()
        site.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield site
    finally:
        await runner.cleanup()


@asynccontextmanager
async def browser(*options: str) -> AsyncIterator[Browser]:
    """Chromium."""
    async with async_playwright() as playwright:
        launched = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", *options])
        try:
            yield launched
        finally:
            await launched.close()


class Visit:
    """A visitor's tabs, in which nothing may go wrong that the page can see."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.faults: list[str] = []

    async def watch(self) -> None:
        """Note what pages run and what their policies refuse; before the first one is opened."""
        await self.context.add_init_script(WATCH)

    async def open(self, url: str) -> Page:
        """A new tab."""
        page = await self.context.new_page()
        page.on("pageerror", lambda error: self.faults.append(f"error: {error}"))
        page.set_default_timeout(PATIENCE_MS)
        await page.goto(url)
        return page

    async def violations(self) -> list[str]:
        """What went wrong so far."""
        seen = [await page.evaluate("window.faults") for page in self.context.pages]
        return [*self.faults, *(fault for faults in seen for fault in faults)]


@asynccontextmanager
async def visiting(**options: Any) -> AsyncIterator[Visit]:
    """A visitor. Fails where a page breaks its policy, runs what it should not, or reports an error."""
    async with browser() as launched:
        visit = Visit(await launched.new_context(**options))
        await visit.watch()
        yield visit
        assert await visit.violations() == []


@asynccontextmanager
async def browsing(url: str, *, heard: Path | None = None, **context: Any) -> AsyncIterator[Page]:
    """The page at ``url``; its microphone hears a WAV file once. Fails where the page reports an error of its own."""
    options = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
    if heard is not None:
        options.append(f"--use-file-for-fake-audio-capture={heard}%noloop")
    async with browser(*options) as launched:
        visit = Visit(await launched.new_context(**context))
        await visit.watch()
        yield await visit.open(url)
        assert await visit.violations() == []


class Widget:
    """The widget on a page, as its user finds it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.messages: Locator = page.locator("loquent-chat .message:not([hidden])")
        self.replies: Locator = page.locator("loquent-chat .message.assistant:not([hidden])")
        self.input: Locator = page.get_by_role("textbox", name="Message")

    async def open(self) -> None:
        """Press the button on the page."""
        await self.page.get_by_role("button", name="Open the chat").click()

    async def say(self, text: str) -> None:
        """Write a message and send it with Enter."""
        await self.input.fill(text)
        await self.input.press("Enter")

    async def call(self, expression: str) -> Any:
        """Evaluate ``expression``, in which ``chat`` is the element."""
        return await self.page.evaluate(
            f"(() => {{ const chat = document.querySelector('loquent-chat'); {expression} }})()"
        )

    async def texts(self) -> list[tuple[str, str, str]]:
        """Role, status and text of each message."""
        found = await self.call("return chat.messages.map((each) => [each.role, each.status, each.text])")
        return [(role, status, text) for role, status, text in found]


async def until(page: Page, expression: str) -> None:
    """Wait until an expression is true; Playwright's own waiting needs a policy that allows ``eval``."""
    async with asyncio.timeout(4 * PATIENCE_MS / 1000):
        while not await page.evaluate(expression):
            await asyncio.sleep(0.01)


async def opened(visit: Visit, url: str) -> Widget:
    """The widget of a new tab, opened."""
    widget = Widget(await visit.open(url))
    await widget.open()
    return widget


async def with_history(visit: Visit, site: Shop, texts: list[str]) -> Widget:
    """The widget of a new tab, opened, in a browser that has these messages from earlier, of both in turn."""
    page = await visit.open(f"{site.url}/blank")
    await page.evaluate(
        """([key, texts]) => localStorage.setItem(key, JSON.stringify({
          version: 1, at: Date.now(), ticket: { token: "", last: "", unanswered: [] },
          messages: texts.map((text, n) => (
            { id: `item_${n}`, role: n % 2 ? "assistant" : "user", text, status: "done", at: n * 1000 }
          )),
        }))""",
        [f"loquent-chat:{site.server}:", texts],
    )
    await page.goto(site.url)
    widget = Widget(page)
    await widget.open()
    return widget


@dataclass(frozen=True)
class Scene:
    """A server, the shop's site, and a visitor there."""

    server: Running
    site: Shop
    visit: Visit

    async def opened(self) -> Widget:
        """The widget of a new tab, opened."""
        return await opened(self.visit, self.site.url)

    async def tab(self) -> Widget:
        """The widget of a new tab, as it is loaded."""
        return Widget(await self.visit.open(self.site.url))


@asynccontextmanager
async def scene(
    pipeline: Pipeline | ScriptedModel,
    *,
    given: Settings | None = None,
    browser: Mapping[str, Any] | None = None,
    attributes: Mapping[str, str] | None = None,
) -> AsyncIterator[Scene]:
    """All three; ``browser`` has the options of the visitor's browser, ``attributes`` are the widget's."""
    async with (
        running(pipeline, given or settings()) as server,
        shop(server.url, **(attributes or {})) as site,
        visiting(**(browser or {})) as visit,
    ):
        yield Scene(server, site, visit)
