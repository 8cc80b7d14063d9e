"""What a turn is to write, where the choice of a function is helped by embeddings."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipelines.chat.calls.choice import Chooser
from pipelines.chat.writing import writing_of
from pipelines.embedding.embedder import Embedder
from pipelines.embedding.names import MINILM
from pipelines.events import Message, Tool, ToolCall, ToolUse, Turn

TOOLS = (
    Tool("get_weather", "Get the current weather of a city."),
    Tool("get_time", "Get the time of a city."),
    Tool("final_result", "The final response which ends this conversation."),
)
QUESTION = Message("user", "What is the weather in Paris?")


@pytest.fixture
async def chooser(minilm: Path) -> AsyncIterator[Chooser]:
    embedder = Embedder(MINILM, minilm)
    await embedder.start()
    yield Chooser(lambda: embedder)
    await embedder.close()


def called(name: str) -> tuple[Message, Message]:
    return Message("assistant", "", calls=(ToolCall("c", name, "{}"),)), Message("tool", "done", call_id="c")


async def callable_in(chooser: Chooser | None, *messages: Message, tools: tuple[Tool, ...] = TOOLS) -> list[str]:
    turn = Turn("t", messages, tools=ToolUse(tools, "required"))
    return [tool.name for tool in (await writing_of(turn, chooser, 2048)).callable]


async def test_a_loop_that_must_call_comes_to_every_function(chooser: Chooser) -> None:
    assert await callable_in(chooser, QUESTION) == ["get_weather"]
    talk = [QUESTION, *called("get_weather")]
    assert "get_weather" not in await callable_in(chooser, *talk)
    talk += called("get_time")
    assert await callable_in(chooser, *talk) == ["final_result"]


async def test_a_new_message_begins_anew(chooser: Chooser) -> None:
    assert await callable_in(chooser, QUESTION, *called("get_weather"), QUESTION) == ["get_weather"]


async def test_where_every_function_was_called_all_may_be_again(chooser: Chooser) -> None:
    every = [message for tool in TOOLS for message in called(tool.name)]
    assert await callable_in(chooser, QUESTION, *every) == ["get_weather"]
    assert await callable_in(chooser, QUESTION, *called("get_weather"), tools=TOOLS[:1]) == ["get_weather"]


async def test_a_model_that_chooses_itself_may_call_a_function_again() -> None:
    assert await callable_in(None, QUESTION, *called("get_weather")) == [tool.name for tool in TOOLS]
