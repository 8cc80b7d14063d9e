"""Realtime sessions whose conversations are stored: acknowledged means stored, and a restart loses nothing."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.exceptions import ConnectionClosed

from server.config import ServerSettings, Settings, hash_key
from server.history.settings import HistorySettings
from tests.server.test_resuming import COUNT, answer, back, cut, greeted
from tests.support import Client, Running, ScriptedModel, eventually, running, text_of


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(history=HistorySettings(store=f"sqlite:///{tmp_path / 'history.db'}", patience=0.5))


async def items_of(server: Running, conversation: str, **options: Any) -> list[dict[str, Any]]:
    path = f"{server.url}/v1/conversations/{conversation}/items?order=asc"
    async with server.http.get(path, **options) as response:
        assert response.status == 200, await response.text()
        data: list[dict[str, Any]] = (await response.json())["data"]
        return data


async def asked(server: Running, settings_sent: dict[str, Any] | None = None) -> tuple[Client, str]:
    """A client that has had a turn and then lost its socket, and its token."""
    async with server.client() as client:
        token = await greeted(client)
        if settings_sent:
            await client.send("session.update", session=settings_sent)
            await client.expect("session.updated")
        await client.ask("Hello")
        await cut(server, client)
    return client, token


def conversation_of(client: Client) -> str:
    id: str = next(e["conversation"]["id"] for e in client.seen if e["type"] == "conversation.created")
    return id


async def test_a_session_goes_on_after_a_restart(settings: Settings) -> None:
    model = ScriptedModel(["Hi."])
    async with running(ScriptedModel(["Hi."]), settings) as server:
        client, token = await asked(server, {"instructions": "Be brief."})
    async with running(model, settings) as server:
        async with back(server, token, client.seen[-1]["event_id"]) as again:
            (first,) = await again.expect("session.updated")
            assert first["session"]["instructions"] == "Be brief."
            assert first["session"]["id"] == client.seen[0]["session"]["id"]
            items = [event["item"]["id"] for event in client.seen if event["type"] == "conversation.item.done"]
            assert first["loquent"]["resumed"] == {"complete": False, "items": items}
            assert text_of(await again.ask("And?")) == "Hi."
            ids = [event["event_id"] for event in (*client.seen, *again.seen)]
            assert len(set(ids)) == len(ids)
        assert "Be brief." in model.prompts[0]
        assert "user: Hello\nassistant: Hi.\nuser: And?" in model.prompts[0]
        assert len(await items_of(server, conversation_of(client))) == 4


async def test_what_a_client_missed_before_a_restart_comes_after_it(settings: Settings) -> None:
    async with running(ScriptedModel(["Hi."]), settings) as server:
        client, token = await asked(server)
    known = next(event for event in client.seen if event["type"] == "response.created")
    async with running(ScriptedModel(["Hi."]), settings) as server:
        async with back(server, token, known["event_id"]) as again:
            await again.until("response.done")
            kinds = [event["type"] for event in again.seen]
            assert kinds == [
                "session.updated",
                "conversation.item.added",
                "conversation.item.done",
                "response.done",
            ]
            assert again.seen[2]["item"]["content"][0]["text"] == "Hi."
            assert again.seen[3]["response"] == client.seen[-1]["response"]
            part = again.seen[1]["event_id"]
            await again.socket.close(1001)
        async with back(server, token, part) as third:  # cut amid what came in place of the rest
            await third.until("response.done")
            assert [event["type"] for event in third.seen] == kinds[2:]


async def test_no_event_id_is_used_twice_by_servers_that_die_one_behind_the_other(
    settings: Settings, tmp_path: Path
) -> None:
    async with running(ScriptedModel(["Hi."]), settings) as server:
        client, token = await asked(server)
    seen, known = list(client.seen), client.seen[-1]["event_id"]
    for number in range(3):
        folder = tmp_path / str(number)
        folder.mkdir()
        copied(tmp_path, folder)  # each begins with what the first one stored
        again_settings = Settings(history=HistorySettings(store=f"sqlite:///{folder / 'history.db'}"))
        async with running(ScriptedModel(["Hi."]), again_settings) as server, back(server, token, known) as again:
            await again.expect("session.updated")
            await again.send("conversation.item.retrieve", item_id="none")
            await again.expect("error")  # an event that is not stored
            seen += again.seen
            known = again.seen[-1]["event_id"]
    ids = [event["event_id"] for event in seen]
    assert len(set(ids)) == len(ids)
    assert [event["type"] for event in seen].count("response.done") == 1


def copied(source: Path, target: Path) -> None:
    for file in source.glob("history.db*"):
        (target / file.name).write_bytes(file.read_bytes())


@pytest.mark.parametrize("told", [True, False])
async def test_a_reply_in_progress_is_incomplete_after_a_crash(
    settings: Settings, tmp_path: Path, *, told: bool
) -> None:
    gate = threading.Semaphore(2)
    saved = tmp_path / "crash"
    saved.mkdir()
    async with running(ScriptedModel(COUNT, gate=gate), settings) as server, server.client() as client:
        token = await greeted(client)
        await client.say("Count")
        await client.send("response.create", event_id="mine")
        await client.until("response.output_text.delta")
        await asyncio.to_thread(copied, tmp_path, saved)  # as the disk is when the process dies
        gate.release(1000)
        await client.until("response.done")
    known = client.seen[-1] if told else next(e for e in client.seen if e["type"] == "conversation.item.done")
    cut_at = next(n for n, e in enumerate(client.seen) if e["type"] == "response.output_text.delta")
    known = client.seen[cut_at] if told else known
    restored = Settings(history=HistorySettings(store=f"sqlite:///{saved / 'history.db'}"))
    model = ScriptedModel(["Hi."])
    async with running(model, restored) as server, back(server, token, known["event_id"]) as again:
        events = await again.until("response.done")
        kinds = [event["type"] for event in events]
        assert kinds == ["session.updated", *([] if told else ["response.created"]), "response.done"]
        end = events[-1]["response"]
        assert end["status"] == "incomplete"
        assert end["status_details"]["error"]["code"] == "server_restarted"
        await again.send("response.create", event_id="mine")  # it asks again, since it does not know
        assert text_of(await again.ask("And?")) == "Hi."
        assert len(model.prompts) == 1


async def test_an_item_is_acknowledged_only_once_it_is_stored(settings: Settings) -> None:
    async with running(ScriptedModel(["Hi."]), settings) as server, server.client() as client:
        await greeted(client)
        for number in range(10):
            item = await client.say(f"Message {number}")
            assert (await items_of(server, conversation_of(client)))[-1]["id"] == item["id"]


@asynccontextmanager
async def away(server: Running, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    """The database can't be written while the block runs."""
    history = server.backend.history
    assert history is not None
    real = history._database.writing

    def broken() -> Any:
        raise OSError("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(history._database, "writing", broken)
        yield
    assert history._database.writing == real


async def test_a_client_comes_back_for_what_could_not_be_stored(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(ScriptedModel(["Hi."]), settings) as server:
        async with server.client() as client:
            token = await greeted(client)
            await client.ask("Hello")
            async with away(server, monkeypatch):
                await client.send(
                    "conversation.item.create",
                    item={
                        "type": "message",
                        "role": "user",
                        "content": [{"type": "input_text", "text": "Are you there?"}],
                    },
                )
                await client.expect("conversation.item.added")
                (error,) = await client.expect("error")
                assert error["error"]["code"] == "history_unavailable"
                with pytest.raises(ConnectionClosed) as closed:
                    await client.receive()
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1013
        async with back(server, token, error["event_id"]) as again:  # the last one that the client has
            (done,) = await again.expect("conversation.item.done")
            assert [item["id"] for item in await items_of(server, conversation_of(client))][-1] == done["item"]["id"]


async def test_a_deletion_ends_the_session_and_nothing_can_bring_it_back(settings: Settings) -> None:
    async with running(ScriptedModel(["Hi."]), settings) as server, server.client() as client:
        token = await greeted(client)
        await client.ask("Hello")
        async with server.http.delete(f"{server.url}/v1/conversations/{conversation_of(client)}") as response:
            assert response.status == 200
        (error,) = await client.expect("error")
        assert error["error"]["code"] == "conversation_deleted"
        with pytest.raises(ConnectionClosed) as closed:
            await client.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1008
        await eventually(lambda: len(server.backend.live) == 0, "the session has ended")
        assert await answer(server, token) == ("session_not_found", 4004)


async def test_a_deletion_reaches_the_prefix_cache(settings: Settings) -> None:
    async with running(ScriptedModel(["Hi."]), settings) as server:
        async with server.client() as client:
            await client.greet()
            await client.ask("My marker is XYZZY")
            await server.http.delete(f"{server.url}/v1/conversations/{conversation_of(client)}")
        slots = server.engine._slots
        assert slots is not None

        def cached() -> str:
            return "".join("".join(map(chr, slot.tokens)) for slot in slots._slots)

        await eventually(lambda: "XYZZY" not in cached(), "the cache holds nothing of it")


async def test_what_the_client_deletes_or_truncates_is_stored_so(settings: Settings) -> None:
    async with running(ScriptedModel(["Hi."]), settings) as server, server.client() as client:
        await greeted(client)
        first = await client.say("One")
        await client.say("Two")
        await client.send(
            "conversation.item.create",
            previous_item_id="root",
            item={"type": "message", "role": "system", "content": [{"type": "input_text", "text": "Zero"}]},
        )
        await client.until("conversation.item.done")
        await client.send("conversation.item.delete", item_id=first["id"])
        await client.expect("conversation.item.deleted")
        items = await items_of(server, conversation_of(client))
        assert [item["content"][0]["text"] for item in items] == ["Zero", "Two"]


async def listed(server: Running) -> list[Any]:
    async with server.http.get(f"{server.url}/v1/conversations") as response:
        data: list[Any] = (await response.json())["data"]
        return data


async def test_settings_survive_a_restart_and_go_with_a_client_that_has_said_nothing(settings: Settings) -> None:
    async with running(ScriptedModel(["Hi."]), settings) as server, server.client() as client:
        token = await greeted(client)
        await client.send("session.update", session={"type": "realtime", "instructions": "Be brief."})
        await client.expect("session.updated")
        await cut(server, client)
    async with running(ScriptedModel(["Hi."]), settings) as server:
        async with back(server, token, client.seen[-1]["event_id"]) as again:
            (first,) = await again.expect("session.updated")
            assert first["session"]["instructions"] == "Be brief."
            assert len(await listed(server)) == 1
        await eventually(lambda: len(server.backend.live) == 0, "it has ended")
        assert server.backend.history is not None
        assert await server.backend.history.load("", conversation_of(client)) is None


async def test_what_is_beside_the_conversation_and_an_idle_session_are_not_stored(settings: Settings) -> None:
    async with running(ScriptedModel(["Hi."]), settings) as server, server.client() as client:
        await greeted(client)
        await client.send("response.create", response={"conversation": "none", "input": []})
        await client.until("response.done")
        assert await listed(server) == []


async def test_the_key_and_the_token_are_both_needed(settings: Settings) -> None:
    keys = ("lq-one", "lq-two")
    kept = settings.model_copy(update={"server": ServerSettings(keys=tuple(map(hash_key, keys)))})
    one, two = ({"Authorization": f"Bearer {key}"} for key in keys)
    async with running(ScriptedModel(["Hi."]), kept) as server, server.client(additional_headers=one) as client:
        token = await greeted(client)
        await client.ask("Hello")
    async with running(ScriptedModel(["Hi."]), kept) as server:
        for headers, given in ((two, token), (one, token + "x"), (one, token.partition(".")[0] + ".")):
            url = f"{server.url}/v1/realtime?session={given}"
            async with aiohttp.ClientSession() as http, http.ws_connect(url, headers=headers) as socket:
                assert (await socket.receive_json())["error"]["code"] == "session_not_found"


async def test_two_sockets_that_come_back_at_once_have_one_session(settings: Settings) -> None:
    async with running(ScriptedModel(["Hi."]), settings) as server:
        client, token = await asked(server)
    async with running(ScriptedModel(["Hi."]), settings) as server:

        async def come() -> int:
            async with back(server, token, client.seen[-1]["event_id"]) as again:
                try:
                    await again.receive()
                    await asyncio.sleep(0.1)
                    await again.receive()
                except ConnectionClosed as closed:
                    return closed.rcvd.code if closed.rcvd else 0
                return 0

        tasks = [asyncio.create_task(come()) for _ in range(4)]
        await eventually(lambda: sum(task.done() for task in tasks) == 3, "three are sent away")
        assert [task.result() for task in tasks if task.done()] == [4001] * 3
        assert len(server.backend.live) == 1
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
