"""What passes a bridge: HTTP and websockets as they are, how they end, and nothing that is another connection's."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType, web
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from pipelines.events import Turn
from server.cluster.bridge import Bridge
from server.cluster.guard import BRIDGE, CLIENT, FORGET, TENANT
from server.cluster.routes import Target
from server.config import ServerSettings, Settings, hash_key
from tests.server.cluster.bridged import Bridged, bridged, guarded, plain, routes_to
from tests.support import ScriptedModel, eventually, realtime, scripted_pipeline, text_of

GONE = Target("gone", "http://127.0.0.1:9", "s")


async def test_a_request_and_its_response_pass_as_they_are() -> None:
    async def echo(request: web.Request) -> web.Response:
        body = await request.read()
        headers = {"X-Method": request.method, "X-Path": request.raw_path, "X-Given": request.headers.get("X-Own", "")}
        answer = web.Response(
            status=207, body=body, headers={**headers, "Content-Type": "x/y", "Content-Encoding": "z"}
        )
        answer.headers.add("Set-Cookie", "a=1")
        answer.headers.add("Set-Cookie", "b=2")
        return answer

    async with plain(echo) as target, bridged(routes_to(target)) as bridge:
        for body in (b"", b"x" * 1_000_000):
            async with bridge.http.put(f"{bridge.url}/a%2Fb?q=%26&r", data=body, headers={"X-Own": "1"}) as response:
                assert (response.status, await response.read()) == (207, body)
                given = response.headers
                assert (given["X-Method"], given["X-Path"], given["X-Given"]) == ("PUT", "/a%2Fb?q=%26&r", "1")
                assert (given["Content-Type"], given["Content-Encoding"]) == ("x/y", "z")
                assert given.getall("Set-Cookie") == ["a=1", "b=2"]


async def test_both_bodies_pass_piece_by_piece() -> None:
    async def reversed_pieces(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        async for piece in request.content.iter_any():
            await answer.write(piece[::-1])
        return answer

    async def pieces() -> AsyncIterator[bytes]:
        for number in range(5):
            yield f"<{number}>".encode()
            await asyncio.wait_for(came.get(), 5)

    came: asyncio.Queue[bytes] = asyncio.Queue()
    async with plain(reversed_pieces) as target, bridged(routes_to(target)) as bridge:
        seen = []
        async with bridge.http.post(bridge.url, data=pieces()) as response:
            async for piece in response.content.iter_any():
                seen.append(piece)
                await came.put(piece)
        assert b"".join(seen) == b">0<>1<>2<>3<>4<"


async def test_a_client_that_leaves_ends_the_request() -> None:
    ended = asyncio.Event()

    async def endless(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        try:
            await answer.prepare(request)
            while True:
                await answer.write(b"x" * 1000)
                await asyncio.sleep(0.01)
        finally:
            ended.set()

    async def silent(request: web.Request) -> web.StreamResponse:
        try:
            await asyncio.sleep(60)
            raise AssertionError
        finally:
            ended.set()

    for handler in (endless, silent):
        ended.clear()
        async with plain(handler) as target, bridged(routes_to(target)) as bridge:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.5), bridge.http.get(bridge.url) as response:
                    await response.read()
            await asyncio.wait_for(ended.wait(), 5)


async def test_a_server_that_dies_within_a_response_does_not_look_complete() -> None:
    async def dies(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        await answer.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return answer

    async with plain(dies) as target, bridged(routes_to(target)) as bridge:
        with pytest.raises(aiohttp.ClientError):
            async with bridge.http.get(bridge.url) as response:
                await response.read()


@pytest.mark.parametrize("own", [GONE, None])
async def test_where_no_server_answers_it_says_so(own: Target | None) -> None:
    async with bridged(routes_to(own)) as bridge:
        async with bridge.http.get(bridge.url) as response:
            assert (response.status, response.headers["Retry-After"]) == (503, "2")
            assert (await response.json())["error"]["code"] == "gateway_unavailable"
        with pytest.raises(InvalidStatus) as refused:
            async with connect(realtime(bridge.url)):
                pass
        assert refused.value.response.status_code == 503
        assert json.loads(refused.value.response.body or b"")["error"]["code"] == "gateway_unavailable"


async def echoed(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse(protocols=("one", "two"), max_msg_size=0)
    await socket.prepare(request)
    async for message in socket:
        if message.type is WSMsgType.TEXT:
            await socket.send_str(message.data)
        else:
            await socket.send_bytes(message.data)
    return socket


async def test_a_websockets_messages_pass_in_both_directions() -> None:
    options: dict[str, Any] = {"subprotocols": ["two"], "max_size": None}
    async with plain(echoed) as target, bridged(routes_to(target)) as bridge:  # noqa: SIM117
        async with connect(realtime(bridge.url), **options) as socket:
            assert socket.subprotocol == "two"
            sent: list[str | bytes] = ["", "ä" * 100_000, b"", b"\x00\xff" * 100_000]
            for message in sent:
                await socket.send(message)
            assert [await socket.recv() for _ in sent] == sent
            await (await socket.ping())


async def test_how_either_side_closes_a_websocket_the_other_one_sees() -> None:
    codes: list[tuple[int | None, str]] = []

    async def handler(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            _, code, reason = message.data.split(" ", 2)
            await socket.close(code=int(code), message=reason.encode())
        codes.append((socket.close_code, request.query["n"]))
        return socket

    async with plain(handler) as target, bridged(routes_to(target)) as bridge:
        for code, reason in ((1000, ""), (1001, "going"), (4001, "session_taken_over"), (1013, "späte" * 5)):
            async with connect(realtime(bridge.url) + "?n=server") as socket:
                await socket.send(f"close {code} {reason}")
                with pytest.raises(ConnectionClosed) as closed:
                    await socket.recv()
                assert closed.value.rcvd is not None
                assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (code, reason)
        codes.clear()
        for code, seen in ((1000, 1000), (3123, 3123)):
            async with connect(f"{realtime(bridge.url)}?n={code}") as socket:
                await socket.close(code)
            await eventually(lambda at=(seen, str(code)): at in codes, f"it is closed with {code}")  # type: ignore[misc]
        async with connect(realtime(bridge.url) + "?n=cut") as socket:
            socket.transport.abort()
        await eventually(lambda: (1001, "cut") in codes, "a client that vanished is none that has ended")


async def test_a_server_that_vanishes_closes_the_websocket_so_that_its_client_comes_back() -> None:
    async def vanish(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        assert request.transport is not None
        request.transport.abort()
        return socket

    async with plain(vanish) as target, bridged(routes_to(target)) as bridge, connect(realtime(bridge.url)) as socket:
        await socket.send("x")
        with pytest.raises(ConnectionClosed) as closed:
            await socket.recv()
        assert closed.value.rcvd is not None
        assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (1012, "gateway_gone")


async def test_no_more_is_read_of_a_client_than_the_server_takes() -> None:
    taken, go_on = 0, asyncio.Event()

    async def slow(request: web.Request) -> web.WebSocketResponse:
        nonlocal taken
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        await go_on.wait()
        async for message in socket:
            taken += len(message.data)
        return socket

    given, most = 0, 5000
    async with plain(slow) as target:
        bridge = Bridge(routes_to(target))

        async def receive() -> dict[str, object]:
            nonlocal given
            given += 1
            if given == 1:
                return {"type": "websocket.connect"}
            if given > most:
                return {"type": "websocket.disconnect", "code": 1000}
            return {"type": "websocket.receive", "bytes": bytes(10_000)}

        async def send(message: object) -> None:
            pass

        scope = {
            "type": "websocket",
            "path": "/v1/realtime",
            "headers": [],
            "subprotocols": [],
            "client": ("1.2.3.4", 5),
        }
        passing = asyncio.create_task(bridge(scope, receive, send))
        before = -1
        while given != before or given < 10:  # until it stands still
            before = given
            await asyncio.sleep(0.3)
        assert given < most / 2
        go_on.set()
        await asyncio.wait_for(passing, 30)
        await eventually(lambda: taken == (most - 1) * 10_000, "all of it has passed")
        await bridge.close()


async def test_a_refused_handshake_has_its_status_and_body() -> None:
    pipeline = scripted_pipeline(ScriptedModel(["Hi."]))
    async with guarded(pipeline) as server, bridged(routes_to(server.target)) as bridge:
        with pytest.raises(InvalidStatus) as refused:
            async with connect(realtime(bridge.url), origin="https://evil.example"):  # type: ignore[arg-type]
                pass
        assert refused.value.response.status_code == 403
        assert json.loads(refused.value.response.body or b"")["error"]["code"] == "origin_not_allowed"


async def test_a_conversation_passes() -> None:
    pipeline = scripted_pipeline(ScriptedModel(["Hi."]))
    async with guarded(pipeline) as server, bridged(routes_to(server.target)) as bridge:
        async with bridge.client() as client:
            await client.greet()
            assert text_of(await client.ask("Hello")) == "Hi."
        body = {"model": "default", "messages": [{"role": "user", "content": "Hello"}], "stream": True}
        async with bridge.http.post(f"{bridge.url}/v1/chat/completions", json=body) as response:
            assert "data: [DONE]" in await response.text()


async def test_the_server_behind_it_answers_nobody_else_and_sees_the_clients_own_address() -> None:
    key = "sk-test-0123456789012345678901234567890"
    settings = Settings(server=ServerSettings(host="0.0.0.0", keys=(hash_key(key),), trusted_proxies=("127.0.0.1",)))  # noqa: S104
    pipeline = scripted_pipeline(ScriptedModel(["Hi."]))
    async with guarded(pipeline, settings) as server, bridged(routes_to(server.target)) as bridge:
        for headers in ({}, {BRIDGE: "wrong"}):
            async with bridge.http.get(f"{server.target.url}/livez", headers=headers) as response:
                assert response.status == 403
        addresses: list[str] = []
        meter = server.backend.limiter.admit
        server.backend.limiter.admit = lambda caller: addresses.append(caller.address) or meter(caller)  # type: ignore[method-assign,func-returns-value]
        headers = {
            "Authorization": f"Bearer {key}",
            CLIENT: "6.6.6.6",
            BRIDGE: "x",
            "X-Forwarded-For": "9.9.9.9, 8.8.8.8",
        }
        async with bridge.http.get(f"{bridge.url}/v1/models", headers=headers) as response:
            assert response.status == 200
        assert addresses == ["8.8.8.8"], "of this machine, a trusted proxy that says so"
        del headers["X-Forwarded-For"]
        async with bridge.http.get(f"{bridge.url}/v1/models", headers=headers) as response:
            assert response.status == 200
        assert addresses[1:] == ["127.0.0.1"]


async def test_who_a_gateway_asks_for_is_believed_of_gateways_alone() -> None:
    model = ScriptedModel(["Hi."])
    body = {"model": "default", "messages": [{"role": "user", "content": "Hello"}]}
    async with guarded(scripted_pipeline(model)) as server, bridged(routes_to(server.target)) as bridge:
        tenants: list[str] = []
        flow = server.backend.flow

        def noted(turn: Turn, *rest: Any, **more: Any) -> Any:
            tenants.append(turn.tenant)
            return flow(turn, *rest, **more)

        server.backend.flow = noted  # type: ignore[method-assign]
        for url, headers in (
            (server.target.url, {BRIDGE: server.target.secret, TENANT: "%C3%A4%20shop"}),
            (bridge.url, {TENANT: "someone"}),
        ):
            async with bridge.http.post(f"{url}/v1/chat/completions", json=body, headers=headers) as response:
                assert response.status == 200
        assert tenants == ["ä shop", ""]


async def test_what_was_deleted_is_forgotten_by_gateways_word_alone(caplog: pytest.LogCaptureFixture) -> None:
    bridge = Bridge(routes_to(None))
    async with guarded(scripted_pipeline(ScriptedModel(["Hi."]))) as server:
        await bridge.tell(server.target, FORGET, ("shop", "shop/v"))
        assert server.forgotten == ["shop", "shop/v"]
        await bridge.tell(Target("other", server.target.url, "wrong"), FORGET, ("all",))
        await bridge.tell(GONE, FORGET, ("all",))
    assert server.forgotten == ["shop", "shop/v"]
    assert [record.getMessage() for record in caplog.records if record.name == "server.cluster.bridge"] == [
        "other answered /-/forget with 403",
        "gone did not take /-/forget: ClientConnectorError",
    ]
    await bridge.close()


async def test_a_client_comes_back_to_the_gateway_that_holds_its_session() -> None:
    models = [ScriptedModel(["One."]), ScriptedModel(["Two."])]
    one, two = map(scripted_pipeline, models)
    async with guarded(one) as first, guarded(two) as second:
        to_second = routes_to(second.target, GONE, first.target)
        async with bridged(routes_to(first.target)) as before, bridged(to_second) as bridge:
            async with before.client() as client:
                token = (await client.expect("session.created", "conversation.created"))[0]["loquent"]["resume_token"]
                await client.ask("Hello")
                client.socket.transport.abort()
            after = client.seen[-1]["event_id"]
            async with bridge.client(f"?session={token}&after={after}") as again:
                assert text_of(await again.ask("And?")) == "One."
                again.socket.transport.abort()
            await _by_header(bridge, token, again.seen[-1]["event_id"])
            async with bridge.client("?session=sess_unknown.x") as lost:
                assert (await lost.receive())["error"]["code"] == "session_not_found"
            to_second.own, to_second.others = None, (first.target,)  # it ends: the others take what comes
            async with bridge.client() as other:
                await other.greet()
                assert text_of(await other.ask("Hello")) == "One."


async def _by_header(bridge: Bridged, token: str, after: str) -> None:
    headers = {"X-Loquent-Session": token}
    async with bridge.client(f"?after={after}", additional_headers=headers) as again:
        assert text_of(await again.ask("And?")) == "One."
