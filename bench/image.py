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
from dataclasses import dataclass, field

from rich.progress import Progress

from bench import results
from bench.goals import stated
from bench.loads import percentile
from bench.results import Figures
from pipelines.build import build
from pipelines.chat.settings import ChatSettings
from pipelines.events import Message, Sampling, TextDelta, Turn
from pipelines.image.painter import Painter
from pipelines.image.settings import ImageSettings
from pipelines.image.stage import ImageStage
from server.app import listen, serving
from server.backend import Backend
from server.config import Settings

TIMES = 200
AT_ONCE = 16
PROMPTS = ("a happy cat", "a green heart", "sorry for your loss", "a robot", "a very angry face", "happy birthday")
TOKENS = 250  # of a stream beside which pictures are drawn
STREAMS = 8  # of each kind

Row = tuple[str, str, str]
TICK = 0.001  # seconds that the event loop is asked to sleep, again and again


@asynccontextmanager
async def started() -> AsyncIterator[Backend]:
    """A server with the bundled model and generator."""
    settings = Settings()
    pipeline = build({"image": ImageSettings(), "chat": ChatSettings()})
    async with serving(settings, pipeline, listen("127.0.0.1", 0)) as backend:
        await pipeline.start(lambda step: None)
        stage = pipeline.find(ImageStage)
        assert stage is not None
        while not stage.ready:  # noqa: ASYNC110 - there is nothing else to wait for
            await asyncio.sleep(0.05)
        yield backend


async def draw(stage: ImageStage, prompt: str) -> None:
    """From a prompt to a PNG."""
    wish = await stage.understand(prompt)
    await stage.draw(wish.found)


async def timed(work: Awaitable[object]) -> float:
    """Seconds that it takes."""
    begun = time.perf_counter()
    await work
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


async def beside(work: Callable[[str], Awaitable[object]], taken: list[float]) -> None:
    """Do this for one prompt after the other, two a second."""
    number = 0
    while True:
        taken.append(await timed(work(PROMPTS[number % len(PROMPTS)])))
        number += 1
        await asyncio.sleep(0.5)


def _pin(cores: set[int]) -> None:
    for thread in threading.enumerate():
        if thread.native_id:
            os.sched_setaffinity(thread.native_id, cores)


@dataclass
class Beside:
    """What happens beside a stream, and what the stream and the event loop notice of it."""

    name: str
    work: Callable[[str], Awaitable[object]] | None
    gaps: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    taken: list[float] = field(default_factory=list)

    async def stream(self, backend: Backend, number: int) -> None:
        """One stream beside it."""
        working = [asyncio.create_task(ticks(self.late))]
        if self.work is not None:
            working.append(asyncio.create_task(beside(self.work, self.taken)))
        self.gaps += await gaps(backend, number)
        for each in working:
            each.cancel()
        await asyncio.gather(*working, return_exceptions=True)


async def alone(stage: ImageStage, advance: Callable[[], None], figures: Figures) -> list[Row]:
    """How long pictures take while nothing else happens."""
    cores = os.sched_getaffinity(0)
    _pin({min(cores)})
    took = []
    for number in range(TIMES):
        took.append(await timed(draw(stage, PROMPTS[number % len(PROMPTS)])))
        advance()
    _pin(cores)
    painter = stage.painter
    assert isinstance(painter, Painter)
    painter.batches.clear()
    figures["drawn"] = percentile(took, 0.95)
    whole = await timed(asyncio.gather(*(draw(stage, "a happy cat") for _ in range(AT_ONCE))))
    return [
        ("prompt → PNG of 256 × 256, one core, median", f"{statistics.median(took) * 1e3:.1f} ms", ""),
        (f"the same, p95 of {TIMES}", f"{figures['drawn']:.1f} ms", stated("image/drawn")),
        (f"{AT_ONCE} prompts at once, the last", f"{whole * 1e3:.0f} ms, {len(painter.batches)} passes", ""),
    ]


async def measure() -> tuple[list[Row], Figures]:
    """The rows, measure, figure and goal; and the figures that have a goal."""
    figures: Figures = {}
    with Progress(transient=True) as bar:
        task = bar.add_task("drawing", total=TIMES + 3 * STREAMS)
        async with started() as backend:
            stage = backend.pipeline.find(ImageStage)
            assert stage is not None
            rows = await alone(stage, lambda: bar.advance(task), figures)
            found = (await stage.understand(PROMPTS[0])).found
            kinds = (
                Beside("alone", None),
                Beside("beside two pictures a second", lambda prompt: stage.draw(found)),
                Beside("beside two a second whose prompts are read too", lambda prompt: draw(stage, prompt)),
            )
            await gaps(backend, STREAMS)
            for number in range(STREAMS):
                for kind in kinds:
                    await kind.stream(backend, number)
                    bar.advance(task)
    calm = percentile(kinds[0].gaps, 0.99)
    figures["beside"] = percentile(kinds[1].gaps, 0.99) / calm
    figures["late"] = percentile(kinds[2].late, 0.99) - percentile(kinds[0].late, 0.99)
    for kind in kinds:
        busy = percentile(kind.gaps, 0.99)
        figure, goal = f"{busy:.1f} ms", ""
        if kind.work is not None:
            figure, goal = f"{figure}, {busy / calm:.2f} ×", stated("image/beside") if kind is kinds[1] else ""
        rows.append((f"between tokens of a stream, p99, {kind.name}", figure, goal))
    rows.append(("such a picture then, median", f"{statistics.median(kinds[1].taken) * 1e3:.0f} ms", ""))
    for kind in (kinds[0], kinds[2]):
        goal = f"{stated('image/late')} more" if kind.work else ""
        rows.append(
            (f"the event loop wakes late then, p99, {kind.name}", f"{percentile(kind.late, 0.99):.2f} ms", goal)
        )
    return rows, figures


def main() -> None:
    """Measure, and print the figures."""
    rows, figures = asyncio.run(measure())
    table = results.table(["measure", "figure", "goal"], rows)
    results.show("image", f"## The image stage\n\n{results.head('image')}\n\n{table}", figures)


if __name__ == "__main__":
    main()
