"""The websocket through the real server: order, promises, and clients that misbehave."""

import asyncio
import gc
import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from pipelines.chat.engine.mailbox import Mailbox
from pipelines.chat.engine.stream import Stream
from pipelines.events import Message, Tool
from server.auth import new_key
from server.config import LimitSettings, ModelsSettings, ServerSettings, SessionsSettings, Settings, hash_key
from server.realtime.connection import Connection
from server.realtime.live import LiveSession
from server.realtime.session import State
from tests.support import (
    PATIENCE,
    Client,
    Running,
    ScriptedModel,
    echo,
    eventually,
    realtime,
    running,
    scripted_pipeline,
    text_of,
    user,
    validate,
)

TURN = [
    "response.created",
    "rate_limits.updated",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
]
END = [
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
    "conversation.item.done",
    "response.done",
]


async def test_a_text_turn_comes_in_the_protocols_order() -> None:
    async with running(ScriptedModel(["Hel", "lo", "."])) as server, server.client() as client:
        await client.greet()
        events = await client.ask("Hi")
    kinds = [event["type"] for event in events]
    deltas = kinds[len(TURN) : -len(END)]
    assert kinds == [*TURN, *deltas, *END]
    assert set(deltas) == {"response.output_text.delta"}
    assert text_of(events) == events[-5]["text"] == "Hello."
    response = events[-1]["response"]
    assert response["status"] == "completed"
    assert response["usage"]["output_tokens"] == 3
    assert len({event["event_id"] for event in client.seen}) == len(client.seen)


async def test_metadata_is_echoed_and_conversations_go_on() -> None:
    model = ScriptedModel(["Yes."])
    async with running(model) as server, server.client() as client:
        await client.greet()
        await client.ask("One")
        await client.say("Two")
        await client.send("response.create", response={"metadata": {"client_event_id": "x"}})
        events = await client.until("response.done")
    assert events[0]["response"]["metadata"] == events[-1]["response"]["metadata"] == {"client_event_id": "x"}
    assert model.prompts[1] == "user: One\nassistant: Yes.\nuser: Two"


async def test_a_conversation_that_outgrows_the_context_goes_on() -> None:
    model = ScriptedModel(["Yes."], context=200)
    async with running(model) as server, server.client() as client:
        await client.greet()
        await client.send("session.update", session={"type": "realtime", "instructions": "Be kind."})
        await client.expect("session.updated")
        for number in range(12):
            events = await client.ask(f"Question {number} of many words")
            assert events[-1]["response"]["status"] == "completed"
    assert model.prompts[-1].startswith("system: Be kind.")
    assert "Question 0" not in model.prompts[-1]
    assert model.prompts[-1].endswith("Question 11 of many words")


async def test_with_truncation_disabled_a_long_conversation_fails_the_response() -> None:
    async with running(ScriptedModel(["Yes."], context=60)) as server, server.client() as client:
        await client.greet()
        await client.send("session.update", session={"type": "realtime", "truncation": "disabled"})
        await client.expect("session.updated")
        await client.ask("A first question")
        events = await client.ask("And a second one that is a little longer")
    response = events[-1]["response"]
    assert (response["status"], response["status_details"]["error"]["code"]) == ("failed", "context_length_exceeded")


async def test_a_cancel_ends_the_response_and_stops_the_model_within_one_step() -> None:
    gate = threading.Semaphore(1)
    async with running(ScriptedModel("abcdefgh", gate=gate)) as server, server.client() as client:
        await client.greet()
        await client.say("Hi")
        await client.send("response.create")
        await client.until("response.output_text.delta")
        await eventually(lambda: server.engine.steps == 2, "the second token is under way")
        await client.send("response.cancel")
        events = await client.until("response.done")
        gate.release(100)
        await eventually(lambda: server.engine.running == 0, "the stream is gone")
        assert server.engine.steps == 2, "the step under way ended, and no other began"
        assert events[-1]["response"]["status_details"] == {"type": "cancelled", "reason": "client_cancelled"}
        await client.send("response.cancel", event_id="again")
        (error,) = await client.expect("error")
        assert (error["error"]["code"], error["error"]["event_id"]) == ("response_cancel_not_active", "again")
        assert text_of(await client.ask("And now?")) == "abcdefgh", "the session goes on"


async def test_responses_out_of_band_run_beside_the_conversations() -> None:
    async with running(ScriptedModel(echo)) as server, server.client() as client:
        await client.greet()
        await client.say("one two three")
        await client.send("response.create", response={"metadata": {"which": "in"}})
        aside = {"conversation": "none", "input": [user("four five")], "metadata": {"which": "out"}}
        await client.send("response.create", response=aside)
        events = await client.until("response.done")
        events += await client.until("response.done")
    ids = {e["response"]["metadata"]["which"]: e["response"]["id"] for e in events if e["type"] == "response.created"}
    said = {which: text_of(e for e in events if e.get("response_id") == id) for which, id in ids.items()}
    assert said == {"in": "one two three ", "out": "four five "}
    added = [event["item"]["id"] for event in events if event["type"] == "conversation.item.added"]
    assert len(added) == 1


async def test_many_clients_get_their_own_replies_and_see_nobody_elses() -> None:
    async def talk(server: Running, name: str) -> None:
        async with server.client() as client:
            await client.greet()
            for turn in range(3):
                words = " ".join(f"{name}-{turn}-{word}" for word in range(10))
                assert text_of(await client.ask(words)).split() == words.split()

    async with running(ScriptedModel(echo)) as server:
        await asyncio.gather(*(talk(server, f"client{number}") for number in range(30)))


async def test_a_prompt_beyond_the_context_fails_its_response_and_the_session_goes_on() -> None:
    async with running(ScriptedModel(["Fine."], context=64)) as server, server.client() as client:
        await client.greet()
        item = await client.say("x" * 100)
        await client.send("response.create")
        events = await client.until("response.done")
        assert [event["type"] for event in events] == ["response.created", "rate_limits.updated", "response.done"]
        error = events[-1]["response"]["status_details"]["error"]
        assert error["code"] == "context_length_exceeded"
        assert "106 tokens" in error["message"]
        await client.send("conversation.item.delete", item_id=item["id"])
        await client.expect("conversation.item.deleted")
        assert text_of(await client.ask("Hi")) == "Fine."


async def test_a_long_conversation_is_trimmed_where_that_is_configured() -> None:
    model = ScriptedModel(["Fine."], context=64)
    pipeline = scripted_pipeline(model, overflow="trim", max_tokens=10)
    async with running(pipeline) as server, server.client() as client:
        await client.greet()
        await client.send("session.update", session={"instructions": "Be kind"})
        await client.expect("session.updated")
        for number in range(5):
            assert text_of(await client.ask(f"message {number}")) == "Fine."
    assert model.prompts[-1].startswith("system: Be kind\n")
    assert model.prompts[-1].endswith("user: message 4")
    assert "message 0" not in model.prompts[-1]


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("{", "invalid_json"),
        (b"\xff\xfe", "invalid_json"),
        ('{"type": 7}', "unknown_event"),
        ('{"type": "response.created"}', "unknown_event"),
        ('{"type": "conversation.item.create", "item": 5}', "invalid_value"),
        ('{"type": "session.update", "session": {"audio": 5}}', "invalid_value"),
        (json.dumps({"type": "session.update", "session": {"x": "y" * 66_000}}), "message_too_large"),
    ],
)
async def test_what_is_no_event_is_an_error_and_the_session_goes_on(raw: str | bytes, code: str) -> None:
    async with running(ScriptedModel(["Fine."])) as server, server.client() as client:
        await client.greet()
        await client.socket.send(raw)
        (error,) = await client.expect("error")
        assert error["error"]["code"] == code
        assert text_of(await client.ask("Hi")) == "Fine."


async def test_a_message_beyond_every_limit_closes_this_connection_only() -> None:
    async with running(ScriptedModel(["Fine."])) as server, server.client() as other, server.client() as client:
        await other.greet()
        await client.greet()
        with pytest.raises(ConnectionClosed) as closed:
            await client.socket.send("x" * (1024 * 1024 + 1))
            await client.socket.recv()
            await client.socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1009
        assert text_of(await other.ask("Hi")) == "Fine."


async def test_what_a_failing_stage_says_stays_in_the_log() -> None:
    def reply(prompt: str) -> list[str]:
        raise ValueError("a secret of the server")

    async with running(ScriptedModel(reply)) as server, server.client() as client:
        await client.greet()
        events = await client.ask("Hi")
    assert events[-1]["response"]["status"] == "failed"
    assert "secret" not in json.dumps(events)


async def test_a_fault_in_the_session_closes_the_connection_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running(ScriptedModel(["Hi"])) as server, server.client() as client:
        await client.greet()

        def broken(state: State, given: object) -> None:
            raise RuntimeError("a fault of ours")

        monkeypatch.setattr("server.realtime.session.advance", broken)
        await client.send("response.create")
        with pytest.raises(ConnectionClosed) as closed:
            await client.receive()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1011
        await eventually(lambda: not server.backend.connections, "nothing of it is left")


async def test_cancelling_while_the_prompt_is_read_keeps_its_place_until_it_is() -> None:
    model = ScriptedModel(["Hi"])
    reads = threading.Semaphore(0)
    rendered = model.tokenizer.render

    def slow(messages: Sequence[Message], tools: Sequence[Tool] = (), *, prefill: bool = False) -> list[int]:
        reads.acquire(timeout=PATIENCE)
        return rendered(messages, tools, prefill=prefill)

    model.tokenizer.render = slow  # type: ignore[method-assign]
    async with running(scripted_pipeline(model, streams=1, waiting=1)) as server, server.client() as client:
        await client.greet()
        await client.say("Hi")
        for places in (1, 2):
            await client.send("response.create")
            await eventually(lambda places=places: server.engine.queued == places, "it has a place")  # type: ignore[misc]
            await client.send("response.cancel")
            await client.until("response.done")
        await eventually(lambda: server.engine.queued == 1, "only the one that is being read keeps its place")
        reads.release(10)
        await eventually(lambda: server.engine.queued == 0, "both places are free")
        assert text_of(await client.ask("And now?")) == "Hi"


async def test_a_response_that_waits_for_the_model_says_how_many_are_ahead() -> None:
    gate = threading.Semaphore(0)
    pipeline = scripted_pipeline(ScriptedModel("ab", gate=gate), streams=2, waiting=8)
    async with running(pipeline) as server, AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(server.client()) for _ in range(5)]
        ahead = []
        for number, client in enumerate(clients, 1):
            await client.greet()
            await client.send("response.create")
            (created, _) = await client.expect("response.created", "rate_limits.updated")
            ahead.append((created.get("loquent") or {}).get("queue", {}).get("ahead", 0))
            await eventually(lambda number=number: server.engine._admission.held == number, "it is admitted")  # type: ignore[misc]
        assert ahead == [0, 0, 1, 2, 3]
        gate.release(100)
        for client in clients:
            await client.until("response.done")


def kept() -> set[int]:
    """The objects of sessions and requests that are in memory."""
    gc.collect()
    return {id(thing) for thing in gc.get_objects() if type(thing) in (Connection, LiveSession, Mailbox, State, Stream)}


async def test_fifty_clients_that_vanish_leave_nothing_behind() -> None:
    gate = threading.Semaphore(0)
    model = ScriptedModel(lambda prompt: (f"{number} " for number in range(10_000)), gate=gate)

    async def vanish(server: Running) -> None:
        async with server.client() as client:
            await client.greet()
            await client.say("Tell me everything")
            await client.send("response.create")
            await client.until("rate_limits.updated")
            gate.release(2)
            client.socket.transport.abort()

    settings = Settings(sessions=SessionsSettings(linger=0))
    async with running(scripted_pipeline(model, streams=4, waiting=100), settings) as server:
        async with server.client() as client:  # what stays for good is there before the count
            await client.greet()
        await eventually(lambda: not server.backend.connections, "the first one is gone")
        before = kept()  # what log records of other tests hold
        tasks = len(asyncio.all_tasks())
        for _ in range(2):
            await asyncio.gather(*(vanish(server) for _ in range(25)))
            gate.release(100)
        await eventually(lambda: not server.backend.connections, "no connection is left")
        gate.release(100)
        await eventually(lambda: (server.engine.running, server.engine.queued) == (0, 0), "every place is free")
        await eventually(lambda: server.backend.requests == 0, "no request is in flight")
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks, "no task is left")
        await eventually(lambda: not kept() - before, "nothing of those sessions is in memory")


async def test_a_client_that_stops_reading_is_dropped_while_others_stream_on() -> None:
    limits = LimitSettings(send_seconds=1.0)
    flood = ["0123456789" * 400] * 2500  # 10 MB, more than every buffer on the way

    def reply(prompt: str) -> list[str]:
        return flood if "flood" in prompt else [f"{number} " for number in range(200)]

    pipeline = scripted_pipeline(ScriptedModel(reply), streams=16, max_tokens=10_000)
    async with (
        running(pipeline, Settings(limits=limits)) as server,
        server.client(max_queue=1, close_timeout=0.1) as deaf,
    ):
        await deaf.greet()
        await deaf.say("flood")
        await deaf.send("response.create")
        await deaf.until("response.output_text.delta")
        # From here on nobody reads this socket.

        async def listen() -> None:
            async with server.client() as client:
                await client.greet()
                while len(server.backend.connections) > 15:
                    assert text_of(await client.ask("count")).split() == [str(n) for n in range(200)]
                assert text_of(await client.ask("count")).split() == [str(n) for n in range(200)]

        await asyncio.gather(*(listen() for _ in range(15)))
        await eventually(lambda: server.engine.running == 0, "its place is free")
        assert server.backend.metrics.dropped._value.get() == 1


async def test_a_slow_reader_gets_everything() -> None:
    pieces = ["0123456789" * 100] * 3000  # 3 MB
    pipeline = scripted_pipeline(ScriptedModel(pieces), max_tokens=10_000)
    async with running(pipeline) as server, server.client(max_queue=1) as client:
        await client.greet()
        await client.say("go")
        await client.send("response.create")
        await client.until("response.output_text.delta")
        await eventually(lambda: server.engine.running == 0, "the engine waits for no reader")
        await client.until("response.done")
        assert text_of(client.seen) == "".join(pieces)


async def test_a_place_that_nobody_has_fails_the_response_clearly() -> None:
    gate = threading.Semaphore(0)
    pipeline = scripted_pipeline(ScriptedModel("ab", gate=gate), streams=1, waiting=0)
    async with running(pipeline) as server, server.client() as one, server.client() as two:
        await one.greet()
        await two.greet()
        await one.say("Hi")
        await one.send("response.create")
        await eventually(lambda: server.engine.running == 1, "the only place is taken")
        events = await two.ask("Hi")
        assert events[-1]["response"]["status_details"]["error"]["code"] == "server_overloaded"
        gate.release(10)
        assert text_of(await one.until("response.done")) == "ab"
        assert text_of(await two.ask("And now?")) == "ab"


# The doors


async def refused(url: str, **options: Any) -> int:
    with pytest.raises(InvalidStatus) as refusal:
        async with connect(url, **options):
            pass
    return refusal.value.response.status_code


async def closed(url: str, **options: Any) -> tuple[str, int, str]:
    """What a client sees whose websocket is refused: the error's code, the close code and its reason."""
    async with asyncio.timeout(PATIENCE), connect(url, **options) as socket:
        event = json.loads(await socket.recv())
        validate(event)
        with pytest.raises(ConnectionClosed) as end:
            await socket.recv()
    assert event["type"] == "error"
    assert end.value.rcvd is not None
    return event["error"]["code"], end.value.rcvd.code, end.value.rcvd.reason


NO_KEY = ("invalid_api_key", 3000, "invalid_request_error.invalid_api_key")


async def test_a_foreign_page_may_not_connect() -> None:
    settings = Settings(server=ServerSettings(allowed_origins=("https://shop.example",)))
    async with running(ScriptedModel(["Hi"]), settings) as server:
        url = realtime(server.url)
        assert await refused(url, origin="https://evil.example") == 403
        assert await refused(url, origin="null") == 403
        assert await refused(url, origin="http://localhost:1") == 403
        for origin in (None, "https://shop.example", server.url):
            async with connect(url, origin=None if origin is None else Origin(origin)) as socket:
                assert await socket.recv()


async def test_a_name_that_was_made_to_point_here_may_not_connect() -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        host, port = server.url.removeprefix("http://").split(":")
        assert await refused(f"ws://evil.example:{port}/v1/realtime", host=host, port=int(port)) == 421
        async with connect(f"ws://localhost:{port}/v1/realtime", host=host, port=int(port)) as socket:
            assert await socket.recv()


async def test_a_key_opens_the_door_in_every_way_that_clients_have() -> None:
    key = new_key()
    settings = Settings(server=ServerSettings(keys=(hash_key(new_key()), hash_key(key))))
    async with running(ScriptedModel(["Hi"]), settings) as server:
        url = realtime(server.url)
        assert await closed(url) == NO_KEY
        assert await closed(url, additional_headers={"Authorization": "Bearer lq-wrong"}) == NO_KEY
        assert await closed(url, additional_headers={"Authorization": key}) == NO_KEY
        assert await closed(url, additional_headers={"api-key": "lq-wrong"}) == NO_KEY
        assert await closed(url, subprotocols=["realtime", "openai-insecure-api-key.lq-wrong"]) == NO_KEY
        assert not server.backend.connections
        await eventually(lambda: server.backend.requests == 0, "what was refused holds nothing")
        async with connect(url, additional_headers={"api-key": key}) as socket:
            assert await socket.recv()
        async with connect(url, additional_headers={"Authorization": f"Bearer {key}"}) as socket:
            assert await socket.recv()
        async with connect(
            url, subprotocols=[Subprotocol("realtime"), Subprotocol(f"openai-insecure-api-key.{key}")]
        ) as socket:
            assert socket.subprotocol == "realtime"
        alone = Subprotocol(f"openai-insecure-api-key.{key}")
        async with connect(url, subprotocols=[alone]) as socket:
            assert socket.subprotocol == alone, "a browser wants one of those that it offers"


async def test_a_refused_client_that_does_not_close_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.realtime.refusal.SECONDS", 0.2)
    settings = Settings(server=ServerSettings(keys=(hash_key(new_key()),)))
    async with running(ScriptedModel(["Hi"]), settings) as server:
        host, port = server.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(
            f"GET /v1/realtime HTTP/1.1\r\nHost: {host}:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
        )
        async with asyncio.timeout(PATIENCE):
            assert b"invalid_api_key" in await reader.read()
        await eventually(lambda: server.backend.requests == 0, "it is gone")
        writer.close()


async def test_a_flood_of_bad_keys_is_refused_over_http(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.realtime.refusal.MOST", 0)
    settings = Settings(server=ServerSettings(keys=(hash_key(new_key()),)))
    async with running(ScriptedModel(["Hi"]), settings) as server:
        assert await refused(realtime(server.url)) == 401
        assert server.backend.refusing == 0


async def test_a_bad_key_without_a_websocket_is_a_401() -> None:
    settings = Settings(server=ServerSettings(keys=(hash_key(new_key()),)))
    async with running(ScriptedModel(["Hi"]), settings) as server, server.http.get(f"{server.url}/v1/realtime") as got:
        assert got.status == 401


async def test_what_is_not_here_is_said_on_the_websocket() -> None:
    settings = Settings(models=ModelsSettings(unknown="error"))
    async with running(ScriptedModel(["Hi"]), settings) as server:
        url = realtime(server.url)
        unknown = ("model_not_found", 4004, "invalid_request_error.model_not_found")
        assert await closed(f"{url}?model=nobody") == unknown
        ears = ("transcription_not_supported", 4000, "invalid_request_error.transcription_not_supported")
        assert await closed(f"{url}?intent=transcription") == ears
        call = ("call_id_not_found", 4004, "invalid_request_error.call_id_not_found")
        assert await closed(f"{url}?call_id=rtc_1") == call
        beta = ["realtime", "openai-beta.realtime-v1"]
        assert await closed(url, subprotocols=beta) == BETA


BETA = ("beta_api_shape_disabled", 4000, "invalid_request_error.beta_api_shape_disabled")
BETA_HEADER = {"OpenAI-Beta": "realtime=v1"}


@pytest.mark.parametrize(
    ("headers", "event"),
    [
        ({}, {"type": "session.update", "session": {"modalities": ["text"], "temperature": 0.7}}),
        ({}, {"type": "session.update", "session": {"voice": "alloy", "turn_detection": None}}),
        ({}, {"type": "response.create", "response": {"modalities": ["text"]}}),
        (BETA_HEADER, {"type": "response.create"}),
        (BETA_HEADER, {"type": "session.update", "session": {"instructions": "Be kind."}}),
    ],
)
async def test_a_client_of_the_beta_protocol_is_sent_away(headers: dict[str, str], event: dict[str, Any]) -> None:
    async with running(ScriptedModel(["Hi"])) as server, server.client(additional_headers=headers) as client:
        await client.greet()
        await client.send(**event, event_id="mine")
        (error,) = await client.expect("error")
        assert (error["error"]["code"], error["error"]["event_id"]) == (BETA[0], "mine")
        with pytest.raises(ConnectionClosed) as end:
            await client.socket.recv()
        assert end.value.rcvd is not None
        assert (end.value.rcvd.code, end.value.rcvd.reason) == BETA[1:]
        await eventually(lambda: not server.backend.connections, "it is gone")


@pytest.mark.parametrize(
    ("headers", "settings_sent", "response"),
    [
        (BETA_HEADER, {"type": "realtime"}, {}),
        (BETA_HEADER, {"type": "realtime"}, {"modalities": ["text"], "voice": "alloy"}),  # as Mastra's
        ({}, {"type": "realtime", "temperature": 0.8, "voice": "alloy"}, {}),
        ({}, {"instructions": "Be kind."}, {}),
    ],
)
async def test_a_client_that_speaks_ga_may_send_what_only_beta_knew(
    headers: dict[str, str], settings_sent: dict[str, Any], response: dict[str, Any]
) -> None:
    async with running(ScriptedModel(["Hi"])) as server, server.client(additional_headers=headers) as client:
        await client.greet()
        await client.send("session.update", session=settings_sent)
        await client.expect("session.updated")
        await client.send("response.create", response=response)
        assert (await client.until("response.done"))[-1]["response"]["status"] == "completed"


async def test_a_key_is_in_no_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    key = new_key()
    settings = Settings(server=ServerSettings(keys=(hash_key(key),)))
    async with running(ScriptedModel(["Hi"]), settings) as server:
        async with connect(realtime(server.url), subprotocols=[Subprotocol(f"openai-insecure-api-key.{key}")]):
            pass
        wrong = [f"openai-insecure-api-key.{key}x"]
        assert await closed(realtime(server.url), subprotocols=wrong) == NO_KEY
    logged = [record.getMessage() for record in caplog.records if not record.name.startswith("websockets")]
    assert logged
    assert not [line for line in logged if key in line]


async def test_no_more_connections_than_there_are_places() -> None:
    settings = Settings(limits=LimitSettings(connections=2))
    async with running(ScriptedModel(["Hi"]), settings) as server:
        async with server.client(), server.client():
            await eventually(lambda: len(server.backend.connections) == 2, "both places are taken")
            assert await refused(realtime(server.url)) == 503
        await eventually(lambda: not server.backend.connections, "both are free")
        async with server.client() as client:
            await client.greet()


async def test_a_silent_peer_is_noticed_by_its_heartbeat() -> None:
    settings = Settings(limits=LimitSettings(heartbeat=0.2))
    async with running(ScriptedModel(["Hi"]), settings) as server:
        reader, writer = await asyncio.open_connection(*server.url.removeprefix("http://").split(":"))
        host = server.url.removeprefix("http://")
        writer.write(
            f"GET /v1/realtime HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        await reader.readuntil(b"\r\n\r\n")
        await eventually(lambda: len(server.backend.connections) == 1, "it is connected")
        await eventually(lambda: not server.backend.connections, "it answered no ping and is gone")
        writer.close()


async def handshake(server: Running) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A websocket whose bytes the test writes itself."""
    host = server.url.removeprefix("http://")
    reader, writer = await asyncio.open_connection(*host.split(":"))
    writer.write(
        f"GET /v1/realtime HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def test_a_frame_that_comes_byte_by_byte_is_no_sign_of_life() -> None:
    settings = Settings(limits=LimitSettings(heartbeat=0.3))
    async with asyncio.timeout(PATIENCE), running(ScriptedModel(["Hi"]), settings) as server:
        _, writer = await handshake(server)
        await eventually(lambda: len(server.backend.connections) == 1, "it is connected")
        writer.write(bytes([0x81, 0xFE, 0x10, 0x00, 0, 0, 0, 0]))  # a text of 4096 bytes begins
        while server.backend.connections:
            writer.write(b" ")
            await asyncio.sleep(0.02)
        writer.close()


async def test_a_client_that_answers_pings_stays() -> None:
    settings = Settings(limits=LimitSettings(heartbeat=0.1))
    async with running(ScriptedModel(["Hi"]), settings) as server, server.client(ping_interval=None) as client:
        await client.greet()
        (connection,) = server.backend.connections
        assert isinstance(connection, Connection)
        for _ in range(3):
            await eventually(lambda: connection._pinging is not None, "it is asked for a sign of life")
            connection._pinging = None
        assert text_of(await client.ask("Hi")) == "Hi"


async def test_a_peers_ping_is_answered() -> None:
    async with running(ScriptedModel(["Hi"])) as server, server.client() as client:
        await client.greet()
        async with asyncio.timeout(PATIENCE):
            await (await client.socket.ping(b"there?"))


async def test_audio_that_nobody_listens_to_is_not_held_while_its_client_does_not_read() -> None:
    async with running(ScriptedModel(["Hi"])) as server, server.client(max_queue=1) as client:
        await client.greet()
        (connection,) = server.backend.connections
        assert isinstance(connection, Connection)
        audio = json.dumps({"type": "input_audio_buffer.append", "audio": "A" * 900_000})
        for _ in range(20):
            await client.socket.send(audio)
        assert not connection.live.log.full
        await client.send("input_audio_buffer.clear")
        await client.until("input_audio_buffer.cleared")


# The end


async def test_a_shutdown_lets_replies_finish_and_closes_idle_connections() -> None:
    gate = threading.Semaphore(1)

    async def last_words(client: Client) -> str:
        await client.until("response.done")
        with pytest.raises(ConnectionClosed) as closed:
            await client.socket.recv()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        return text_of(client.seen)

    async with asyncio.timeout(PATIENCE), running(ScriptedModel("abc", gate=gate)) as server:
        idle = await connect(realtime(server.url))
        busy = Client(await connect(realtime(server.url)))
        await busy.greet()
        await busy.say("Hi")
        await busy.send("response.create")
        await busy.until("response.output_text.delta")
        finishing = asyncio.create_task(last_words(busy))
        url = server.url
        backend = server.backend

        async def release() -> None:
            await idle.wait_closed()
            assert idle.close_code == 1001
            assert not backend.ready
            with pytest.raises(ConnectionRefusedError):
                await connect(realtime(url))
            gate.release(10)

        releasing = asyncio.create_task(release())
    await releasing
    assert await finishing == "abc"


async def test_a_shutdown_cuts_what_does_not_end_by_the_deadline() -> None:
    def endless(prompt: str) -> Iterator[str]:
        while True:
            time.sleep(0.005)
            yield "on "

    settings = Settings(server=ServerSettings(drain=0.2))
    pipeline = scripted_pipeline(ScriptedModel(endless), max_tokens=100_000)
    async with asyncio.timeout(PATIENCE), running(pipeline, settings) as server:
        client = Client(await connect(realtime(server.url)))
        await client.greet()
        await client.say("Hi")
        await client.send("response.create")
        await client.until("response.output_text.delta")
    with pytest.raises(ConnectionClosed):
        while True:
            await client.receive()
    assert [event["type"] for event in client.seen].count("response.done") <= 1
