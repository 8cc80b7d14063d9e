"""Encoder-decoders: tokens a second of 16 streams through the engine, beside Hugging Face's ``generate``.

The model has T5-small's shape (60 million weights) and random weights: only the speed is measured. ``generate`` has
the same requests in static batches of 16, and one after the other. ``--quick`` measures once. Prints a Markdown table
with the hardware.
"""

import argparse
import asyncio
import random
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
    set_seed,
)

from bench import results
from bench.goals import stated
from bench.results import Figures, Runs
from pipelines.chat.engine.admission import EngineLimits
from pipelines.chat.engine.engine import Engine
from pipelines.chat.model.load import load
from pipelines.chat.settings import ChatSettings
from pipelines.cores import cores
from pipelines.events import Finished, Sampling

STREAMS = 16
REPEATS = 3
SHIPPED, EXACT = "Loquent, as shipped", "Loquent, exact weights"
BATCHED, SERIAL = "generate, batches of 16", "generate, one by one"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


@dataclass(frozen=True)
class Request:
    """One input's token ids, its end token included, and how many tokens are to be said."""

    input: list[int]
    tokens: int


LOADS = ("even", "mixed")


def requests(load: str) -> list[Request]:
    """``even``: as many as streams, all of a size. ``mixed``: three times as many, short and long."""
    chance = random.Random(load)
    even = load == "even"

    def one() -> Request:
        length = 64 if even else chance.randint(16, 128)
        return Request([*(chance.randrange(3, 250) for _ in range(length)), 1], 64 if even else chance.randint(16, 128))

    return [one() for _ in range(STREAMS if even else 3 * STREAMS)]


def saved(folder: Path) -> Path:
    """A model of T5-small's shape with a tokenizer of bytes."""
    set_seed(0)
    special: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
    model = T5ForConditionalGeneration(T5Config(vocab_size=32_128, dropout_rate=0.0, **special))
    model.generation_config = GenerationConfig(**special)
    model.save_pretrained(folder)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: id for id, token in enumerate(["<pad>", "</s>", *alphabet])}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "<pad>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


async def engine_on(folder: Path, weights: str) -> Engine:
    """The engine, started, as a server has it."""
    settings = ChatSettings.model_validate({"model": str(folder), "weights": weights, "streams": STREAMS})
    engine = Engine(lambda: load(folder, settings), EngineLimits(STREAMS, 256))
    await engine.start()
    return engine


async def by_engine(engine: Engine, asked: Sequence[Request]) -> int:
    """All requests at once, of which the engine runs 16 at a time; returns the tokens said."""

    async def one(number: int, request: Request) -> int:
        engine.reserve()
        sampling = Sampling(temperature=0, max_tokens=request.tokens, ignore_eos=True)
        said = 0
        async for event in engine.generate(str(number), [*request.input, 0], sampling):
            if isinstance(event, Finished):
                said = event.usage.output_tokens
        return said

    return sum(await asyncio.gather(*(one(number, request) for number, request in enumerate(asked))))


async def by_generate(model: Any, at_once: int, asked: Sequence[Request]) -> int:
    """The requests in static batches, each as long as its longest reply; returns the tokens that were asked for."""
    for begin in range(0, len(asked), at_once):
        batch = asked[begin : begin + at_once]
        longest, most = (max(sizes) for sizes in zip(*((len(r.input), r.tokens) for r in batch), strict=True))
        ids = torch.tensor([r.input + [0] * (longest - len(r.input)) for r in batch])
        mask = torch.tensor([[1] * len(r.input) + [0] * (longest - len(r.input)) for r in batch])
        model.generate(input_ids=ids, attention_mask=mask, do_sample=False, min_new_tokens=most, max_new_tokens=most)
    return sum(request.tokens for request in asked)


Work = Callable[[Sequence[Request]], Awaitable[int]]


async def pace(work: Work, asked: Sequence[Request]) -> Figures:
    """Tokens a second."""
    begun = time.perf_counter()
    tokens = await work(asked)
    return {"tokens": tokens / (time.perf_counter() - begun)}


async def ways(folder: Path) -> AsyncIterator[tuple[str, Work]]:
    """Everything that is measured, one loaded at a time."""
    for name, weights in ((SHIPPED, "auto"), (EXACT, "exact")):
        engine = await engine_on(folder, weights)
        yield name, partial(by_engine, engine)
        await engine.close()
    torch.set_num_threads(cores())
    for dtype, kind in DTYPES.items():
        model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=kind).eval()
        for name, at_once in ((BATCHED, STREAMS), (SERIAL, 1)):
            yield f"{name}, {dtype}", partial(by_generate, model, at_once)


async def measure(folder: Path, repeats: int) -> Runs:
    """Each way with each load, ``repeats`` times behind one that warms up."""
    runs: Runs = {}
    loads = {load: requests(load) for load in LOADS}
    with Progress(transient=True) as bar:
        task = bar.add_task("measuring", total=2 + 2 * len(DTYPES))
        async for name, work in ways(folder):
            await work(loads["even"])
            for kind, asked in loads.items():
                if not (name.startswith(SERIAL) and kind == "mixed"):  # which takes minutes, and says nothing new
                    runs[kind, name] = [await pace(work, asked) for _ in range(repeats)]
            bar.advance(task)
    return runs


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="measure once")
    repeats = 1 if parser.parse_args().quick else REPEATS
    with tempfile.TemporaryDirectory() as folder:
        runs = asyncio.run(measure(saved(Path(folder)), repeats))
    figures = results.medians(runs)
    rows = []
    for kind in LOADS:
        best = max(figures[f"{kind}/{BATCHED}, {dtype}/tokens"] for dtype in DTYPES)
        if kind == "even":
            figures["ratio"] = figures[f"{kind}/{SHIPPED}/tokens"] / best
        for load_of, name in runs:
            if load_of == kind:
                speed = figures[f"{kind}/{name}/tokens"]
                goal = stated("seq2seq/ratio") if (kind, name) == ("even", SHIPPED) else ""
                rows.append((kind, name, f"{speed:.0f}", f"{speed / best:.2f} ×", goal))
    table = results.table(["requests", "by", "tokens/s", "to generate in batches", "goal"], rows)
    detail = f"medians of {repeats}"
    results.show("seq2seq", f"## Encoder-decoders\n\n{results.head('seq2seq', detail)}\n\n{table}", figures)


if __name__ == "__main__":
    main()
