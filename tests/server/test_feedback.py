"""What users think of replies: rated in the session, counted, and stored with the conversation."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from pipelines.events import Finished, TextDelta, Usage
from server.config import Settings
from server.history.settings import HistorySettings
from server.realtime import session
from server.realtime.settings import SessionsSettings
from tests.server.test_metrics import told
from tests.server.test_recorded import away, conversation_of, items_of
from tests.server.test_resuming import back, cut, greeted
from tests.server.test_session import Table, ask, error_of, kinds
from tests.support import Client, Running, ScriptedModel, running, user

Json = dict[str, Any]
FEEDBACK, RECORDED = "loquent.feedback", "loquent.feedback.recorded"
COMMENT = "zq-comment: it answered what I had asked."


@pytest.fixture
def table() -> Table:
    made = Table()
    made.give(session.Connected())
    return made


def answered(table: Table) -> str:
    """The id of a reply that is done."""
    done = table.produce(ask(table), TextDelta("Hello"), Finished("stop", Usage()))[-1]
    id: str = done["response"]["output"][0]["id"]
    return id


def of(table: Table, id: str) -> Json | None:
    (retrieved,) = table.send("conversation.item.retrieve", item_id=id)
    notes: Json | None = retrieved["item"].get("loquent")
    return notes


def test_feedback_is_on_its_item_and_the_last_one_counts(table: Table) -> None:
    id = answered(table)
    assert of(table, id) is None
    (recorded,) = table.send(FEEDBACK, item_id=id, rating="up", comment="Good.")
    assert recorded == {"event_id": "event_1", "type": RECORDED, "item_id": id, "rating": "up"}
    assert of(table, id) == {"feedback": {"rating": "up", "comment": "Good."}}
    (recorded,) = table.send(FEEDBACK, item_id=id, rating="down")
    assert recorded["rating"] == "down"
    assert of(table, id) == {"feedback": {"rating": "down"}}
    (recorded,) = table.send(FEEDBACK, item_id=id, rating=None)
    assert recorded["rating"] is None
    assert of(table, id) is None


def test_feedback_that_is_given_again_is_answered_and_changes_nothing(table: Table) -> None:
    id = answered(table)
    first = table.send(FEEDBACK, item_id=id, rating="up", comment="Good.")
    before = table.state.items
    assert table.send(FEEDBACK, item_id=id, rating="up", comment="Good.") == first
    assert table.state.items is before


def test_what_is_no_feedback_is_refused_and_says_why(table: Table) -> None:
    id = answered(table)
    asked = table.state.items[0].id
    refusals: list[tuple[Json, str, str | None]] = [
        ({"item_id": "none", "rating": "up"}, "item_feedback_invalid_item_id", "item_id"),
        ({"item_id": asked, "rating": "up"}, "invalid_value", "item_id"),
        ({"item_id": id, "rating": "sideways"}, "invalid_value", "rating"),
        ({"item_id": id}, "missing_required_parameter", "rating"),
        ({"rating": "up"}, "missing_required_parameter", "item_id"),
        ({"item_id": id, "rating": "up", "comment": "x" * 1001}, "invalid_value", "comment"),
        ({"item_id": id, "rating": None, "comment": "Why?"}, "invalid_value", "comment"),
        ({"item_id": id, "rating": "up", "comment": "x" * 1000}, "conversation_full", "comment"),
    ]
    table.send("conversation.item.create", item=user("x" * 600))
    for fields, code, param in refusals:
        error = error_of(table.send(FEEDBACK, event_id="mine", **fields))
        assert (error["code"], error["param"], error["event_id"]) == (code, param, "mine"), fields
    assert of(table, id) is None
    assert kinds(table.send(FEEDBACK, item_id=id, rating="up")) == [RECORDED], "a rating alone always fits"


def test_a_reply_can_be_rated_once_it_is_done(table: Table) -> None:
    response_id = ask(table)
    (added, *_) = table.produce(response_id, TextDelta("x"))
    id = added["item"]["id"]
    assert error_of(table.send(FEEDBACK, item_id=id, rating="up"))["code"] == "item_in_progress"
    table.produce(response_id, Finished("stop", Usage()))
    assert kinds(table.send(FEEDBACK, item_id=id, rating="up")) == [RECORDED]


def test_a_client_can_not_create_an_item_with_feedback_and_the_model_reads_none(table: Table) -> None:
    item = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi"}], "id": "a"}
    created = table.send("conversation.item.create", item=item | {"loquent": {"feedback": {"rating": "up"}}})
    assert "loquent" not in created[-1]["item"]
    table.send(FEEDBACK, item_id="a", rating="down", comment=COMMENT)
    ask(table)
    (turn,) = table.turns.values()
    assert [message.content for message in turn.messages] == ["Hi", "Hi"]


async def replied(client: Client) -> str:
    """The id of a reply to this client."""
    id: str = (await client.ask("Hello"))[-1]["response"]["output"][0]["id"]
    return id


async def rate(client: Client, id: str, **fields: Any) -> Json:
    await client.send(FEEDBACK, item_id=id, **fields)
    (recorded,) = await client.expect(RECORDED)
    return recorded


async def counted(server: Running) -> list[float]:
    found = await told(server)
    return [found[f'loquent_feedback_total{{rating="{rating}"}}'] for rating in ("up", "down")]


async def test_ratings_are_counted_once_and_no_comment_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        async with running(ScriptedModel(["Hi."])) as server, server.client() as client:
            await client.greet()
            assert await counted(server) == [0, 0]
            id = await replied(client)
            for rating in ("up", "up", None, "down"):
                await rate(client, id, rating=rating)
            await rate(client, id, rating="down", comment=COMMENT)  # the same rating, now with its reason
            await client.send(FEEDBACK, item_id=id, rating="up", comment=COMMENT * 100)
            await client.expect("error")
            assert await counted(server) == [1, 1]
    assert COMMENT not in caplog.text


async def test_no_session_can_rate_what_is_anothers() -> None:
    async with running(ScriptedModel(["Hi."])) as server, server.client() as one, server.client() as other:
        await one.greet()
        await other.greet()
        id = await replied(one)
        await other.send(FEEDBACK, item_id=id, rating="down")
        (error,) = await other.expect("error")
        assert error["error"]["code"] == "item_feedback_invalid_item_id"


async def test_a_client_that_comes_back_and_sends_it_again_is_answered_once() -> None:
    async with running(ScriptedModel(["Hi."])) as server:
        async with server.client() as client:
            token = await greeted(client)
            id = await replied(client)
            known = client.seen[-1]["event_id"]
            await client.send(FEEDBACK, item_id=id, rating="up", event_id="mine")
            await client.receive()
            await cut(server, client)
        async with back(server, token, known) as again:
            await again.send(FEEDBACK, item_id=id, rating="up", event_id="mine")
            await again.send(FEEDBACK, item_id=id, rating="down", event_id="later")
            first, second = await again.expect(RECORDED, RECORDED)
            assert (first["rating"], second["rating"]) == ("up", "down")
            assert await counted(server) == [1, 1]


async def test_a_client_that_missed_too_much_learns_what_is_recorded() -> None:
    settings = Settings(sessions=SessionsSettings(replay_bytes=1024))
    async with running(ScriptedModel(["Hi."]), settings) as server:
        async with server.client() as client:
            token = await greeted(client)
            id = await replied(client)
            known = client.seen[-1]["event_id"]
            await rate(client, id, rating="down")
            await client.say("x" * 3000)  # whose events push it out of the log
            await cut(server, client)
        async with back(server, token, known) as again:
            events = await again.until("conversation.item.done")
            assert kinds(events)[:2] == ["session.updated", RECORDED]
            assert (events[1]["item_id"], events[1]["rating"]) == (id, "down")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(history=HistorySettings(store=f"sqlite:///{tmp_path / 'history.db'}", patience=0.5))


async def test_it_is_answered_only_once_it_is_stored(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(ScriptedModel(["Hi."]), settings) as server:
        async with server.client() as client:
            token = await greeted(client)
            id = await replied(client)
            async with away(server, monkeypatch):
                await client.send(FEEDBACK, item_id=id, rating="up", comment=COMMENT, event_id="mine")
                (error,) = await client.expect("error")
                assert error["error"]["code"] == "history_unavailable"
        async with back(server, token, error["event_id"]) as again:
            await again.send(FEEDBACK, item_id=id, rating="up", comment=COMMENT, event_id="mine")
            (recorded,) = await again.expect(RECORDED)
            assert recorded["rating"] == "up"
            stored = (await items_of(server, conversation_of(client)))[-1]
            assert stored["loquent"] == {"feedback": {"rating": "up", "comment": COMMENT}}
            assert json.dumps(stored).count(COMMENT) == 1
