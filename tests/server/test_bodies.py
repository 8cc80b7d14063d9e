"""Bodies of requests through the real server: large, awkward, packed and broken ones."""

import asyncio
import gzip
import io
import json
import zlib
from typing import Any

import pytest

from server import bodies
from server.config import LimitSettings, Settings
from tests.support import Running, ScriptedModel, eventually, running, screening, scripted_pipeline

CHAT = "/v1/chat/completions"
HI = {"messages": [{"role": "user", "content": "Hi"}]}


async def post(server: Running, path: str, data: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
    given = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    async with server.http.post(server.url + path, data=io.BytesIO(data), headers=given) as answer:
        return answer.status, await answer.json()


async def test_512_texts_of_1000_characters_are_embedded_in_one_request() -> None:
    texts = [f"{number} " + "x" * 996 for number in range(512)]  # of few tokens
    pipeline = scripted_pipeline(ScriptedModel(["Hi"]), anomaly=screening())
    async with running(pipeline) as server:
        await eventually(lambda: all(part.ready() for part in pipeline.parts), "the embedder is ready")
        status, answer = await post(server, "/v1/embeddings", json.dumps({"input": texts}).encode())
        assert (status, len(answer["data"])) == (200, 512)
        long = json.dumps({"input": ["a", "x" * 70_000]}).encode()
        status, answer = await post(server, "/v1/embeddings", long)
        assert (status, answer["error"]["param"]) == (413, "input.1")
    assert server.backend.large_bodies == 0


async def test_a_picture_in_a_message_is_not_too_large_to_be_refused_for_being_one() -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
    async with running(ScriptedModel(["Hi"])) as server:
        body = {"messages": [{"role": "user", "content": [picture]}]}
        status, _ = await post(server, CHAT, json.dumps(body).encode())
    assert status == 400


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b",".join([b"[]"] * 60_000) + b"]",
        b"[" + b",".join([b"{}"] * 60_000) + b"]",
        b"{" + b",".join(b'"%x":1' % number for number in range(60_000)) + b"}",
        b'{"input": [' + b",".join([b"1"] * 1_100_000) + b"]}",
    ],
)
async def test_a_body_that_would_take_long_to_parse_is_refused_unparsed(body: bytes) -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        status, answer = await post(server, CHAT, body)
        assert (status, answer["error"]["code"]) == (413, "request_too_complex")
        assert (await post(server, CHAT, json.dumps(HI).encode()))[0] == 200


async def test_signs_within_a_text_are_no_structure() -> None:
    text = '[{"a, \\ ' * 60_000
    async with running(ScriptedModel(["Hi"])) as server:
        status, answer = await post(server, CHAT, json.dumps({"messages": [], "user": text}).encode())
    assert (status, answer["error"]["param"]) == (400, "messages")


async def test_a_body_for_one_text_may_be_as_large_as_a_text() -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        for path in ("/v1/audio/speech", "/v1/images/generations"):
            status, answer = await post(server, path, json.dumps({"input": "x" * 70_000}).encode())
            assert (status, answer["error"]["code"]) == (413, "request_too_large")


async def test_a_large_body_of_unknown_length_is_measured() -> None:
    async def chunks() -> Any:
        for _ in range(20):
            yield b" " * 8_000

    settings = Settings(limits=LimitSettings(body_bytes=100_000))
    async with running(ScriptedModel(["Hi"]), settings) as server:
        async with server.http.post(server.url + CHAT, data=chunks()) as answer:
            assert (answer.status, (await answer.json())["error"]["code"]) == (413, "request_too_large")
        assert server.backend.large_bodies == 0


async def test_large_bodies_are_bounded_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "HELD", 1)
    settings = Settings(limits=LimitSettings(body_bytes=100_000))
    async with running(ScriptedModel(["Hi"]), settings) as server:
        host, port = server.url.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, port)
        head = f"POST {CHAT} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 90000\r\n\r\n"
        writer.write(head.encode())  # and no body
        await eventually(lambda: server.backend.large_bodies == 90_000, "it is waited for")
        status, answer = await post(server, CHAT, b" " * 80_000)
        assert (status, answer["error"]["code"]) == (503, "server_overloaded")
        assert (await post(server, CHAT, json.dumps(HI).encode()))[0] == 200, "small ones go on"
        writer.close()
        await eventually(lambda: server.backend.large_bodies == 0, "who leaves holds nothing")


async def test_a_packed_body_is_unpacked() -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        raw = json.dumps(HI).encode()
        assert (await post(server, CHAT, gzip.compress(raw), Content_Encoding="gzip"))[0] == 200
        assert (await post(server, CHAT, zlib.compress(raw), Content_Encoding="deflate"))[0] == 200


@pytest.mark.parametrize(
    "raw",
    [b"no gzip", gzip.compress(json.dumps(HI).encode())[:-12], b"\x1f\x8b\x08" + b"\xff" * 50],
    ids=["none", "cut", "broken"],  # which the time is no part of
)
async def test_a_body_that_is_not_what_its_encoding_says_is_a_400(raw: bytes) -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        status, answer = await post(server, CHAT, raw, Content_Encoding="gzip")
        assert status == 400
        assert set(answer["error"]) == {"message", "type", "code", "param"}


async def test_an_unknown_encoding_is_a_415() -> None:
    async with running(ScriptedModel(["Hi"])) as server:
        status, answer = await post(server, CHAT, b"{}", Content_Encoding="compress")
    assert (status, answer["error"]["code"]) == (415, "unsupported_encoding")
