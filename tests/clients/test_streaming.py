"""HTTP on the event loop: answers that are whole, cut, refused, or none."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from clients.streaming import HEAD_BYTES, request
from clients.target import Target
from loquent import ConnectionFailedError, RefusedError
from tests.support import ScriptedModel, running


@asynccontextmanager
async def answering(answer: bytes) -> AsyncIterator[tuple[Target, list[bytes]]]:
    """A server that gives every request this answer and closes; and what it was sent."""
    asked: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next((int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length: ")), 0)
        asked.append(head + await reader.readexactly(length))
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        yield Target(f"http://127.0.0.1:{port}/base", "secret", None, {}), asked


async def read(target: Target) -> bytes:
    async with request(target, "/v1/thing", {"text": "é"}) as answer:
        return b"".join([piece async for piece in answer.pieces()])


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=1\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n",
    ],
)
async def test_an_answer_is_read_whole(answer: bytes) -> None:
    async with answering(answer) as (target, asked):
        assert await read(target) == b"hello"
    head, _, body = asked[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /base/v1/thing HTTP/1.1\r\n")
    assert b"\r\nAuthorization: Bearer secret" in head
    assert body.decode() == '{"text": "é"}'


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -9\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-9\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhe",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * (2 * HEAD_BYTES),
    ],
    ids=lambda answer: answer[-20:].decode(),
)
async def test_an_answer_that_is_cut_or_none_is_an_error(answer: bytes) -> None:
    async with answering(answer) as (target, _):
        with pytest.raises(ConnectionFailedError):
            await read(target)


async def test_a_refusal_has_the_servers_words_and_code() -> None:
    async with running(ScriptedModel([])) as server:
        with pytest.raises(RefusedError, match="no voice") as refused:
            async with request(Target(server.url, None, None, {}), "/v1/audio/speech", {"input": "Hi."}):
                pass
    assert refused.value.code == "voice_not_found"


async def test_a_server_that_is_not_there_is_an_error() -> None:
    with pytest.raises(ConnectionFailedError, match="no server at"):
        await read(Target("http://127.0.0.1:9", None, None, {}))
