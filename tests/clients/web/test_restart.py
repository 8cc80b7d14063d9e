"""The widget while its server's process ends amid a reply and another one takes its place."""

import asyncio
import re
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import expect

from bench.faults.process import Process
from server.config import hash_key
from tests.clients.web.shop import CHROMIUM, KEY, PATIENCE_MS, Visit, opened, shop, until, visiting
from tests.support import START_SECONDS

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine"),
    pytest.mark.timeout(START_SECONDS),
]

LONG = "Tell me a long story about the sea, of many sentences."
ENDLESS = "{ max_output_tokens: %d, loquent: { sampling: { ignore_eos: true } } }"
SHORT = "{ max_output_tokens: 60, loquent: { sampling: { ignore_eos: false } } }"
LAST = "document.querySelector('loquent-chat').messages.at(-1)"


@asynccontextmanager
async def process(folder: Path) -> AsyncIterator[Process]:
    """A server that stores conversations, ready."""
    settings = {
        "server.keys": [hash_key(KEY)],
        "history.store": f"sqlite:///{folder}/history.db",
        "pipeline.stages": ["chat"],
    }
    server = Process(settings, log=folder / "log")
    server.start()
    try:
        await server.ready()
        yield server
    finally:
        if server.alive:
            server.end()


async def restart(server: Process, by: signal.Signals) -> None:
    """End it and start another one at the same address."""
    await asyncio.to_thread(server.end, by)
    server.start()
    await server.ready()


async def watch(visit: Visit) -> None:
    """Have every page note each text that its last message had."""
    await visit.context.add_init_script(
        """window.seen = [];
        addEventListener("DOMContentLoaded", () => Loquent.on("event", ({ type, delta }) => {
          if (type === "response.output_text.delta") window.seen.push(delta);
        }));"""
    )


@pytest.mark.e2e
@pytest.mark.parametrize(("by", "tokens"), [(signal.SIGTERM, 400), (signal.SIGKILL, 1600)])
async def test_a_server_that_ends_amid_a_reply_loses_no_conversation(
    tmp_path: Path, by: signal.Signals, tokens: int
) -> None:
    async with process(tmp_path) as server, shop(server.url) as site, visiting() as visit:
        await watch(visit)
        widget = await opened(visit, site.url)
        await widget.say("My name is Ada.")
        await expect(widget.replies.locator("time")).to_be_visible(timeout=PATIENCE_MS)
        await widget.call(f"chat.session = {ENDLESS % tokens}")  # 1,600 take some seven seconds: no kill is late
        await widget.say(LONG)
        await until(widget.page, f"{LAST}.role == 'assistant' && {LAST}.text.length > 20")
        await restart(server, by)
        await expect(widget.replies.nth(1).locator("time")).to_be_visible(timeout=PATIENCE_MS)
        last = await widget.call("return chat.messages.at(-1)")
        # A drain finishes what is being written; what a killed server was writing is told to be incomplete.
        assert (last["role"], last["status"]) == ("assistant", "incomplete")
        assert last.get("error") == ("server_restarted" if by is signal.SIGKILL else None)
        await expect(widget.page.get_by_text("The reply is not complete")).to_be_visible()
        deltas = await widget.page.evaluate("window.seen.join('')")
        assert deltas.endswith(last["text"]), "a delta was lost or doubled"
        await widget.call(f"chat.session = {SHORT}")
        await widget.say("Name the capital of France.")
        await expect(widget.replies.nth(2).locator("time")).to_be_visible(timeout=PATIENCE_MS)
        await expect(widget.replies.nth(2).locator(".body")).to_have_text(re.compile("Paris"))
        assert [role for role, _, _ in await widget.texts()] == ["user", "assistant"] * 3
        assert site.minted >= 1
        await widget.page.reload()
        await widget.open()
        await expect(widget.replies).to_have_count(3, timeout=PATIENCE_MS)
