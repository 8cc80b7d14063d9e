"""What a small model says behind a function's result is words: the bundled model, helped to choose."""

import asyncio
import re
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.chat.calls.choice import Chooser
from pipelines.chat.engine.admission import EngineLimits
from pipelines.chat.engine.engine import Engine
from pipelines.chat.model.files import prepare
from pipelines.chat.model.load import load
from pipelines.chat.settings import ChatSettings
from pipelines.chat.stage import ChatStage
from pipelines.chat.writing import WORDS
from pipelines.downloads.progress import finish
from pipelines.embedding.embedder import Embedder
from pipelines.embedding.names import MINILM
from pipelines.events import Message, Sampling, TextDelta, Tool, ToolCall, ToolUse, Turn
from tests.support import START_SECONDS

pytestmark = pytest.mark.timeout(START_SECONDS)

TOOLS = ToolUse((Tool("turn_on", "Turns on a device"), Tool("transfer_to_spanish", "Hand off to the Spanish agent")))
RESULTS = ('{"assistant": "Spanish"}', '{"response_type": "action_done"}', "sunny, 21 degrees", "[1, 2]", "", "ok")


@pytest.fixture
async def stage(minilm: Path) -> AsyncIterator[ChatStage]:
    settings = ChatSettings(streams=8, kept=8)
    path = finish(prepare(settings.model, threading.Event()))
    embedder = Embedder(MINILM, minilm)
    await embedder.start()
    engine = Engine(lambda: load(path, settings), EngineLimits(8, 500))
    await engine.start()
    stage = ChatStage(engine, settings, chooser=Chooser(lambda: embedder))
    yield stage
    await stage.close()
    await embedder.close()


async def nothing(turn: Turn) -> Any:
    raise AssertionError("the innermost stage calls no other")
    yield


async def test_it_leaks_neither_markup_nor_json(stage: ChatStage) -> None:
    async def answer(number: int) -> str:
        call = Message("assistant", "", calls=(ToolCall("c", TOOLS.tools[number % 2].name, "{}"),))
        result = Message("tool", RESULTS[number % len(RESULTS)], call_id="c")
        talk = (Message("system", "Answer in one short sentence."), Message("user", "Hola"), call, result)
        sampling = Sampling(temperature=1.0, seed=number, max_tokens=40)
        turn = Turn(f"leak-{number}", talk, sampling, tools=TOOLS if number % 3 else None)
        return "".join([event.text async for event in stage(turn, nothing) if isinstance(event, TextDelta)])

    texts = await asyncio.gather(*(answer(number) for number in range(24)))
    assert all(text.strip() for text in texts)
    leaks = [text for text in texts if text.lstrip()[0] in "{[<" or "<tool" in text or "</tool" in text]
    assert not leaks


@pytest.mark.parametrize(
    "text", ["It is sunny.", "¡Hola!", "1 < 2, and 3 << 4", "Use <b>bold</b>.", "Yes: {}", "```html\n<p>x</p>\n```"]
)
def test_words_may_hold_anything_else(text: str) -> None:
    assert re.fullmatch(WORDS.source, text)


@pytest.mark.parametrize("text", ["<tool_response>\nsunny", '{"name": 1}', "[1]", "Yes.\n</tool_response>", " \n{}"])
def test_words_hold_no_call_and_no_result(text: str) -> None:
    assert not re.fullmatch(WORDS.source, text)
