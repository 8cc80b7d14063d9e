"""What is stored of responses: by itself under an injected clock, and through the real server with the stock client."""

import itertools
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.conversations import ConversationItemList
from openai.types.responses import ResponseItemList
from pydantic import TypeAdapter

from pipelines.events import Message, ToolCall
from server.auth import new_key
from server.config import ResponsesSettings, ServerSettings, Settings, hash_key
from server.response_store import OVERHEAD, Json, MemoryStore, Record
from tests.server.scripts import WEATHER, Scripted, calls, response, sdk, text
from tests.support import running


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def record(id: str, *items: str, parent: str = "", size: int = 0) -> Record:
    kept = tuple({"id": item, "text": item} for item in items)
    return Record(id, {"id": id, "output": [], "padding": "x" * size}, kept, parent)


async def found(store: MemoryStore, tenant: str, *ids: str) -> list[str]:
    return [id for id in ids if await store.get(tenant, id)]


# The store


async def test_what_is_stored_is_found_by_its_tenant_alone() -> None:
    store = MemoryStore(100_000, 10)
    await store.put("a", record("r1", "i1"))
    assert await store.get("a", "r1") == record("r1", "i1")
    assert await store.find_item("a", "i1") == {"id": "i1", "text": "i1"}
    assert await store.get("b", "r1") is None
    assert await store.find_item("b", "i1") is None
    assert not await store.delete("b", "r1")
    assert await store.delete("a", "r1")
    assert (await store.get("a", "r1"), await store.find_item("a", "i1"), len(store), store.held) == (None, None, 0, 0)


async def test_what_is_not_used_expires() -> None:
    clock = Clock()
    store = MemoryStore(100_000, 10, clock=clock)
    for id in ("r1", "r2"):
        await store.put("a", record(id))
    clock.now = 9
    assert await store.get("a", "r1")
    clock.now = 11
    assert await found(store, "a", "r1", "r2") == ["r1"]
    clock.now = 30
    assert (await store.find_item("a", "i1"), len(store)) == (None, 0)


async def test_a_full_store_evicts_the_oldest_of_the_tenant_that_holds_most() -> None:
    store = MemoryStore(5 * 2000, 10)
    for id in ("r1", "r2", "r3"):
        await store.put("a", record(id, size=500))
    await store.put("b", record("r1", size=500))
    assert await store.get("a", "r1")
    await store.put("b", record("r2", size=3500))
    assert await found(store, "a", "r1", "r2", "r3") == ["r1", "r3"]
    assert await found(store, "b", "r1", "r2") == ["r1", "r2"]
    assert store.held <= 5 * 2000


async def test_no_order_of_writing_exceeds_the_bounds() -> None:
    store = MemoryStore(20_000, 10)
    for number, size in zip(range(200), itertools.cycle((10, 3000, 700)), strict=False):
        await store.put(str(number % 3), record(f"r{number % 50}", f"i{number}", size=size))
        assert store.held <= 20_000
        assert len(store) <= 20_000 // OVERHEAD
    await store.put("a", record("big", size=30_000))
    assert await store.get("a", "big") is None
    assert len(store) > 0


async def test_an_item_in_two_records_is_found_until_both_are_gone() -> None:
    store = MemoryStore(100_000, 10)
    await store.put("a", record("r1", "i1"))
    await store.put("a", record("r2", "i1"))
    await store.delete("a", "r1")
    assert await store.find_item("a", "i1")
    await store.delete("a", "r2")
    assert await store.find_item("a", "i1") is None


# Over HTTP


async def test_a_conversation_goes_on_from_a_response_without_its_instructions() -> None:
    model = Scripted(text("Yes."))
    async with running(model.pipeline) as server, sdk(server) as client:
        first = await client.responses.create(model="x", input="One", instructions="Be kind.")
        second = await client.responses.create(model="x", input="Two", previous_response_id=first.id)
        await client.responses.create(
            model="x", input="Three", previous_response_id=second.id, instructions="Be brief."
        )
    assert list(model.turns[0].messages) == [Message("system", "Be kind."), Message("user", "One")]
    assert list(model.turns[2].messages) == [
        Message("system", "Be brief."),
        Message("user", "One"),
        Message("assistant", "Yes."),
        Message("user", "Two"),
        Message("assistant", "Yes."),
        Message("user", "Three"),
    ]
    assert second.previous_response_id == first.id
    ids = [message.id for message in model.turns[2].messages]
    assert len({*ids}) == len(ids)


async def test_a_call_goes_on_with_its_result_alone() -> None:
    model = Scripted(calls(WEATHER, said="Let me see."))
    async with running(model.pipeline) as server, sdk(server) as client:
        first = await client.responses.create(model="x", input="Weather?")
        result: Any = [{"type": "function_call_output", "call_id": "call_1", "output": "sunny"}]
        await client.responses.create(model="x", input=result, previous_response_id=first.id)
    assert list(model.turns[1].messages) == [
        Message("user", "Weather?"),
        Message("assistant", "Let me see.", calls=(ToolCall("call_1", "weather", '{"city": "Paris"}'),)),
        Message("tool", "sunny", call_id="call_1"),
    ]


async def test_a_stored_response_is_retrieved_listed_and_deleted() -> None:
    async with running(Scripted(text("Yes.")).pipeline) as server, sdk(server) as client:
        made = await client.responses.create(model="x", input="One")
        after = await client.responses.create(model="x", input="Two", previous_response_id=made.id)
        assert await client.responses.retrieve(made.id) == made
        items = [item async for item in client.responses.input_items.list(after.id, limit=1, order="asc")]
        assert [getattr(item, "role", "") for item in items] == ["user", "assistant", "user"]
        url = f"{server.url}/v1/responses/{after.id}"
        async with server.http.get(f"{url}/input_items?limit=2") as answer:
            page = await answer.json()
        TypeAdapter(ResponseItemList).validate_python(page, strict=True)
        assert [item["content"][0]["text"] for item in page["data"]] == ["Two", "Yes."]
        assert page["has_more"]
        await client.responses.delete(made.id)
        for gone in (client.responses.retrieve(made.id), client.responses.input_items.list(after.id)):
            with pytest.raises(openai.NotFoundError):
                await gone
        with pytest.raises(openai.NotFoundError) as error:
            await client.responses.create(model="x", input="Three", previous_response_id=after.id)
        assert error.value.param == "previous_response_id"


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "limit=٣", "order=up", "after=nothing"])
async def test_a_wrong_page_is_an_error_that_names_its_parameter(query: str) -> None:
    async with running(Scripted(text("Yes.")).pipeline) as server, sdk(server) as client:
        made = await client.responses.create(model="x", input="One")
        async with server.http.get(f"{server.url}/v1/responses/{made.id}/input_items?{query}") as answer:
            assert answer.status in (400, 404)
            assert (await answer.json())["error"]["param"] == query.split("=")[0]


async def test_what_is_not_to_be_stored_is_not() -> None:
    async with running(Scripted(text("Yes.")).pipeline) as server, sdk(server) as client:
        made = await client.responses.create(model="x", input="One", store=False)
        with pytest.raises(openai.NotFoundError):
            await client.responses.retrieve(made.id)


async def test_a_response_is_stored_before_its_stream_ends() -> None:
    async with running(Scripted(text("Yes.")).pipeline) as server, sdk(server) as client:
        async for event in await client.responses.create(model="x", input="One", stream=True):
            if event.type == "response.completed":
                assert (await client.responses.retrieve(event.response.id)).output_text == "Yes."


@pytest.mark.parametrize(
    ("asked", "param", "code"),
    [
        ({"previous_response_id": "resp_0"}, "previous_response_id", "previous_response_not_found"),
        ({"previous_response_id": ""}, "previous_response_id", "previous_response_not_found"),
        ({"conversation": "conv_0"}, "conversation", "conversation_not_found"),
        ({"conversation": {"id": "mine"}}, "conversation", "conversation_not_found"),
        ({"input": ["Hi", {"type": "item_reference", "id": "msg_0"}]}, "input.1", "item_not_found"),
    ],
)
async def test_an_unknown_id_is_a_404_that_names_it(asked: Json, param: str, code: str) -> None:
    body: Json = {"input": "Hi"} | asked
    if isinstance(body["input"], list):
        body["input"][0] = {"role": "user", "content": "Hi"}
    async with (
        running(Scripted(text("Yes.")).pipeline) as server,
        server.http.post(f"{server.url}/v1/responses", json=body) as answer,
    ):
        error = (await answer.json())["error"]
        assert (answer.status, error["param"], error["code"]) == (404, param, code)


async def test_an_item_is_referred_to_by_its_id() -> None:
    model = Scripted(text("Yes."))
    async with running(model.pipeline) as server, sdk(server) as client:
        made = await client.responses.create(model="x", input="One")
        asked: Any = [{"type": "item_reference", "id": made.output[0].id}, {"role": "user", "content": "Two"}]
        await client.responses.create(model="x", input=asked)
        asked[0].pop("type")
        await client.responses.create(model="x", input=asked)
    for turn in model.turns[1:]:
        assert list(turn.messages) == [Message("assistant", "Yes."), Message("user", "Two")]


async def test_a_conversation_gathers_what_its_responses_read_and_say() -> None:
    model = Scripted(text("Yes."))
    async with running(model.pipeline) as server, sdk(server) as client:
        begun: Any = [{"role": "developer", "content": "Be kind."}]
        made = await client.conversations.create(items=begun, metadata={"a": "b"})
        assert await client.conversations.retrieve(made.id) == made
        first = await client.responses.create(model="x", input="One", conversation=made.id)
        assert first.conversation is not None
        assert first.conversation.id == made.id
        await client.responses.create(model="x", input="Two", conversation={"id": made.id}, store=False)
        roles = [message.role for message in model.turns[1].messages]
        assert roles == ["system", "user", "assistant", "user"]
        items = [item async for item in client.conversations.items.list(made.id, order="asc")]
        assert len(items) == 5
        assert (await client.conversations.delete(made.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.responses.create(model="x", input="Three", conversation=made.id)


async def test_a_conversations_items_are_added_retrieved_and_deleted() -> None:
    model = Scripted(text("Yes."))
    async with running(model.pipeline) as server, sdk(server) as client:
        talk = await client.conversations.create()
        result: Any = {"type": "function_call_output", "call_id": "call_1", "output": "sunny"}
        said: Any = [
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": "Let me see."},
            {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
            result,
        ]
        added = await client.conversations.items.create(talk.id, items=said)
        TypeAdapter(ConversationItemList).validate_python(added.to_dict(), strict=True)
        first = added.data[0].id or ""
        assert await client.conversations.items.retrieve(first, conversation_id=talk.id) == added.data[0]
        assert (await client.conversations.items.delete(first, conversation_id=talk.id)).id == talk.id
        with pytest.raises(openai.NotFoundError):
            await client.conversations.items.retrieve(first, conversation_id=talk.id)
        with pytest.raises(openai.NotFoundError):
            await client.conversations.items.delete(first, conversation_id=talk.id)
        assert (await client.conversations.update(talk.id, metadata={"a": "b"})).metadata == {"a": "b"}
        await client.responses.create(model="x", input="Thanks", conversation=talk.id)
    assert [message.role for message in model.turns[0].messages] == ["assistant", "tool", "user"]


async def test_a_conversation_has_no_more_items_than_configured() -> None:
    settings = Settings(responses=ResponsesSettings(items=3))
    async with running(Scripted(text("Yes.")).pipeline, settings) as server, sdk(server) as client:
        first = await client.responses.create(model="x", input="One")
        second = await client.responses.create(model="x", input="Two", previous_response_id=first.id)
        with pytest.raises(openai.BadRequestError) as error:
            await client.responses.create(model="x", input="Three", previous_response_id=second.id)
        talk = await client.conversations.create()
        many: Any = [{"role": "user", "content": "One"}] * 4
        with pytest.raises(openai.BadRequestError) as other:
            await client.conversations.items.create(talk.id, items=many)
    assert error.value.code == other.value.code == "conversation_full"


async def test_one_key_finds_nothing_of_anothers() -> None:
    keys = [new_key(), new_key()]
    settings = Settings(server=ServerSettings(keys=tuple(map(hash_key, keys))))
    async with running(Scripted(text("Yes.")).pipeline, settings) as server:
        mine, theirs = (AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) for key in keys)
        made = await mine.responses.create(model="x", input="A secret")
        talk = await mine.conversations.create()
        reference: Any = [{"type": "item_reference", "id": made.output[0].id}]
        for attempt in (
            theirs.responses.retrieve(made.id),
            theirs.responses.delete(made.id),
            theirs.responses.cancel(made.id),
            theirs.responses.create(model="x", input="x", previous_response_id=made.id),
            theirs.responses.create(model="x", input=reference),
            theirs.responses.create(model="x", input="x", conversation=talk.id),
            theirs.conversations.retrieve(talk.id),
            theirs.conversations.delete(talk.id),
        ):
            with pytest.raises(openai.NotFoundError):
                await attempt
        assert response((await mine.responses.retrieve(made.id)).to_dict(exclude_unset=True)).output_text == "Yes."
        for client in (mine, theirs):
            await client.close()
