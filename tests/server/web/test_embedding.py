"""What a page of another origin needs, in a real browser: the tag with its hash, and pictures, also in isolation."""

import struct
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import ConsoleMessage, async_playwright

from pipelines.events import Picture
from tests.clients.web.shop import CHROMIUM
from tests.support import Running, ScriptedModel, run, running

WATCH = """
self.scripts = [];
for (const kind of ["load", "error"])
    document.addEventListener(kind, event => event.target.tagName === "SCRIPT" && self.scripts.push(kind), true);
"""

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")


def png() -> bytes:
    """A white pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0\xff")) + chunk(b"IEND", b"")


@asynccontextmanager
async def shop(html: str, **headers: str) -> AsyncIterator[str]:
    """The address of a page on an origin of its own."""

    async def page(request: web.Request) -> web.Response:
        return web.Response(text=html, content_type="text/html", headers=headers)

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


async def loaded(server: Running, script: str) -> dict[str, Any]:
    """What becomes of the script and of a picture on such a page."""
    picture = Picture("img_1", "a dot", 1, "flat", "none", 1, png())
    link = server.backend.images.add(picture, server.url).url
    headers = {
        "Content-Security-Policy": f"default-src 'none'; script-src {server.url}; img-src {server.url}; "
        f"connect-src {server.url} {server.url.replace('http', 'ws')}; require-trusted-types-for 'script'",
        "Cross-Origin-Embedder-Policy": "require-corp",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
    html = f'<!doctype html><title>Shop</title><img src="{link.replace("&", "&amp;")}">{script}'
    async with shop(html, **headers) as address, async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            page = await browser.new_page()
            refusals: list[str] = []

            def heard(message: ConsoleMessage) -> None:
                if any(word in message.text for word in ("integrity", "CORS", "Content Security Policy", "BLOCKED")):
                    refusals.append(message.text)

            page.on("console", heard)
            await page.add_init_script(WATCH)
            await page.goto(address, wait_until="load")
            state: dict[str, Any] = await page.evaluate("({isolated: crossOriginIsolated, scripts: self.scripts})")
            pixels = await page.evaluate("document.images[0].naturalWidth")
            return state | {"pixels": pixels, "refusals": refusals}
        finally:
            await browser.close()


async def test_another_origin_loads_the_script_and_shows_pictures_though_it_is_isolated(loquent: str) -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        script = run(loquent, "widget", "--url", server.url).stdout.splitlines()[0]
        assert await loaded(server, script) == {"isolated": True, "pixels": 1, "scripts": ["load"], "refusals": []}


async def test_a_browser_runs_no_other_file_than_the_tags(loquent: str) -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        script = run(loquent, "widget", "--url", server.url).stdout.splitlines()[0]
        wrong = script.replace("sha384-", "sha384-AAAA")
        state = await loaded(server, wrong)
        assert state["scripts"] == ["error"]
        assert any("integrity" in each for each in state["refusals"])
