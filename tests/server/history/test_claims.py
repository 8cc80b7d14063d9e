"""Two servers over one database: a session is held by one of them, the one that has claimed it last."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from server.config import Settings
from server.history.interface import TAKEN, DropEmpty, HistoryError, PutConversation, PutItem, StoredItem
from server.history.settings import HistorySettings
from tests.server.history.databases import history
from tests.server.test_recorded import asked, conversation_of, items_of
from tests.server.test_resuming import back, greeted
from tests.support import Running, ScriptedModel, eventually, running, text_of

ITEM = PutItem(StoredItem("i", {"text": "x"}))


@asynccontextmanager
async def two(store: str, first: ScriptedModel) -> AsyncIterator[tuple[Running, Running]]:
    settings = Settings(history=HistorySettings(store=store))
    async with running(first, settings) as one, running(ScriptedModel(["Two."]), settings) as other:
        yield one, other


async def test_what_another_server_has_claimed_is_stored_no_more(store: str) -> None:
    taken: list[str] = []
    async with history(store) as one, history(store) as other:
        one.on_taken = lambda owner, ids: taken.extend(ids)
        await one.record("a", "conv_1", PutConversation(), held=True)
        assert await other.claim("a", "conv_1")
        for change in (ITEM, PutConversation(session={"late": True}), DropEmpty()):
            with pytest.raises(HistoryError) as refused:
                await one.record("a", "conv_1", change, held=True)
            assert refused.value.code == TAKEN
        await other.record("a", "conv_1", ITEM, held=True)
        await one.record("a", "conv_1", PutConversation(metadata={"k": "v"}))  # of the HTTP API, which holds no session
        stored = await other.load("a", "conv_1")
        assert stored is not None
        assert ([item.id for item in stored.items], stored.session, stored.metadata) == (["i"], {}, {"k": "v"})
        assert taken == ["conv_1"] * 3
        assert await one.claim("a", "conv_1"), "and back again"
        await one.record("a", "conv_1", ITEM, held=True)
        assert not await one.claim("a", "conv_none")
        assert not await one.claim("b", "conv_1"), "another owner's"


async def test_a_claim_waits_for_what_is_being_committed_and_is_seen_by_what_comes_behind(store: str) -> None:
    async with history(store) as one, history(store) as other:
        await one.record("a", "conv_1", PutConversation(), held=True)
        writes = [
            one.record("a", "conv_1", PutItem(StoredItem(f"i{number}", {"text": "x"})), held=True)
            for number in range(200)
        ]
        await writes[3]
        assert await other.claim("a", "conv_1")
        stored = await other.load("a", "conv_1")
        results = await asyncio.gather(*writes, return_exceptions=True)
        again = await other.load("a", "conv_1")
        assert stored is not None
        assert again is not None
        acknowledged = [f"i{number}" for number, result in enumerate(results) if result is None]
        assert [item.id for item in stored.items] == acknowledged == [item.id for item in again.items]


async def test_a_session_goes_on_at_another_server_and_ends_at_the_first(store: str) -> None:
    async with two(store, ScriptedModel(["One."])) as (one, other), one.client() as client:
        token = await greeted(client)
        await client.ask("Hello")
        async with back(other, token, client.seen[-1]["event_id"]) as again:
            await again.expect("session.updated")
            assert text_of(await again.ask("And?")) == "Two."
            item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "late"}]}
            await client.send("conversation.item.create", item=item)
            with pytest.raises(ConnectionClosed) as closed:
                await client.until("conversation.item.done")
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "session_taken_over")
            await eventually(lambda: len(one.backend.live) == 0, "the first server has ended it")
            assert text_of(await again.ask("Still there?")) == "Two."
        assert len(await items_of(other, conversation_of(client))) == 6


async def test_a_reply_of_a_session_without_a_socket_ends_where_another_server_has_it(store: str) -> None:
    gate = threading.Semaphore(3)
    words = [f"{number} " for number in range(50)]
    async with two(store, ScriptedModel(words, gate=gate)) as (one, other):
        async with one.client() as client:
            token = await greeted(client)
            await client.say("Count")
            await client.send("response.create")
            await client.until("response.output_text.delta")
            await client.socket.close(1001)
        await eventually(lambda: one.backend.live.lingering == 1, "it lingers")
        async with back(other, token, client.seen[-1]["event_id"]) as again:
            done = (await again.until("response.done"))[-1]["response"]
            assert (done["status"], done["status_details"]["error"]["code"]) == ("incomplete", "server_restarted")
            gate.release(100)
            await eventually(lambda: len(one.backend.live) == 0, "its reply has ended, and could not be stored")
            assert text_of(await again.ask("Go on")) == "Two."


async def test_no_session_is_restored_by_a_server_that_has_begun_to_drain_meanwhile(tmp_path: Path) -> None:
    settings = Settings(history=HistorySettings(store=f"sqlite:///{tmp_path / 'history.db'}"))
    async with running(ScriptedModel(["Hi."]), settings) as server:
        client, token = await asked(server)
        known = client.seen[-1]["event_id"]
        await server.backend.live.close()
        history = server.backend.history
        assert history is not None
        claim = history.claim

        async def slowly(owner: str, id: str) -> bool:
            server.backend.draining = True
            return await claim(owner, id)

        history.claim = slowly  # type: ignore[method-assign]
        with pytest.raises(InvalidStatus) as refused:
            async with back(server, token, known):
                pass
        assert refused.value.response.status_code == 503
        assert len(server.backend.live) == 0


async def test_a_file_of_before_has_sessions_that_no_server_holds(tmp_path: Path) -> None:
    settings = Settings(history=HistorySettings(store=f"sqlite:///{tmp_path / 'history.db'}"))
    async with running(ScriptedModel(["Hi."]), settings) as server:
        client, token = await asked(server)
        assert server.backend.history is not None
        async with server.backend.history._database.writing() as transaction:
            await transaction.execute("UPDATE loquent_conversations SET holder = ''")
        async with back(server, token, client.seen[-1]["event_id"]) as again:
            assert text_of(await again.ask("And?")) == "Hi."
