"""The chat widget in a browser: its size, the tasks that block a page, its memory, and how soon it is heard and silent.

Run ``python -m bench.widget``. The server is the real one around a scripted model and voice, so that what is measured
is the browser's work; the shop's page has the policy that the tests use.
"""

import argparse
import asyncio
import gzip
import json
import os
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from playwright.async_api import Page

from bench import results
from bench.machine import machine
from server.limits.settings import LimitSettings
from tests.clients.web.shop import (
    CHROMIUM,
    WIDGET,
    Shop,
    Visit,
    opened,
    settings,
    shop,
    until,
    visiting,
    with_history,
)
from tests.interop.peers import node
from tests.support import ScriptedModel, ScriptedVoice, running, scripted_pipeline, scripted_speech

HISTORY = 2000  # messages
REPLIES = 500
REPLY_BYTES = 20_000
REPEATS = 5
LIGHTHOUSE = "13.5.0"
PARAGRAPH = (
    "Some **bold** and *emphasised* text with `code` and [a link](https://example.com/), "
    "so that there is something to parse in each of the paragraphs.\n\n"
    "- one\n- two\n  - three\n\n```python\nprint('hello')\n```\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n\n"
)

WATCH = """
window.tasks = [];
new PerformanceObserver((list) => { for (const each of list.getEntries()) tasks.push(each.duration); })
  .observe({ type: "longtask", buffered: true });
window.heard = [];
addEventListener("DOMContentLoaded", () => {
  const look = setInterval(() => {
    if (!document.querySelector("loquent-chat")?.shadowRoot?.querySelector("textarea")?.checkVisibility()) return;
    window.usable = performance.now();
    clearInterval(look);
  }, 1);
});
const start = AudioBufferSourceNode.prototype.start;
AudioBufferSourceNode.prototype.start = function (when) {
  heard.push({ at: performance.now(), delay: (when - this.context.currentTime) * 1000 });
  return start.call(this, when);
};
const stop = AudioBufferSourceNode.prototype.stop;
AudioBufferSourceNode.prototype.stop = function (when) {
  window.silent ??= performance.now();
  return stop.call(this, when);
};
"""


def limits() -> LimitSettings:
    """None that a bench would meet."""
    many = 1_000_000_000
    return LimitSettings(secret_requests=many, secret_tokens=many, address_requests=many, address_tokens=many)


def long_reply() -> list[str]:
    """A reply of 20 KB, in pieces as a model says them."""
    text = PARAGRAPH * (REPLY_BYTES // len(PARAGRAPH) + 1)
    return [text[at : at + 4] for at in range(0, REPLY_BYTES, 4)]


async def longest(page: Page) -> float:
    """Milliseconds of the longest task since the last look; 0 where none had 50."""
    await page.wait_for_timeout(300)
    tasks: list[float] = await page.evaluate("window.tasks.splice(0)")
    return max(tasks, default=0.0)


async def history(visit: Visit, site: Shop) -> float:
    """The longest task while a page with 2,000 messages is loaded, and scrolled to the first of them."""
    widget = await with_history(visit, site, [f"{number} {PARAGRAPH[:400]}" for number in range(HISTORY)])
    page = widget.page
    log = "document.querySelector('loquent-chat').shadowRoot.querySelector('.log')"
    shown = f"{log}.querySelectorAll('.messages .message').length"
    await until(page, f"{shown} > 0")
    await until(page, f"({log}.scrollTop = 0, {shown}) === {HISTORY}")
    took = await longest(page)
    await widget.call("chat.reset()")
    await page.close()
    return took


async def streaming(visit: Visit, site: Shop) -> float:
    """The longest task while 20 KB of Markdown stream in."""
    widget = await opened(visit, site.url)
    await longest(widget.page)
    await widget.say("long")
    await widget.replies.locator("time").wait_for(timeout=120_000)
    took = await longest(widget.page)
    await widget.call("chat.reset()")
    await widget.page.close()
    return took


async def memory(visit: Visit, site: Shop) -> tuple[float, float]:
    """MiB of the page's heap after 100 replies, and after 500; each conversation has 20 turns."""
    widget = await opened(visit, site.url)
    session = await visit.context.new_cdp_session(widget.page)
    found: list[float] = []
    for number in range(1, REPLIES + 1):
        await widget.call("chat.send('short')")
        await until(
            widget.page,
            f"document.querySelector('loquent-chat').messages.length === {2 * ((number - 1) % 20 + 1)} "
            "&& document.querySelector('loquent-chat').messages.at(-1).status === 'done'",
        )
        if number % 20 == 0:
            await widget.call("chat.reset()")
        if number in (100, REPLIES):
            await session.send("HeapProfiler.collectGarbage")
            usage: dict[str, Any] = await session.send("Runtime.getHeapUsage")
            found.append(usage["usedSize"] / 2**20)
    await widget.page.close()
    return found[0], found[1]


async def sound(visit: Visit, site: Shop) -> tuple[float, float]:
    """Milliseconds from the first delta to its sound, and from the stop to silence."""
    widget = await opened(visit, site.url)
    page = widget.page
    await page.get_by_role("button", name="Read replies aloud").click()
    await page.evaluate(
        """void Loquent.on("event", ({ type }) => {
          if (type.endsWith("audio_transcript.delta") || type === "response.output_audio.delta") {
            window.first ??= performance.now();
          }
        })"""
    )
    await widget.say("speak")
    await until(page, "window.heard.length > 3")
    first: float = await page.evaluate("heard[0].at + heard[0].delay - first")
    await page.evaluate(
        "document.querySelector('loquent-chat').shadowRoot.querySelector('.send')"
        ".addEventListener('click', () => (window.pressed = performance.now()), true)"
    )
    await page.get_by_role("button", name="Stop the reply").click()
    await until(page, "window.silent !== undefined")
    # What was handed to the sound card before is beyond anyone's reach: `outputLatency` says how much that is.
    silent: float = await page.evaluate("silent - pressed")
    await widget.call("chat.reset()")
    await page.close()
    return first, silent


def table(rows: Iterable[tuple[str, str, str]]) -> str:
    """Rows of a measure, its figure and its goal."""
    return "\n".join(
        ["| measure | figure | goal |", "| --- | --- | --- |", *("| " + " | ".join(row) + " |" for row in rows)]
    )


async def first_page(visit: Visit) -> float:
    """Milliseconds until the first page of a server on this machine can be written in."""
    async with running(ScriptedModel(["Hello."])) as server:
        page = await visit.open(server.url)
        await until(page, "window.usable !== undefined")
        usable: float = await page.evaluate("window.usable")
        await page.close()
    return usable


async def lighthouse(url: str) -> float:
    """Lighthouse's score for performance, of 100."""
    npm = node().parents[1] / "lib/node_modules/npm/bin/npm-cli.js"
    command: list[str | Path] = [
        node(),
        npm,
        "exec",
        "--yes",
        f"lighthouse@{LIGHTHOUSE}",
        "--",
        url,
        "--only-categories=performance",
    ]
    options = ["--output=json", "--quiet", "--chrome-flags=--headless=new --no-sandbox"]
    environment = os.environ | {"CHROME_PATH": str(CHROMIUM), "PATH": f"{node().parent}:{os.environ['PATH']}"}
    process = await asyncio.create_subprocess_exec(
        *command, *options, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    async with asyncio.timeout(300):
        out, _ = await process.communicate()
    return 100 * float(json.loads(out)["categories"]["performance"]["score"])


async def scores() -> tuple[float, float]:
    """Lighthouse's medians for the shop's page without the widget's tag, and with it."""
    async with running(ScriptedModel(["Hello."]), settings()) as server, shop(server.url) as site:
        bare = [await lighthouse(f"{site.url}/bare") for _ in range(REPEATS)]
        full = [await lighthouse(site.url) for _ in range(REPEATS)]
    return statistics.median(bare), statistics.median(full)


async def measure(replies: bool) -> dict[str, float]:
    """All of it."""
    whole = long_reply()
    text = [f"{number} words are said here now. " for number in range(30)]

    def reply(prompt: str) -> list[str]:
        asked = prompt.rsplit("user", 1)[-1]
        return whole if "long" in asked else text if "speak" in asked else [PARAGRAPH]

    pipeline = scripted_pipeline(ScriptedModel(reply), speech=scripted_speech(ScriptedVoice(), paced=True))
    async with running(pipeline, settings(limits=limits())) as server, shop(server.url) as site, visiting() as visit:
        await visit.context.add_init_script(WATCH)
        sounds = [await sound(visit, site) for _ in range(REPEATS)]
        found = {
            "compressed_bytes": float(len(gzip.compress(WIDGET.content, 9))),
            "history_task_ms": statistics.median([await history(visit, site) for _ in range(REPEATS)]),
            "stream_task_ms": statistics.median([await streaming(visit, site) for _ in range(REPEATS)]),
            "first_sound_ms": statistics.median(first for first, _ in sounds),
            "silent_ms": statistics.median(silent for _, silent in sounds),
            "page_ms": statistics.median([await first_page(visit) for _ in range(REPEATS)]),
        }
        if replies:
            found["heap_100_mib"], found["heap_500_mib"] = await memory(visit, site)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-memory", action="store_true", help="leave out the 500 replies, which take a minute")
    parser.add_argument("--lighthouse", action="store_true", help="also Lighthouse's scores, which npm fetches")
    asked = parser.parse_args()
    found = asyncio.run(measure(not asked.no_memory))
    if asked.lighthouse:
        found["lighthouse_bare"], found["lighthouse"] = asyncio.run(scores())
    rows = [
        ("widget.js, compressed", f"{found['compressed_bytes'] / 1024:.1f} KB", "45"),
        (
            f"longest task, a history of {HISTORY:,} messages",
            f"{found['history_task_ms']:.0f} ms (0: none of 50)",
            "50",
        ),
        ("longest task, 20 KB of Markdown stream in", f"{found['stream_task_ms']:.0f} ms (0: none of 50)", "50"),
        ("first sound behind its first delta", f"{found['first_sound_ms']:.0f} ms", "150"),
        ("first page until it can be written in", f"{found['page_ms']:.0f} ms", "300"),
        ("silence behind the stop", f"{found['silent_ms']:.0f} ms", "100"),
    ]
    if "heap_500_mib" in found:
        rows.append(
            ("heap after 100 and 500 replies", f"{found['heap_100_mib']:.1f}, {found['heap_500_mib']:.1f} MiB", "flat")
        )
    if "lighthouse" in found:
        figure = f"{found['lighthouse_bare']:.0f}, {found['lighthouse']:.0f}"
        rows.append(("Lighthouse's performance without the tag and with it", figure, "2 points apart"))
    print(f"{machine()}; `python -m bench.widget`\n")
    print(table(rows))
    results.FOLDER.mkdir(parents=True, exist_ok=True)
    (results.FOLDER / "widget.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
