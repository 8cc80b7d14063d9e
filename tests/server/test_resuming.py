"""Sessions that outlive their sockets: resumed, taken over, or ended when nobody comes back."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from server.config import ServerSettings, SessionsSettings, Settings, hash_key
from tests.support import (
    Client,
    Running,
    ScriptedModel,
    ScriptedVoice,
    eventually,
    realtime,
    running,
    scripted_pipeline,
    scripted_speech,
    sound_of,
    text_of,
    user,
)

COUNT = [f"{number} " for number in range(40)]


def lingering(**sessions: Any) -> Settings:
    return Settings(sessions=SessionsSettings(**sessions))


@asynccontextmanager
async def back(server: Running, token: str, after: str | None = None) -> AsyncIterator[Client]:
    """The client that comes back with this token, and knows the events up to ``after``."""
    url = f"{realtime(server.url)}?session={token}" + (f"&after={after}" if after else "")
    async with connect(url, compression=None, max_size=None) as socket:
        yield Client(socket)


async def greeted(client: Client) -> str:
    """The token with which the client may come back."""
    created, _ = await client.expect("session.created", "conversation.created")
    told = created["loquent"]
    assert told["session"] == created["session"]["id"]
    token: str = told["resume_token"]
    assert token.startswith(told["session"] + ".")
    return token


async def cut(server: Running, client: Client) -> None:
    """The network fails."""
    client.socket.transport.abort()
    await eventually(lambda: not server.backend.connections, "the server has noticed")


def gapless(events: list[dict[str, Any]]) -> None:
    """Nothing is missing among these events of one session, and nothing comes twice."""
    prefix = f"event_{events[0]['session']['id'].removeprefix('sess_')}"
    assert [event["event_id"] for event in events] == [f"{prefix}{n}" for n in range(1, len(events) + 1)]


async def test_a_reply_goes_on_without_its_socket_and_nothing_of_it_is_lost_or_doubled() -> None:
    gate = threading.Semaphore(0)
    model = ScriptedModel(COUNT, gate=gate)
    async with running(model) as server:
        async with server.client() as client:
            token = await greeted(client)
            await client.say("Count")
            await client.send("response.create")
            await client.until("rate_limits.updated")
            gate.release(3)
            while not text_of(client.seen).startswith("0 1"):
                await client.receive()
            await cut(server, client)
        gate.release(1000)
        await eventually(lambda: server.engine.running == 0, "the reply is made, and nobody listens")
        async with back(server, token, client.seen[-1]["event_id"]) as again:
            rest = await again.until("response.done")
            seen = [*client.seen, *rest]
            assert text_of(seen) == "".join(COUNT)
            gapless(seen)
            assert [event["type"] for event in seen].count("response.done") == 1
            assert rest[-1]["response"]["status"] == "completed"
            assert text_of(await again.ask("And on")) == "".join(COUNT)
        assert len(model.prompts) == 2
        assert "".join(COUNT) in model.prompts[1], "the conversation is the same"


async def test_what_was_written_to_a_broken_socket_comes_again() -> None:
    async with running(ScriptedModel(COUNT)) as server:
        async with server.client() as client:
            token = await greeted(client)
            await client.say("Count")
            await client.send("response.create")
            known = client.seen[-1]["event_id"]
            await client.until("response.done")  # which the client's program never sees
            await cut(server, client)
        async with back(server, token, known) as again:
            events = await again.until("response.done")
        gapless([*client.seen[: len(client.seen) - len(events)], *events])


async def test_a_client_without_the_last_event_gets_all_that_is_held() -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        async with server.client() as client:
            token = await greeted(client)
            await client.ask("Hello")
            await cut(server, client)
        async with back(server, token) as again:
            events = await again.until("response.done")
        assert events == client.seen[1:], "it has the first one, which has its token"


async def test_sound_goes_on_without_its_socket() -> None:
    words = [f"word{number} " for number in range(30)]
    speech = scripted_speech(ScriptedVoice(word=0.1))
    async with running(scripted_pipeline(ScriptedModel(words), speech=speech)) as server:
        async with server.client() as client:
            token = await greeted(client)
            await client.say("Say much")
            await client.send("response.create", response={"output_modalities": ["audio"]})
            await client.until("response.output_audio.delta")
            await cut(server, client)
        async with back(server, token, client.seen[-1]["event_id"]) as again:
            seen = [*client.seen, *await again.until("response.done")]
        gapless(seen)
        assert len(sound_of(seen)) == pytest.approx(30 * 0.1 * 24_000 * 2, rel=0.02)


async def test_a_second_socket_takes_the_session_over() -> None:
    async with running(ScriptedModel(["Hi"])) as server, server.client() as first:
        token = await greeted(first)
        async with back(server, token, first.seen[-1]["event_id"]) as second:
            with pytest.raises(ConnectionClosed) as closed:
                await first.receive()
            assert closed.value.rcvd is not None
            assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4001, "session_taken_over")
            assert text_of(await second.ask("Hello")) == "Hi"
            gapless([*first.seen, *second.seen])
            await eventually(lambda: len(server.backend.connections) == 1, "the first socket is gone")
        await eventually(lambda: len(server.backend.live) == 0, "it was closed for good")


async def test_an_event_that_an_earlier_socket_brought_is_dropped() -> None:
    model = ScriptedModel(["Hi"])
    async with running(model) as server:
        async with server.client() as client:
            token = await greeted(client)
            await client.send("conversation.item.create", item=user("Hello"), event_id="one")
            await client.send("response.create", event_id="two")
            await client.until("response.done")
            await cut(server, client)
        async with back(server, token, client.seen[-1]["event_id"]) as again:
            await again.send("conversation.item.create", item=user("Hello"), event_id="one")
            await again.send("response.create", event_id="two")
            await again.send("conversation.item.create", item=user("More"), event_id="three")
            assert [event["type"] for event in await again.until("conversation.item.done")] == [
                "conversation.item.added",
                "conversation.item.done",
            ]
            await again.send("conversation.item.create", item=user("More"), event_id="three")
            await again.send("conversation.item.create", item=user("Again"), event_id="four")
            events = await again.until("conversation.item.done")
            assert [event["item"]["content"][0]["text"] for event in events] == ["Again", "Again"]
    assert len(model.prompts) == 1


async def test_a_client_that_never_came_back_may_use_an_event_id_again() -> None:
    model = ScriptedModel(["Hi"])
    async with running(model) as server, server.client() as client:
        await client.greet()
        for _ in range(3):
            await client.send("response.create", event_id="event_123")
            await client.until("response.done")
    assert len(model.prompts) == 3


async def test_a_client_that_is_too_far_behind_gets_the_items_and_a_clear_event() -> None:
    async with running(ScriptedModel(COUNT), lingering(replay_bytes=2048)) as server:
        async with server.client() as client:
            token = await greeted(client)
            known = client.seen[-1]["event_id"]
            await client.ask("Count")
            await client.ask("Count again")
            await cut(server, client)
        async with back(server, token, known) as again:
            (first,) = await again.expect("session.updated")
            resumed = first["loquent"]["resumed"]
            assert not resumed["complete"]
            events = [first, *await again.until("response.done"), *await again.until("response.done")]
            items = {
                event["item"]["id"]: event["item"] for event in events if event["type"] == "conversation.item.done"
            }
            assert list(items) == resumed["items"]
            assert len(items) == 4
            ends = [event["response"] for event in events if event["type"] == "response.done"]
            assert [end["output"][0]["content"][0]["text"] for end in ends] == ["".join(COUNT)] * 2
            done = [event["event_id"] for event in client.seen if event["type"] == "response.done"]
            assert len(done) == 2
            assert text_of(await again.ask("Once more")) == "".join(COUNT)


async def test_a_session_that_nobody_comes_back_to_ends() -> None:
    gate = threading.Semaphore(0)
    async with running(ScriptedModel(COUNT, gate=gate), lingering(linger=0.05)) as server:
        async with server.client() as client:
            token = await greeted(client)
            await client.say("Count")
            await client.send("response.create")
            await client.until("rate_limits.updated")
            await cut(server, client)
        await eventually(lambda: len(server.backend.live) == 0, "it has ended")
        gate.release(1000)
        await eventually(lambda: server.engine.running == 0, "its reply is stopped")
        assert await answer(server, token) == ("session_not_found", 4004)


async def answer(server: Running, token: str, after: str = "", **options: Any) -> tuple[str, int]:
    """The error and the close code with which a session is refused."""
    async with back(server, token, after or None) as client:
        error = await client.receive()
        with pytest.raises(ConnectionClosed) as closed:
            await client.receive()
    assert closed.value.rcvd is not None
    return error["error"]["code"], closed.value.rcvd.code


async def test_a_wrong_token_or_event_is_refused() -> None:
    async with running(ScriptedModel(["Hi"])) as server, server.client() as client:
        token = await greeted(client)
        assert await answer(server, token + "x") == ("session_not_found", 4004)
        assert await answer(server, token.partition(".")[0]) == ("session_not_found", 4004)
        assert await answer(server, "sess_0.none") == ("session_not_found", 4004)
        for after in ("event_1", "x", client.seen[0]["event_id"] + "x", "event_" + "0" * 16 + "1"):
            assert await answer(server, token, after) == ("invalid_after", 4000)
        assert text_of(await client.ask("Hello")) == "Hi"


async def test_another_key_does_not_open_the_session() -> None:
    keys = ("lq-one", "lq-two")
    settings = Settings(server=ServerSettings(keys=tuple(map(hash_key, keys))))
    async with running(ScriptedModel(["Hi"]), settings) as server:
        one, two = ({"Authorization": f"Bearer {key}"} for key in keys)
        async with server.client(additional_headers=one) as client:
            token = await greeted(client)
            url = f"{realtime(server.url)}?session={token}"
            async with connect(url, additional_headers=two) as socket:
                assert (await Client(socket).receive())["error"]["code"] == "session_not_found"
            assert text_of(await client.ask("Hello")) == "Hi"


async def test_a_client_that_says_goodbye_does_not_linger() -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        async with server.client() as client:
            await client.greet()
            await client.ask("Hello")
        await eventually(lambda: len(server.backend.live) == 0, "it has ended")


@pytest.mark.parametrize("code", [1001, 1011, 3000])
async def test_a_client_that_closes_for_another_reason_may_come_back(code: int) -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        async with server.client() as client:
            token = await greeted(client)
            await client.socket.close(code)
        await eventually(lambda: server.backend.live.lingering == 1, "it lingers")
        async with back(server, token, client.seen[-1]["event_id"]) as again:
            assert text_of(await again.ask("Hello")) == "Hi"


async def test_a_session_that_cannot_linger_has_no_token() -> None:
    async with running(ScriptedModel(["Hi"]), lingering(linger=0)) as server, server.client() as client:
        created, _ = await client.expect("session.created", "conversation.created")
        assert "loquent" not in created


async def test_a_shutdown_waits_for_a_reply_whose_client_is_away() -> None:
    gate = threading.Semaphore(0)
    async with running(ScriptedModel(COUNT, gate=gate)) as server:
        async with server.client() as client:
            await greeted(client)
            await client.say("Count")
            await client.send("response.create")
            await client.until("rate_limits.updated")
            await cut(server, client)
        sessions = server.backend.live
        sessions.drain()
        settled = asyncio.create_task(sessions.settled())
        await asyncio.sleep(0)
        assert not settled.done()
        gate.release(1000)
        await settled
        assert len(sessions) == 0


async def test_those_that_linger_are_bounded_and_the_longest_goes() -> None:
    settings = Settings(limits={"connections": 2})  # type: ignore[arg-type]
    async with running(ScriptedModel(["Hi"]), settings) as server:
        tokens = []
        for _ in range(3):
            async with server.client() as client:
                tokens.append(await greeted(client))
                await cut(server, client)
        await eventually(lambda: len(server.backend.live) == 2, "one had to go")
        assert await answer(server, tokens[0]) == ("session_not_found", 4004)
        async with back(server, tokens[1]) as again:
            await again.expect("conversation.created")
