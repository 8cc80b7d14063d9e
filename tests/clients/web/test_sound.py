"""Replies that the widget reads aloud: without a gap, and silent at once."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
from playwright.async_api import expect

from tests.clients.web.shop import CHROMIUM, PATIENCE_MS, Widget, scene, until
from tests.support import ScriptedModel, ScriptedVoice, scripted_pipeline, scripted_speech

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on this machine")

RATE = 24_000

# Notes each piece of sound with the frame at which it is to begin, and plays them all again without a sound card.
RECORD = """
window.pieces = [];
window.stopped = window.late = 0;
const start = AudioBufferSourceNode.prototype.start;
const stop = AudioBufferSourceNode.prototype.stop;
AudioBufferSourceNode.prototype.start = function (when) {
  if (stopped) late++;
  pieces.push({ when, samples: this.buffer.getChannelData(0).slice(), now: this.context.currentTime });
  return start.call(this, when);
};
AudioBufferSourceNode.prototype.stop = function (when) {
  stopped++;
  return stop.call(this, when);
};
window.render = async () => {
  const first = pieces[0].when;
  const last = pieces.at(-1);
  const length = Math.round((last.when - first) * 24000) + last.samples.length;
  const context = new OfflineAudioContext(1, length, 24000);
  for (const { when, samples } of pieces) {
    const buffer = context.createBuffer(1, samples.length, 24000);
    buffer.copyToChannel(samples, 0);
    const source = new AudioBufferSourceNode(context, { buffer });
    source.connect(context.destination);
    start.call(source, when - first);
  }
  return Array.from((await context.startRendering()).getChannelData(0), (each) => Math.round(each * 32768));
};
"""


@asynccontextmanager
async def speaking(*, paced: bool = False) -> AsyncIterator[Widget]:
    """The widget, reading aloud a minute of words, 0.3 s each; unless ``paced`` they come as fast as they are made."""
    text = [f"{number} words are said here now. " for number in range(34)]
    pipeline = scripted_pipeline(ScriptedModel(text), speech=scripted_speech(ScriptedVoice(), paced=paced))
    async with scene(pipeline) as here:
        await here.visit.context.add_init_script(RECORD)
        widget = await here.opened()
        button = widget.page.get_by_role("button", name="Read replies aloud")
        await button.click()
        await expect(button).to_have_attribute("aria-pressed", "true")
        yield widget


async def test_a_minute_of_speech_has_no_gap_and_no_overlap() -> None:
    async with speaking() as widget:
        await widget.page.evaluate(
            """window.sent = []; void Loquent.on("event", (event) => {
              if (event.type === "response.output_audio.delta") sent.push(event.delta);
            })"""
        )
        await widget.say("Speak")
        await expect(widget.replies.locator("time")).to_be_visible(timeout=PATIENCE_MS)
        deltas: list[str] = await widget.page.evaluate("window.sent")
        played: list[int] = await widget.page.evaluate("render()")
    expected = np.concatenate([np.frombuffer(base64.b64decode(each), dtype="<i2") for each in deltas])
    assert len(expected) > 55 * RATE
    assert len(played) == len(expected), "there is a gap, or an overlap"
    assert np.abs(np.array(played) - expected).max() <= 1


async def test_a_reply_that_is_stopped_is_silent_at_once_and_the_server_learns_what_was_heard() -> None:
    async with speaking(paced=True) as widget:
        await widget.page.evaluate('window.kinds = []; void Loquent.on("event", ({ type }) => void kinds.push(type))')
        await widget.say("Speak")
        await expect(widget.replies.locator(".body")).to_contain_text("words", timeout=PATIENCE_MS)
        await until(widget.page, "pieces.length > 3")
        await widget.page.get_by_role("button", name="Stop the reply").click()
        await expect(widget.replies).to_contain_text("Stopped", timeout=PATIENCE_MS)
        await widget.page.wait_for_timeout(500)
        assert await widget.page.evaluate("stopped") > 0, "nothing that was to be played was stopped"
        assert await widget.page.evaluate("late") == 0, "sound came behind the stop"
        kinds: list[str] = await widget.page.evaluate("kinds")
        assert kinds.count("response.done") == 1
        assert kinds.count("conversation.item.truncated") == 1
        await expect(widget.page.get_by_role("button", name="Send")).to_be_visible(timeout=PATIENCE_MS)


async def test_a_new_message_interrupts_a_reply_that_is_read_aloud() -> None:
    async with speaking(paced=True) as widget:
        await widget.say("Speak")
        await until(widget.page, "pieces.length > 3")
        await widget.say("Stop, and speak again")
        await expect(widget.replies.first).to_contain_text("Stopped", timeout=PATIENCE_MS)
        assert await widget.page.evaluate("stopped") > 0
        await expect(widget.replies.nth(1).locator(".body")).to_contain_text("words", timeout=PATIENCE_MS)
        await widget.page.keyboard.press("Escape")
        await expect(widget.page.get_by_role("button", name="Open the chat")).to_be_focused()
