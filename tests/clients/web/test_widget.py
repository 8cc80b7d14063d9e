"""The widget on a shop's site: one origin, the server on another, a strict policy."""

import threading

import pytest
from playwright.async_api import expect

from server.backend import abort
from server.realtime.connection import Connection
from tests.clients.web.shop import CHROMIUM, PATIENCE_MS, scene, until, with_history
from tests.support import Running, ScriptedModel

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

COUNT = [f"{number} " for number in range(30)]
WHOLE = "".join(COUNT)


def cut(server: Running) -> None:
    """Break every websocket."""
    for connection in list(server.backend.connections):
        assert isinstance(connection, Connection)
        abort(connection._request)


async def test_a_visitor_asks_and_the_reply_streams() -> None:
    gate = threading.Semaphore(0)
    async with scene(ScriptedModel(["Hel", "lo **there**", "."], gate=gate)) as here:
        widget = await here.opened()
        await expect(widget.input).to_be_focused(timeout=PATIENCE_MS)
        await widget.say("Hi")
        await expect(widget.messages.first).to_contain_text("Hi")
        gate.release(1)
        await expect(widget.replies.locator(".body")).to_have_text("Hel", timeout=PATIENCE_MS)
        gate.release(10)
        await expect(widget.replies.locator("strong")).to_have_text("there", timeout=PATIENCE_MS)
        assert await widget.texts() == [("user", "done", "Hi"), ("assistant", "done", "Hello **there**.")]
        assert here.site.minted == 1


async def test_a_reply_that_is_stopped_stops() -> None:
    gate = threading.Semaphore(0)
    async with scene(ScriptedModel(COUNT, gate=gate)) as here:
        widget = await here.opened()
        await widget.say("Count")
        gate.release(3)
        await expect(widget.replies.locator(".body")).to_contain_text("2", timeout=PATIENCE_MS)
        await widget.page.get_by_role("button", name="Stop the reply").click()
        gate.release(1)
        await expect(widget.replies).to_contain_text("Stopped", timeout=PATIENCE_MS)
        gate.release(100)
        assert (await widget.texts())[1][:2] == ("assistant", "cancelled")
        assert "9" not in (await widget.texts())[1][2]
        await widget.page.get_by_role("button", name="Try again").click()
        await expect(widget.replies.locator(".body")).to_have_text(WHOLE.strip(), timeout=PATIENCE_MS)
        assert [role for role, _, _ in await widget.texts()] == ["user", "assistant"]


async def test_a_connection_that_breaks_loses_and_repeats_nothing() -> None:
    gate = threading.Semaphore(0)
    async with scene(ScriptedModel(COUNT, gate=gate)) as here:
        widget = await here.opened()
        await widget.say("Count")
        for part in range(3):
            gate.release(10)
            await expect(widget.replies.locator(".body")).to_contain_text(f"{10 * part + 5}", timeout=PATIENCE_MS)
            cut(here.server)
        gate.release(10)
        await expect(widget.replies.locator("time")).to_be_visible(timeout=PATIENCE_MS)
        assert await widget.texts() == [("user", "done", "Count"), ("assistant", "done", WHOLE)]
        assert len(here.server.backend.live) == 1


async def test_a_page_that_is_loaded_again_amid_a_reply_goes_on_with_it() -> None:
    gate = threading.Semaphore(0)
    async with scene(ScriptedModel(COUNT, gate=gate)) as here:
        widget = await here.opened()
        await widget.say("Count")
        gate.release(10)
        await expect(widget.replies.locator(".body")).to_contain_text("8", timeout=PATIENCE_MS)
        await widget.page.reload()
        await widget.open()
        await expect(widget.replies.locator(".body")).to_contain_text("8", timeout=PATIENCE_MS)
        gate.release(100)
        await expect(widget.replies.locator("time")).to_be_visible(timeout=PATIENCE_MS)
        assert await widget.texts() == [("user", "done", "Count"), ("assistant", "done", WHOLE)]
        assert len(here.server.backend.live) == 1


async def test_two_tabs_share_a_conversation_and_one_goes_on_without_the_other() -> None:
    gate = threading.Semaphore(0)
    async with scene(ScriptedModel(COUNT, gate=gate)) as here:
        first = await here.opened()
        second = await here.opened()
        await second.say("Count")
        gate.release(10)
        for widget in (first, second):
            await expect(widget.replies.locator(".body")).to_contain_text("8", timeout=PATIENCE_MS)
        await first.page.close()
        gate.release(100)
        await expect(second.replies.locator("time")).to_be_visible(timeout=PATIENCE_MS)
        assert await second.texts() == [("user", "done", "Count"), ("assistant", "done", WHOLE)]
        await second.say("Again")
        gate.release(100)
        await expect(second.replies.nth(1).locator("time")).to_be_visible(timeout=PATIENCE_MS)
        assert len(here.server.backend.live) == 1


async def test_what_is_said_offline_is_answered_once_the_network_is_back() -> None:
    async with scene(ScriptedModel(["Hello."])) as here:
        widget = await here.opened()
        await widget.say("Hi")
        await expect(widget.replies.locator("time")).to_be_visible(timeout=PATIENCE_MS)
        await here.visit.context.set_offline(True)
        cut(here.server)
        await expect(widget.page.get_by_text("You are offline")).to_be_visible(timeout=PATIENCE_MS)
        await widget.say("Are you there?")
        await here.visit.context.set_offline(False)
        await expect(widget.replies.nth(1).locator(".body")).to_have_text("Hello.", timeout=PATIENCE_MS)
        assert [status for _, status, _ in await widget.texts()] == ["done"] * 4
        assert len(here.server.backend.live) == 1


async def test_a_visitor_without_a_secret_is_told_so_and_can_try_again() -> None:
    async with scene(ScriptedModel(["Hello."])) as here:
        here.site.refuses = True
        widget = await here.opened()
        await expect(widget.page.get_by_text("No connection; trying again")).to_be_visible(timeout=PATIENCE_MS)
        await widget.say("Hi")
        here.site.refuses = False
        await widget.page.get_by_role("button", name="Try again").click()
        await expect(widget.replies.locator(".body")).to_have_text("Hello.", timeout=PATIENCE_MS)


async def test_an_unread_reply_is_counted_and_the_focus_goes_back() -> None:
    gate = threading.Semaphore(0)
    async with scene(ScriptedModel(["Hello."], gate=gate)) as here:
        widget = await here.opened()
        await widget.say("Hi")
        await widget.page.keyboard.press("Escape")
        launcher = widget.page.get_by_role("button", name="Open the chat")
        await expect(launcher).to_be_focused(timeout=PATIENCE_MS)
        gate.release(10)
        await expect(launcher).to_have_accessible_name("Open the chat, 1 unread", timeout=PATIENCE_MS)
        await launcher.click()
        await expect(widget.page.locator("loquent-chat .badge")).to_be_hidden(timeout=PATIENCE_MS)


async def test_a_reply_that_is_rated_is_counted() -> None:
    async with scene(ScriptedModel(["Hello."])) as here:
        widget = await here.opened()
        await widget.page.evaluate('window.kinds = []; void Loquent.on("event", ({ type }) => void kinds.push(type))')
        await widget.say("Hi")
        for name in ("Good reply", "Bad reply", "Bad reply"):
            button = widget.page.get_by_role("button", name=name)
            pressed = await button.get_attribute("aria-pressed", timeout=PATIENCE_MS) == "true"
            await button.click()
            await expect(button).to_have_attribute("aria-pressed", str(not pressed).lower(), timeout=PATIENCE_MS)
        await until(widget.page, "kinds.filter((each) => each === 'loquent.feedback.recorded').length === 3")
        counted = here.server.backend.metrics.feedback
        assert [counted.labels(rating)._value.get() for rating in ("up", "down")] == [1, 1]


async def test_the_page_can_drive_the_chat_and_listen_to_it() -> None:
    async with scene(ScriptedModel(lambda prompt: ["Hello."])) as here:
        page = await here.visit.open(here.site.url)
        heard = await page.evaluate(
            """new Promise((resolve) => {
              const seen = [];
              for (const name of ["open", "message", "reply"]) Loquent.on(name, (detail) => {
                seen.push([name, detail?.text ?? null]);
                if (name === "reply") resolve(seen);
              });
              Loquent.setLocale("de");
              Loquent.setUser({ id: "7", name: "Ada" });
              Loquent.open();
              Loquent.send("Hi");
            })"""
        )
        assert heard == [["open", None], ["message", "Hi"], ["reply", "Hello."]]
        await expect(page.get_by_role("textbox", name="Nachricht")).to_be_visible(timeout=PATIENCE_MS)
        await expect(page.locator("loquent-chat .user .who")).to_contain_text("Ada")
        await page.evaluate("Loquent.reset()")
        await expect(page.locator("loquent-chat .user")).to_have_count(0, timeout=PATIENCE_MS)
        await page.evaluate("Loquent.send('Anew')")
        await expect(page.locator("loquent-chat .assistant:not([hidden]) .body")).to_have_text(
            "Hello.", timeout=PATIENCE_MS
        )


async def test_a_tab_that_is_suspended_is_replaced_by_another() -> None:
    async with scene(ScriptedModel(["Hello."])) as here:
        first = await here.opened()
        await first.say("Hi")
        await expect(first.replies.locator("time")).to_be_visible(timeout=PATIENCE_MS)
        second = await here.opened()
        suspending = await here.visit.context.new_cdp_session(first.page)
        await suspending.send("Page.setWebLifecycleState", {"state": "frozen"})
        await second.say("Are you there?")
        await expect(second.replies.nth(1).locator(".body")).to_have_text("Hello.", timeout=PATIENCE_MS)
        await suspending.send("Page.setWebLifecycleState", {"state": "active"})
        assert [text for _, _, text in await second.texts()] == ["Hi", "Hello.", "Are you there?", "Hello."]
        assert len(here.server.backend.live) == 1


async def test_where_tabs_can_not_agree_each_has_its_own_conversation() -> None:
    async with scene(ScriptedModel(["Hello."])) as here:
        # As on a page that came by plain http from another machine.
        await here.visit.context.add_init_script("Object.defineProperty(navigator, 'locks', { value: undefined })")
        for _ in range(2):
            widget = await here.opened()
            await widget.say("Hi")
            await expect(widget.replies.locator(".body")).to_have_text("Hello.", timeout=PATIENCE_MS)
        assert len(here.server.backend.live) == 2


async def test_a_long_history_is_made_as_far_as_somebody_looks() -> None:
    count = 300
    async with scene(ScriptedModel(["Hello."])) as here:
        widget = await with_history(here.visit, here.site, [f"Message {number}." for number in range(count)])
        await expect(widget.messages.last).to_contain_text(f"Message {count - 1}.", timeout=PATIENCE_MS)
        await expect(widget.messages.last).to_be_in_viewport()
        assert await widget.messages.count() < count
        await widget.say("Hi")  # while the earlier ones are missing
        await expect(widget.replies.last.locator(".body")).to_have_text("Hello.", timeout=PATIENCE_MS)
        log = "document.querySelector('loquent-chat').shadowRoot.querySelector('.log')"
        await until(
            widget.page, f"({log}.scrollTop = 0, {log}.querySelectorAll('.messages .message').length) >= {count + 2}"
        )
        texts = await widget.page.locator("loquent-chat .message:not([hidden]) .body").all_text_contents()
        assert texts == [*(f"Message {number}." for number in range(count)), "Hi", "Hello."]
        assert (
            await widget.page.evaluate(
                f"Math.max(...[...{log}.querySelectorAll('.block')].map((b) => b.childElementCount))"
            )
            <= 40
        )
