"""What first answers are like under different defaults: how many repeat themselves, how many simple facts are right.

A reply of at most 400 tokens loops when it has one line of three words or more, or the same eight words in a row, three
times. Defaults are chosen by the first two columns; the held-out prompts choose nothing. Run with ``make bench``.
"""

import argparse
import asyncio
import re
import secrets
from collections import Counter
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

from rich.progress import Progress, TaskID

from bench import results
from bench.prompts import CHOOSING, FACTS, HELD_OUT
from bench.servers import MODEL, prepared
from pipelines.chat.defaults import of_model
from pipelines.chat.engine.admission import EngineLimits
from pipelines.chat.engine.engine import Engine
from pipelines.chat.model.interface import LanguageModel
from pipelines.chat.settings import ChatSettings
from pipelines.events import Finished, Message, Sampling, TextDelta

TOKENS = 400  # of a reply
TIMES = 3  # that something is said in a loop
WORDS = 8  # in a row
LINE = 3  # words of a line that counts; "}" and "---" come often in what is no loop
STREAMS = 32
PLAIN: dict[str, Any] = {"temperature": 0.0, "repetition_penalty": 1.0}
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "temperature 0.2, top-p 0.9": {"temperature": 0.2, "top_p": 0.9},
    "temperature 0.7, top-p 0.9": {"temperature": 0.7, "top_p": 0.9},
    "presence penalty 1": {"presence_penalty": 1.0},
    "frequency penalty 0.3": {"frequency_penalty": 0.3},
    "repetition penalty 1.1, of prompt and reply": {"repetition_penalty": 1.1},
    "repetition penalty 1.2, of prompt and reply": {"repetition_penalty": 1.2},
    **{
        f"repetition penalty {penalty}, of the reply": {"repetition_penalty": penalty, "repetition_prompt": False}
        for penalty in (1.05, 1.1, 1.12, 1.15, 1.2)
    },
}


@dataclass(frozen=True)
class Reply:
    """A model's answer."""

    text: str
    tokens: int
    ended: bool  # by itself, before the limit


def loops(text: str) -> bool:
    """Whether a text repeats itself."""
    lines = Counter(line.strip().lower() for line in text.splitlines() if len(line.split()) >= LINE)
    words = re.findall(r"\w+", text.lower())
    runs = Counter(tuple(words[at : at + WORDS]) for at in range(len(words) - WORDS + 1))
    return max([*lines.values(), *runs.values()], default=0) >= TIMES


def right(question: str, answer: str) -> bool:
    """Whether the answer has one of the words that it should have."""
    return any(re.search(rf"(?<!\w){re.escape(word)}(?!\w)", answer) for word in FACTS[question])


async def reply(engine: Engine, prompt: str, sampling: Sampling) -> Reply:
    """One prompt's answer, in a conversation of its own."""
    tokens = engine.model.tokenizer.render([Message("user", prompt)])
    engine.reserve()
    text = ""
    async with aclosing(engine.generate(secrets.token_hex(), tokens, sampling)) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                text += event.text
            elif isinstance(event, Finished):
                return Reply(text, event.usage.output_tokens, event.reason == "stop")
    raise RuntimeError("a reply has no end")


def row(name: str, replies: Sequence[Reply]) -> str:
    """A line of the table."""
    chosen, facts, held = len(CHOOSING), len(FACTS), len(HELD_OUT)
    texts = [each.text for each in replies]
    written = [*replies[:chosen], *replies[chosen + facts :]]
    return (
        f"| {name} | {sum(map(loops, texts[:chosen]))} "
        f"| {sum(map(right, FACTS, texts[chosen : chosen + facts]))} | {sum(map(loops, texts[chosen + facts :]))} "
        f"| {sum(each.tokens for each in written) / len(written):.0f} "
        f"| {sum(each.ended for each in written)} of {chosen + held} |"
    )


async def measure(engine: Engine, settings: dict[str, Sampling]) -> list[str]:
    """Print a line for each of the settings, and return them."""
    lines: list[str] = []
    prompts = [*CHOOSING, *FACTS, *HELD_OUT]
    await engine.start()
    with Progress(transient=True) as progress:
        for name, sampling in settings.items():
            task = progress.add_task(name, total=len(prompts))

            async def one(prompt: str, sampling: Sampling = sampling, task: TaskID = task) -> Reply:
                answer = await reply(engine, prompt, sampling)
                progress.advance(task)
                return answer

            replies = await asyncio.gather(*map(one, prompts))
            progress.remove_task(task)
            lines.append(row(name, replies))
            progress.console.print(lines[-1], markup=False, soft_wrap=True)
    await engine.close()
    return lines


def main() -> None:
    """Measure every setting."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only-default", action="store_true", help="measure the model's defaults and nothing else")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--threads", type=int, default=0, help="one is faster where the cores have other work")
    asked = parser.parse_args()
    folder = prepared()

    def load_model() -> LanguageModel:
        from pipelines.chat.model.load import load

        return load(folder, ChatSettings(dtype=asked.dtype, threads=asked.threads))

    settings = {} if asked.only_default else {name: Sampling(**PLAIN | changes) for name, changes in SETTINGS.items()}
    settings["the default"] = of_model(MODEL, folder)
    settings = {name: replace(each, max_tokens=TOKENS, seed=0) for name, each in settings.items()}
    columns = ["settings", f"loops of {len(CHOOSING)}", f"facts of {len(FACTS)}", f"loops of {len(HELD_OUT)} held out"]
    table = results.table([*columns, "tokens of a reply", "replies that end"], [])
    text = f"## First answers of {MODEL}\n\n{results.head('answers')}\n\n{table}"
    print(f"\n{text}", end="", flush=True)
    lines = asyncio.run(measure(Engine(load_model, EngineLimits(STREAMS, 128, 1 << 20)), settings))
    results.write("answers", text + "\n".join(lines) + "\n", {})


if __name__ == "__main__":
    main()
