"""Every store of responses does the same: the one in memory, and the one in the history's database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bench.faults.postgres import Postgres
from server.history.interface import PutConversation, PutItem, StoredItem
from server.history.responses import HistoryStore
from server.response_store import Json, MemoryStore, Record, ResponseStore
from tests.server.history.databases import history


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def setting(kind: str, request: pytest.FixtureRequest) -> str:
    if kind == "memory":
        return kind
    if kind == "sqlite":
        return f"sqlite:///{request.getfixturevalue('tmp_path')}/history.db"
    server: Postgres | None = request.getfixturevalue("postgres_server")
    if server is None:
        pytest.skip("PostgreSQL is not installed")
    return server.new_database()


@asynccontextmanager
async def responses(setting: str) -> AsyncIterator[ResponseStore]:
    if setting == "memory":
        yield MemoryStore(1_000_000, 3600)
        return
    async with history(setting) as stored:
        yield HistoryStore(stored)


def message(id: str) -> Json:
    return {"id": id, "type": "message", "text": id}


def a_response(id: str, *items: str, parent: str = "", conversation: str = "", output: tuple[str, ...] = ()) -> Record:
    of = {"id": conversation} if conversation else None
    body = {"id": id, "output": [message(each) for each in output], "conversation": of}
    return Record(id, body, tuple(map(message, items)), parent)


def talk(id: str, *items: str, at: int = 1) -> Record:
    body = {"id": id, "object": "conversation", "created_at": at, "metadata": {}}
    return Record(id, body, tuple(map(message, items)))


async def test_a_response_is_found_by_its_owner_alone_and_changed_by_its_id(setting: str) -> None:
    async with responses(setting) as store:
        made = a_response("resp_1", "i1", parent="resp_0", output=("o1",))
        await store.put("a", made)
        assert await store.get("a", "resp_1") == made
        assert await store.get("b", "resp_1") is None
        assert not await store.delete("b", "resp_1")
        changed = a_response("resp_1", "i2")
        await store.put("a", changed)
        assert await store.get("a", "resp_1") == changed
        assert await store.find_item("a", "i1") is None
        assert await store.delete("a", "resp_1")
        assert not await store.delete("a", "resp_1")
        assert await store.get("a", "resp_1") is None


async def test_an_item_is_found_wherever_it_is_stored(setting: str) -> None:
    async with responses(setting) as store:
        await store.put("a", a_response("resp_1", "i1", output=("o1",)))
        await store.put("a", talk("conv_1", "c1"))
        for id in ("i1", "o1", "c1"):
            assert await store.find_item("a", id) == message(id)
            assert await store.find_item("b", id) is None
        await store.delete("a", "resp_1")
        await store.delete("a", "conv_1")
        for id in ("i1", "o1", "c1"):
            assert await store.find_item("a", id) is None


async def test_a_conversation_is_added_to_described_and_loses_items(setting: str) -> None:
    async with responses(setting) as store:
        await store.put("a", talk("conv_1", "i1"))
        assert await store.append("a", "conv_1", [message("i2"), message("i3")])
        assert await store.append("a", "conv_1", [])
        assert await store.drop_item("a", "conv_1", "i1")
        assert not await store.drop_item("a", "conv_1", "i1")
        assert await store.describe("a", "conv_1", {"k": "v"})
        found = await store.get("a", "conv_1")
        assert found is not None
        assert found.items == (message("i2"), message("i3"))
        assert found.body == talk("conv_1").body | {"metadata": {"k": "v"}}


async def test_nothing_is_added_to_what_is_not_there(setting: str) -> None:
    async with responses(setting) as store:
        await store.put("b", talk("conv_1", "i1"))
        assert not await store.append("a", "conv_1", [message("i2")])
        assert not await store.describe("a", "conv_1", {})
        assert not await store.drop_item("a", "conv_1", "i1")
        assert await store.get("a", "conv_1") is None


async def test_a_conversation_takes_its_responses_with_it(setting: str) -> None:
    async with responses(setting) as store:
        await store.put("a", talk("conv_1"))
        await store.put("a", a_response("resp_1", conversation="conv_1"))
        await store.put("a", a_response("resp_2", conversation="conv_2"))
        assert await store.delete("a", "conv_1")
        assert await store.get("a", "resp_1") is None
        assert await store.get("a", "resp_2")


async def test_conversations_are_listed_newest_first_from_page_to_page(setting: str) -> None:
    async with responses(setting) as store:
        for number in range(5):
            await store.put("a", talk(f"conv_{number}", at=number))
        await store.put("a", a_response("resp_1"))
        await store.put("b", talk("conv_b"))
        assert await store.append("a", "conv_0", [message("i")]), "its use does not change the order"
        first = await store.conversations("a", after="", limit=2, newest_first=True)
        assert first is not None
        assert ([body["id"] for body in first[0]], first[1]) == (["conv_4", "conv_3"], True)
        last = await store.conversations("a", after="conv_1", limit=2, newest_first=True)
        assert last == ((talk("conv_0", at=0).body,), False)
        oldest = await store.conversations("a", after="conv_3", limit=5, newest_first=False)
        assert oldest == ((talk("conv_4", at=4).body,), False)
        assert await store.conversations("a", after="conv_b", limit=5, newest_first=True) is None
        assert await store.conversations("nobody", after="", limit=5, newest_first=True) == ((), False)


async def test_a_response_of_a_conversation_that_was_deleted_is_not_stored(store: str) -> None:
    async with history(store) as stored:
        await stored.record("a", "conv_1", PutConversation())
        await stored.delete("a", "conv_1")
        await HistoryStore(stored).put("a", a_response("resp_1", conversation="conv_1"))
        assert await HistoryStore(stored).get("a", "resp_1") is None


async def test_the_use_of_a_response_is_noted_once_a_day(store: str) -> None:
    now = [1_700_000_000.0]
    async with history(store) as stored:
        stored._wall = lambda: now[0]
        responses = HistoryStore(stored)
        await responses.put("a", a_response("resp_1"))
        now[0] += 25 * 3600
        used = []
        for _ in range(3):
            assert await responses.get("a", "resp_1")
            await stored.record("a", "c", PutConversation())  # committed behind what the use has changed
            rows = await stored.read(lambda transaction: transaction.fetch("SELECT changed FROM loquent_responses"))
            used.append(rows[0][0])
            now[0] += 3600
        assert used == [(1_700_000_000 + 25 * 3600) * 1_000_000] * 3


async def test_a_realtime_conversation_is_found_with_items_in_openais_shape(store: str) -> None:
    body = {"id": "i", "type": "message", "role": "user", "content": [{"type": "input_audio", "transcript": "Hi"}]}
    async with history(store) as stored:
        await stored.record("a", "conv_1", PutConversation({"voice": "joe"}), PutItem(StoredItem("i", body)))
        responses = HistoryStore(stored)
        found = await responses.get("a", "conv_1")
        assert found is not None
        shown = body | {"status": "completed", "content": [{"type": "input_text", "text": "Hi"}]}
        assert (found.kind, found.items) == ("realtime", (shown,))
        assert await responses.find_item("a", "i") == shown
