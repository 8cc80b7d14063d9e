"""The image stage: how long a picture takes on one core, alone and beside a stream of tokens, and many at once.

Run with ``make bench``, on an idle machine. How good the pictures are is measured by ``loquent train image``, whose
table is in the model card. Prints a Markdown table with the hardware.
"""

import asyncio
import os
import statistics
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from rich.progress import Progress

from bench.loads import percentile
from bench.machine import machine
from pipelines.build import build
from pipelines.chat.settings import ChatSettings
from pipelines.events import Message, Sampling, TextDelta, Turn
from pipelines.image.settings import ImageSettings
from pipelines.image.stage import ImageStage
from server.app import listen, serving
from server.backend import Backend
from server.config import Settings

TIMES = 200
AT_ONCE = 16
PROMPTS = ("a happy cat", "a green heart", "sorry for your loss", "a robot", "a very angry face", "happy birthday")
TOKENS = 400  # of a stream beside which pictures are drawn
STREAMS = 12  # of them, half beside pictures
TICK = 0.001  # seconds that the event loop is asked to sleep, again and again


@asynccontextmanager
async def started() -> AsyncIterator[Backend]:
    """A server with the bundled model and generator."""
    settings = Settings()
    pipeline = build(("chat", "image"), ChatSettings(), image=ImageSettings())
    async with serving(settings, pipeline, listen("127.0.0.1", 0)) as backend:
        await pipeline.start(lambda step: None)
        assert pipeline.image is not None
        stage = pipeline.image
        while not stage.ready:  # noqa: ASYNC110 - there is nothing else to wait for
            await asyncio.sleep(0.05)
        yield backend


async def draw(stage: ImageStage, prompt: str) -> None:
    """From a prompt to a PNG."""
    wish = await stage.understand(prompt)
    await stage.draw(wish.found)


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    """Seconds that it takes."""
    begun = time.perf_counter()
    await work()
    return time.perf_counter() - begun


async def gaps(backend: Backend, number: int) -> list[float]:
    """Seconds between the texts of one stream."""
    turn = Turn(
        f"bench{number}",
        (Message("user", f"Tell me a long story about the number {number}."),),
        Sampling(max_tokens=TOKENS, ignore_eos=True),
        image=False,
    )
    found, last = [], 0.0
    async with backend.flow(turn, "") as events:
        async for event in events:
            if isinstance(event, TextDelta):
                now = time.perf_counter()
                if last:
                    found.append((now - last) / max(event.tokens, 1))
                last = now
    return found


async def ticks(late: list[float]) -> None:
    """Seconds by which the event loop wakes late."""
    while True:
        begun = time.perf_counter()
        await asyncio.sleep(TICK)
        late.append(time.perf_counter() - begun - TICK)


async def beside(stage: ImageStage) -> None:
    """Draw one picture after the other, two a second."""
    number = 0
    while True:
        await draw(stage, PROMPTS[number % len(PROMPTS)])
        number += 1
        await asyncio.sleep(0.5)


def _pin(cores: set[int]) -> None:
    for thread in threading.enumerate():
        if thread.native_id:
            os.sched_setaffinity(thread.native_id, cores)


async def measure() -> list[tuple[str, str, str]]:
    """The rows: measure, figure, goal."""
    cores = os.sched_getaffinity(0)
    rows: list[tuple[str, str, str]] = []
    alone: list[float] = []
    accompanied: list[float] = []
    late: tuple[list[float], list[float]] = ([], [])  # by which the event loop wakes, without pictures and with
    with Progress(transient=True) as bar:
        task = bar.add_task("drawing", total=TIMES + STREAMS)
        async with started() as backend:
            stage = backend.pipeline.image
            assert stage is not None
            _pin({min(cores)})
            took = []
            for number in range(TIMES):
                took.append(await timed(lambda number=number: draw(stage, PROMPTS[number % len(PROMPTS)])))  # type: ignore[misc]
                bar.advance(task)
            rows.append(("prompt → PNG of 256 × 256, one core, median", f"{statistics.median(took) * 1e3:.1f} ms", ""))
            rows.append((f"the same, p95 of {TIMES}", f"{percentile(took, 0.95):.1f} ms", "≤ 40 ms"))
            _pin(cores)
            stage.painter.batches.clear()
            whole = await timed(lambda: asyncio.gather(*(draw(stage, "a happy cat") for _ in range(AT_ONCE))))
            passes = list(stage.painter.batches)
            rows.append((f"{AT_ONCE} prompts at once, the last", f"{whole * 1e3:.0f} ms, {len(passes)} passes", ""))
            for number in range(STREAMS):
                with_pictures = bool(number % 2)
                working = [asyncio.create_task(ticks(late[with_pictures]))]
                if with_pictures:
                    working.append(asyncio.create_task(beside(stage)))
                (accompanied if with_pictures else alone).extend(await gaps(backend, number))
                for each in working:
                    each.cancel()
                await asyncio.gather(*working, return_exceptions=True)
                bar.advance(task)
    calm, busy = percentile(alone, 0.99), percentile(accompanied, 0.99)
    rows.append(("between tokens of a stream, p99, alone", f"{calm:.1f} ms", ""))
    rows.append(("the same beside two pictures a second", f"{busy:.1f} ms, {busy / calm:.2f} ×", "≤ 1.2 ×"))
    lag, more = (percentile(each, 0.99) for each in late)
    rows.append(("the event loop wakes late beside a stream, p99", f"{lag:.2f} ms", ""))
    rows.append(("the same with pictures", f"{more:.2f} ms", "≤ 5 ms more"))
    return rows


def main() -> None:
    """Measure, and print the figures."""
    rows = asyncio.run(measure())
    print("\n## The image stage\n")
    print(f"{machine()}; `python -m bench.image`\n")
    print("| measure | figure | goal |")
    print("| --- | --- | --- |")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
