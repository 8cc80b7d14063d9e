"""The gate before any key is seen."""

import asyncio
from typing import Any

from server.config import LimitSettings, Settings
from server.limits.gate import Gate
from tests.support import ScriptedModel, eventually, running


class Transport(asyncio.Transport):
    def __init__(self, address: str) -> None:
        super().__init__({"peername": (address, 1)})


def gate(most: int) -> Gate:
    return Gate(most, lambda address: address == "10.0.0.1")


def test_one_address_has_an_eighth_of_the_connections() -> None:
    entry = gate(16)
    assert [entry.enter(Transport("198.51.100.1")) for _ in range(3)] == [True, True, False]
    assert entry.enter(Transport("198.51.100.2"))


def test_a_proxy_and_this_machine_have_no_share() -> None:
    entry = gate(16)
    assert all(entry.enter(Transport(address)) for address in ("10.0.0.1", "127.0.0.1", "::1", "") for _ in range(4))
    assert not entry.enter(Transport("127.0.0.1"))


def test_what_left_is_counted_no_more() -> None:
    entry = gate(8)
    transport = Transport("198.51.100.1")
    for _ in range(20):
        assert entry.enter(transport)
        entry.leave(transport)
        entry.leave(transport)
    assert len(entry) == 0


def test_without_a_limit_everything_enters() -> None:
    entry = gate(0)
    assert all(entry.enter(Transport("198.51.100.1")) for _ in range(5000))


async def test_a_connection_too_many_is_answered_503_and_a_websocket_does_not_count() -> None:
    settings = Settings(limits=LimitSettings(http_connections=2))
    async with running(ScriptedModel(["Hi"]), settings) as server:
        host, port = server.url.removeprefix("http://").split(":")

        async def opened() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await asyncio.open_connection(host, port)

        async with server.client() as client:
            await client.greet()
            assert len(server.backend.gate) == 0
            held: list[Any] = [await opened(), await opened()]
            await eventually(lambda: len(server.backend.gate) == 2, "both are connected")
            reader, writer = await opened()
            answer = await reader.read()
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert b"too_many_connections" in answer
            writer.close()
            for _, each in held:
                each.close()
            await eventually(lambda: len(server.backend.gate) == 0, "they are gone")
            async with server.http.get(f"{server.url}/livez") as response:
                assert response.status == 200
