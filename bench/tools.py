"""Constrained replies and function calls: are they valid, is the right function called, and what do masks cost.

Random schemas at temperature 1; requests of Home Assistant's sentences; the time of a step with and without a
constraint that allows all text, so that both say as many tokens. Run with ``make bench``.
"""

import argparse
import asyncio
import json
import statistics
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from rich.progress import track

from bench import results
from bench.requests import TOOLS, asking, asking_for_none
from bench.results import Figures
from pipelines.chat.calls.choice import Chooser
from pipelines.chat.engine.admission import EngineLimits
from pipelines.chat.engine.engine import Engine
from pipelines.chat.model.files import prepare
from pipelines.chat.model.interface import Grammar
from pipelines.chat.model.load import load
from pipelines.chat.settings import ChatSettings
from pipelines.chat.stage import ChatStage
from pipelines.downloads.progress import finish
from pipelines.embedding.embedder import Embedder
from pipelines.events import CallDone, Event, Finished, Format, Message, Sampling, TextDelta, ToolUse, Turn
from tests.schemas import random_schema
from tests.support import valid

MODELS = ("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct")
STREAMS = 16
COST_TOKENS = 80  # of a reply
COST_RUNS = 5
ANYTHING = Format("regex", r"(.|\n)*")
JSON_STRING = Format("regex", r'"[^"\\\x00-\x1f]*')  # without its end


@asynccontextmanager
async def serving(name: str, embedder: Embedder) -> AsyncIterator[ChatStage]:
    """The chat stage on this model."""
    settings = ChatSettings(model=name, streams=STREAMS, kept=STREAMS)
    path: Path = finish(prepare(name, threading.Event()))
    engine = Engine(lambda: load(path, settings), EngineLimits(STREAMS, 5000))
    await engine.start()
    stage = ChatStage(engine, settings, chooser=Chooser(lambda: embedder))
    try:
        yield stage
    finally:
        await stage.close()


async def said(stage: ChatStage, turn: Turn) -> list[Event]:
    """The reply's events."""

    async def nothing(turn: Turn) -> AsyncGenerator[Event]:
        raise AssertionError("the innermost stage calls no other")
        yield

    return [event async for event in stage(turn, nothing)]


def text_of(events: list[Event]) -> str:
    """The reply's text."""
    return "".join(event.text for event in events if isinstance(event, TextDelta))


async def validity(stage: ChatStage, count: int) -> int:
    """How many of the schemas' replies are valid, at temperature 1."""

    async def one(seed: int) -> bool:
        of = random_schema(seed)
        asked = (Message("user", "Give me an example as JSON."),)
        sampling = Sampling(temperature=1.0, seed=seed)
        events = await said(
            stage, Turn(f"schema-{seed}", asked, sampling, format=Format("json_schema", json.dumps(of), strict=True))
        )
        try:
            return valid(of, json.loads(text_of(events)))
        except ValueError:
            return False

    return sum(await asyncio.gather(*(one(seed) for seed in range(count))))


def first_masks(stage: ChatStage, count: int) -> list[float]:
    """Milliseconds from a schema to its first mask, each compiled for the first time."""
    took: list[float] = []
    for seed in range(10_000, 10_000 + count):
        source = json.dumps(random_schema(seed))
        begun = time.perf_counter()
        constraint = stage.engine.model.tokenizer.constrain(Grammar("json_schema", source))
        assert constraint is not None
        constraint.masks([], 1)
        took.append(1000 * (time.perf_counter() - begun))
    return took


async def step_seconds(stage: ChatStage, format: Format | None, run: int) -> float:
    """Seconds a step, of ``STREAMS`` streams that sample at temperature 1."""
    before, begun = stage.engine.steps, time.perf_counter()
    replies = await asyncio.gather(
        *(
            said(
                stage,
                Turn(
                    f"cost-{run}-{number}",
                    (Message("user", f"Tell me story {number}."),),
                    Sampling(
                        temperature=1.0, seed=number, max_tokens=COST_TOKENS, repetition_penalty=1.0, ignore_eos=True
                    ),
                    format=format,
                ),
            )
            for number in range(STREAMS)
        )
    )
    tokens = sum(event.usage.output_tokens for events in replies for event in events if isinstance(event, Finished))
    assert tokens > 0.9 * STREAMS * COST_TOKENS, f"{tokens} tokens only"
    return (time.perf_counter() - begun) / (stage.engine.steps - before)


async def cost(stage: ChatStage) -> Figures:
    """The time of a step under constraints, to that without, in one run, turn by turn."""
    took: dict[str, list[float]] = {"free": [], "any": [], "string": []}
    for run in range(COST_RUNS):
        for name, format in (("free", None), ("any", ANYTHING), ("string", JSON_STRING)):
            took[name].append(await step_seconds(stage, format, run * 3 + len(took[name])))
    medians = {name: statistics.median(each) for name, each in took.items()}
    return {
        "step": 1000 * medians["free"],
        "any": medians["any"] / medians["free"],
        "string": medians["string"] / medians["free"],
    }


async def choices(stage: ChatStage, each: int, none: int) -> Figures:
    """How many requests called the right function with valid arguments, and how many others called one."""
    schemas = {tool.name: tool.parameters for tool in TOOLS}
    right = fitting = calls = needless = 0
    for number, (text, name) in enumerate(track(asking(each), "requests")):
        events = await said(stage, Turn(f"ask-{number}", (Message("user", text),), tools=ToolUse(TOOLS)))
        made = [event.call for event in events if isinstance(event, CallDone)]
        calls += len(made)
        fitting += sum(valid(schemas[call.name], json.loads(call.arguments)) for call in made)
        right += bool(made) and made[0].name == name
    for number, text in enumerate(asking_for_none(none)):
        turn = Turn(f"none-{number}", (Message("user", text),), Sampling(max_tokens=16), tools=ToolUse(TOOLS))
        needless += any(isinstance(event, CallDone) for event in await said(stage, turn))
    asked = each * len(TOOLS)
    return {"right": right / asked, "asked": asked, "valid": fitting / max(calls, 1), "needless": needless / none}


async def measure(count: int, each: int, none: int) -> None:
    """Measure every model, and print."""
    embedder = Embedder()
    finish(embedder.prepare(threading.Event()))
    await embedder.start()
    rows: list[list[str]] = []
    figures: Figures = {}
    for name in MODELS:
        async with serving(name, embedder) as stage:
            costs = await cost(stage)
            masks = sorted(first_masks(stage, 300))
            p95 = masks[int(0.95 * len(masks))]
            whole = await validity(stage, count)
            chosen = await choices(stage, each, none)
        figures |= {f"{name}/{key}": value for key, value in (costs | chosen).items()}
        figures |= {f"{name}/first": p95, f"{name}/whole": whole / count}
        rows.append(
            [
                name,
                f"{whole} of {count}",
                f"{p95:.1f} ms",
                f"{costs['any']:.2f} / {costs['string']:.2f} ×",
                f"{chosen['right']:.0%} of {chosen['asked']:.0f}",
                f"{chosen['valid']:.0%}",
                f"{chosen['needless']:.0%} of {none}",
            ]
        )
    await embedder.close()
    columns = [
        "model",
        "valid JSON of random schemas",
        "schema to first mask, p95",
        f"a step of {STREAMS} streams under any text / a JSON string, to free",
        "right function",
        "arguments valid",
        "called without need",
    ]
    title = "## Constrained replies and calls"
    results.show("tools", f"{title}\n\n{results.head('tools')}\n\n{results.table(columns, rows)}", figures)


def main() -> None:
    """Read the options, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schemas", type=int, default=1000, help="random schemas a model")
    parser.add_argument("--each", type=int, default=5, help="requests a function")
    parser.add_argument("--none", type=int, default=20, help="messages that ask for no function")
    options = parser.parse_args()
    asyncio.run(measure(options.schemas, options.each, options.none))


if __name__ == "__main__":
    main()
