"""A small model is helped to choose a function, by embeddings of the real model."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipelines.chat.calls import choice
from pipelines.chat.calls.choice import Chooser
from pipelines.embedding.embedder import Embedder
from pipelines.embedding.names import MINILM
from pipelines.events import Message, Tool, ToolCall

TOOLS = (
    Tool("get_weather", "Get the current weather or the weather forecast"),
    Tool("start_timer", "Start a new timer or countdown"),
    Tool("add_to_shopping_list", "Add an item to the shopping list"),
)


@pytest.fixture
async def chooser(minilm: Path) -> AsyncIterator[Chooser]:
    embedder = Embedder(MINILM, minilm)
    await embedder.start()
    yield Chooser(lambda: embedder)
    await embedder.close()


async def chosen(chooser: Chooser, *messages: Message, must: bool = False) -> list[str]:
    return [tool.name for tool in await chooser.choose(messages, TOOLS, must=must)]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Will it rain in Paris tomorrow?", "get_weather"),
        ("Set a countdown of ten minutes", "start_timer"),
        ("Put milk on my shopping list", "add_to_shopping_list"),
        ("I am baking a cake with my daughter today. She loves it. Please start a timer for the oven.", "start_timer"),
    ],
)
async def test_a_request_finds_its_function(chooser: Chooser, text: str, name: str) -> None:
    assert (await chosen(chooser, Message("user", text)))[0] == name


@pytest.mark.parametrize(
    "text", ["Who wrote Hamlet?", "Thanks, that was kind of you!", "", "  \n", "Explain recursion."]
)
async def test_other_messages_find_none(chooser: Chooser, text: str) -> None:
    assert await chosen(chooser, Message("user", text)) == []


async def test_the_nearest_is_found_where_one_must_be_called(chooser: Chooser) -> None:
    assert await chosen(chooser, Message("user", "Who wrote Hamlet?"), must=True)
    assert await chosen(chooser, Message("user", ""), must=True) == [tool.name for tool in TOOLS]


async def test_nothing_is_called_behind_a_result(chooser: Chooser) -> None:
    call = Message("assistant", "", calls=(ToolCall("c", "get_weather", "{}"),))
    talk = (Message("user", "How is the weather?"), call, Message("tool", "sunny", call_id="c"))
    assert await chosen(chooser, *talk) == []
    assert (await chosen(chooser, *talk, must=True))[0] == "get_weather"


async def test_functions_are_embedded_once_and_few_are_remembered(
    chooser: Chooser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "CACHED", 4)
    for number in range(4):
        await chooser.choose([Message("user", "Hi")], [*TOOLS, Tool(f"f{number}", "Does something")], must=False)
    assert len(chooser._known) == 4
    assert any(text.startswith("get weather") for text in chooser._known)
