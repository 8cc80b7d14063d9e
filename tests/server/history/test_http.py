"""Responses and conversations through the real server with the stock client, over a database that outlives it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI
from openai.types.conversations import Conversation, ConversationItemList
from pydantic import TypeAdapter

from server.auth import new_key
from server.config import ServerSettings, Settings, hash_key
from server.history.database import SetupError
from server.history.interface import History, PutConversation, PutItem, StoredItem
from server.history.settings import HistorySettings
from tests.server.history.test_deletion import files_with
from tests.server.history.test_faults import locked
from tests.server.scripts import Scripted, respond, responded, sdk, text
from tests.support import Running, eventually, running

MARKER = "zq-marker-text"


def over(store: str, **more: Any) -> Settings:
    return Settings(history=HistorySettings(store=store, **{"days": 0} | more))


@asynccontextmanager
async def serving(store: str, **more: Any) -> AsyncIterator[Running]:
    async with running(Scripted(text("Yes.")).pipeline, over(store, **more)) as server:
        yield server


def history_of(server: Running) -> History:
    assert server.backend.history is not None
    return server.backend.history


async def test_responses_and_conversations_survive_a_restart(store: str) -> None:
    async with serving(store) as server, sdk(server) as client:
        first = await client.responses.create(model="x", input="One")
        talk = await client.conversations.create(metadata={"k": "v"})
        in_talk = await client.responses.create(model="x", input="Hi", conversation=talk.id)
    model = Scripted(text("Yes."))
    async with running(model.pipeline, over(store)) as server, sdk(server) as client:
        assert await client.responses.retrieve(first.id) == first
        assert await client.responses.retrieve(in_talk.id) == in_talk
        assert await client.conversations.retrieve(talk.id) == talk
        await client.responses.create(model="x", input="Two", previous_response_id=first.id)
        await client.responses.create(model="x", input="Ho", conversation=talk.id)
        reference: Any = [{"type": "item_reference", "id": first.output[0].id}, {"role": "user", "content": "Three"}]
        await client.responses.create(model="x", input=reference)
    said = [[message.content for message in turn.messages] for turn in model.turns]
    assert said == [["One", "Yes.", "Two"], ["Hi", "Yes.", "Ho"], ["Yes.", "Three"]]


@pytest.mark.parametrize("store", ["none", "sqlite"])
async def test_the_conversations_are_listed_as_openais_lists_look(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    async with serving(store) as server, sdk(server) as client:
        made = [(await client.conversations.create(metadata={"n": str(number)})).id for number in range(5)]

        async def listed(query: str) -> Any:
            async with server.http.get(f"{server.url}/v1/conversations?{query}") as answer:
                return answer.status, await answer.json()

        status, page = await listed("limit=2&order=asc")
        assert status == 200
        TypeAdapter(list[Conversation]).validate_python(page["data"])
        ids = [each["id"] for each in page["data"]]
        assert page == {
            "object": "list",
            "data": page["data"],
            "first_id": ids[0],
            "last_id": ids[1],
            "has_more": True,
        }
        rest = await listed(f"limit=100&order=asc&after={ids[1]}")
        assert {*ids, *(each["id"] for each in rest[1]["data"])} == {*made}
        assert not rest[1]["has_more"]
        newest = await listed("")
        assert [each["id"] for each in newest[1]["data"]] == [
            each["id"] for each in [*page["data"], *rest[1]["data"]][::-1]
        ]
        for query, param in (("limit=0", "limit"), ("order=up", "order"), ("after=conv_0", "after")):
            status, error = await listed(query)
            assert (status in (400, 404), error["error"]["param"]) == (True, param)


REALTIME: list[dict[str, Any]] = [
    {"id": "s", "type": "message", "role": "system", "content": [{"type": "input_text", "text": "Be kind."}]},
    {"id": "u", "type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
    {"id": "a", "type": "message", "role": "user", "content": [{"type": "input_audio", "transcript": "Hello"}]},
    {"id": "n", "type": "message", "role": "user", "content": [{"type": "input_audio", "transcript": None}]},
    {
        "id": "r",
        "object": "realtime.item",
        "type": "message",
        "status": "incomplete",
        "role": "assistant",
        "content": [{"type": "output_audio", "transcript": "Good"}, {"type": "output_text", "text": "bye"}],
    },
    {"id": "c", "type": "function_call", "status": "completed", "name": "f", "arguments": "{}", "call_id": "1"},
    {"id": "k", "type": "function_call", "name": "f", "arguments": "{}"},
    {"id": "o", "type": "function_call_output", "call_id": "1", "output": "42"},
]


async def realtime(server: Running, owner: str = "", id: str = "conv_rt") -> str:
    """A conversation as a realtime session stores it."""
    items = [PutItem(StoredItem(body["id"], body)) for body in REALTIME]
    await history_of(server).record(owner, id, PutConversation({"voice": "joe"}), *items)
    return id


async def test_a_realtime_conversation_is_read_in_openais_shape(store: str) -> None:
    async with serving(store) as server, sdk(server) as client:
        id = await realtime(server)
        assert (await client.conversations.retrieve(id)).id == id
        async with server.http.get(f"{server.url}/v1/conversations/{id}/items?order=asc") as answer:
            page = await answer.json()
        TypeAdapter(ConversationItemList).validate_python(page, strict=True)
        shown = [(item["id"], item["status"], _words(item)) for item in page["data"]]
        assert shown == [
            ("s", "completed", "input_text:Be kind."),
            ("u", "completed", "input_text:Hi"),
            ("a", "completed", "input_text:Hello"),
            ("n", "completed", "input_text:"),
            ("r", "incomplete", "output_text:Good output_text:bye"),
            ("c", "completed", "1"),
            ("k", "completed", "k"),
            ("o", "completed", "1"),
        ]
        one = await client.conversations.items.retrieve("r", conversation_id=id)
        assert one.to_dict() == page["data"][4]
        async with server.http.get(f"{server.url}/v1/conversations") as answer:
            assert [each["id"] for each in (await answer.json())["data"]] == [id]


def _words(item: dict[str, Any]) -> str:
    if item["type"] != "message":
        return str(item["call_id"])
    return " ".join(f"{part['type']}:{part['text']}" for part in item["content"])


async def test_a_realtime_conversation_is_not_changed_over_http_and_says_so(store: str) -> None:
    async with serving(store) as server, sdk(server) as client:
        id = await realtime(server)
        user: Any = [{"role": "user", "content": "x"}]
        for attempt in (
            client.conversations.update(id, metadata={}),
            client.conversations.items.create(id, items=user),
            client.conversations.items.delete("u", conversation_id=id),
            client.responses.create(model="x", input="x", conversation=id),
        ):
            with pytest.raises(openai.ConflictError) as error:
                await attempt
            assert error.value.code == "conversation_read_only"
        stored = await history_of(server).load("", id)
        assert stored is not None
        assert [item.body for item in stored.items] == REALTIME
        assert (await client.conversations.delete(id)).deleted
        with pytest.raises(openai.NotFoundError):
            await client.conversations.retrieve(id)
        assert await history_of(server).load("", id) is None


async def test_one_key_finds_nothing_of_anothers_in_the_database(store: str) -> None:
    keys = [new_key(), new_key()]
    settings = over(store).model_copy(update={"server": ServerSettings(keys=tuple(map(hash_key, keys)))})
    async with running(Scripted(text("Yes.")).pipeline, settings) as server:
        mine, theirs = (AsyncOpenAI(base_url=f"{server.url}/v1", api_key=key, max_retries=0) for key in keys)
        made = await mine.responses.create(model="x", input="A secret")
        talk = await mine.conversations.create()
        user: Any = [{"role": "user", "content": "x"}]
        reference: Any = [{"type": "item_reference", "id": made.output[0].id}]
        for attempt in (
            theirs.responses.retrieve(made.id),
            theirs.responses.delete(made.id),
            theirs.responses.create(model="x", input="x", previous_response_id=made.id),
            theirs.responses.create(model="x", input=reference),
            theirs.responses.create(model="x", input="x", conversation=talk.id),
            theirs.conversations.retrieve(talk.id),
            theirs.conversations.update(talk.id, metadata={}),
            theirs.conversations.items.list(talk.id),
            theirs.conversations.items.create(talk.id, items=user),
            theirs.conversations.delete(talk.id),
        ):
            with pytest.raises(openai.NotFoundError):
                await attempt
        async with server.http.get(
            f"{server.url}/v1/conversations", headers={"Authorization": f"Bearer {keys[1]}"}
        ) as answer:
            assert (await answer.json())["data"] == []
        async with server.http.get(
            f"{server.url}/v1/conversations?after={talk.id}", headers={"Authorization": f"Bearer {keys[1]}"}
        ) as answer:
            assert answer.status == 404
        assert await mine.conversations.retrieve(talk.id) == talk
        for client in (mine, theirs):
            await client.close()


async def test_a_deleted_conversation_leaves_no_byte_of_it_or_of_its_responses(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    async with serving(f"sqlite:///{folder}/history.db") as server, sdk(server) as client:
        talk = await client.conversations.create(metadata={"k": MARKER})
        await client.responses.create(model="x", input=MARKER, conversation=talk.id, instructions=MARKER)
        alone = await client.responses.create(model="x", input=MARKER)
        other = await client.responses.create(model="x", input="stays")
        assert files_with(folder, MARKER)
        await client.conversations.delete(talk.id)
        await client.responses.delete(alone.id)
        assert files_with(folder, MARKER) == []
        assert await client.responses.retrieve(other.id)
    assert files_with(folder, MARKER) == []


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite waits no time for a lock."""
    monkeypatch.setattr("server.history.sqlite.BUSY", 0)


@pytest.mark.usefixtures("impatient")
async def test_a_reply_that_can_not_be_stored_is_delivered_and_says_so(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    async with serving(f"sqlite:///{file}", patience=0.2) as server:
        other = await locked(file)
        status, whole = await respond(server)
        assert (status, whole["status"], whole["loquent"]) == (200, "completed", {"stored": False})
        last = (await responded(server))[-1]
        assert (last["type"], last["response"]["loquent"]) == ("response.completed", {"stored": False})
        other.close()
        await eventually(lambda: history_of(server).healthy, "the history is back")
        status, whole = await respond(server)
        assert (status, "loquent" in whole) == (200, False)


@pytest.mark.usefixtures("impatient")
async def test_readiness_and_metrics_say_that_the_history_is_away(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    async with serving(f"sqlite:///{file}", patience=0.2) as server, sdk(server) as client:
        other = await locked(file)
        async with server.http.post(f"{server.url}/v1/conversations", json={}) as answer:
            error = (await answer.json())["error"]
            assert (answer.status, error["code"], "Retry-After" in answer.headers) == (503, "history_unavailable", True)
            assert "log says more" in error["message"]
            assert str(file) not in error["message"], "clients need not know it"
        async with server.http.get(f"{server.url}/readyz") as answer:
            assert (answer.status, (await answer.json())["waiting_for"]) == (503, ["history"])
        other.close()
        await eventually(lambda: history_of(server).healthy, "the history is back")
        async with server.http.get(f"{server.url}/readyz") as answer:
            assert answer.status == 200
        await client.conversations.create()
        async with server.http.get(f"{server.url}/metrics") as answer:
            lines = dict(line.rsplit(" ", 1) for line in (await answer.text()).splitlines() if line[0] != "#")
    assert float(lines["loquent_history_failures_total"]) > 0
    assert float(lines["loquent_history_commits_total"]) >= 1
    assert float(lines["loquent_history_commit_seconds_count"]) >= 1
    assert float(lines["loquent_history_queue_bytes"]) == 0


async def test_a_history_that_can_not_be_opened_ends_the_start_and_leaves_nothing_open(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    file.write_text("no database" * 1000)
    with pytest.raises(SetupError):
        async with serving(f"sqlite:///{file}"):
            raise AssertionError("it was served")


async def test_without_a_history_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    async with serving("none") as server, sdk(server) as client:
        await client.responses.create(model="x", input="One")
        assert server.backend.history is None
    assert not (tmp_path / "data").exists()
