"""Terminal clients whose connections break: they come back by themselves, and lose nothing."""

import asyncio
import random
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import pytest

from bench.faults.proxy import Proxy, proxy
from clients.target import Target, session
from loquent import ConnectionFailedError, Done, Session, Text, link
from server.config import SessionsSettings, Settings
from tests.support import Running, ScriptedModel, eventually, running

COUNT = [f"{number} " for number in range(60)]


async def replied(opened: Session, text: str) -> Done:
    """A whole reply, whose pieces add up."""
    pieces: list[str] = []
    async with aclosing(opened.ask(text)) as reply:
        async for piece in reply:
            if isinstance(piece, Done):
                assert "".join(pieces) == piece.text
                return piece
            assert isinstance(piece, Text)
            pieces.append(piece.text)
    raise AssertionError("the reply has no end")


@asynccontextmanager
async def breaking(server: Running, breaks: int) -> AsyncIterator[Proxy]:
    host, port = server.url.removeprefix("http://").split(":")
    async with proxy(host, int(port), breaks, random.Random(3)) as between:
        yield between


async def test_a_conversation_over_connections_that_break_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.faults.proxy.BREAKS", ("reset", "torn", "close-1001", "close-1006", "close-1011"))
    model = ScriptedModel(COUNT)
    said: list[str] = []
    async with (
        running(model) as server,
        breaking(server, 12) as between,
        session(Target.of(url=between.url), waiting=said.append) as opened,
    ):
        turns = 0
        while len(between.breaks) < 12:
            assert (await replied(opened, f"Count {turns}")).text == "".join(COUNT)
            turns += 1
    assert len(model.prompts) == turns
    assert said == ["The connection was lost; coming back …"] * 12


async def test_what_was_sent_into_a_broken_connection_is_sent_again() -> None:
    async with running(ScriptedModel(COUNT)) as server, session(Target.of(url=server.url)) as opened:
        for _ in range(3):
            opened._link._socket.transport.abort()
            await replied(opened, "Count")


async def test_a_server_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "BACK_SECONDS", 0.5)
    async with running(ScriptedModel(COUNT)) as server:
        target = Target.of(url=server.url)
        leaving = session(target)
        opened = await leaving.__aenter__()
    with pytest.raises(ConnectionFailedError, match="shutting down"):
        await replied(opened, "Count")
    await leaving.__aexit__(None, None, None)


async def test_a_session_that_has_ended_is_said_to_have() -> None:
    gate = threading.Semaphore(0)
    settings = Settings(sessions=SessionsSettings(linger=0.01))
    async with running(ScriptedModel(COUNT, gate=gate), settings) as server:
        async with session(Target.of(url=server.url)) as opened:
            asking = asyncio.create_task(replied(opened, "Count"))
            await eventually(lambda: server.engine.running == 1, "it is being answered")
            monkey = opened._link._connect

            async def late(query: str) -> object:
                await eventually(lambda: len(server.backend.live) == 0, "the session has ended")
                socket = await monkey(query)
                await socket.wait_closed()  # the server is faster than what is sent again
                return socket

            opened._link._connect = late  # type: ignore[assignment]
            opened._link._socket.transport.abort()
            await opened.cancel()
            with pytest.raises(ConnectionFailedError, match="no longer has this conversation"):
                await asking
        gate.release(100)


async def test_another_client_that_takes_over_is_not_fought() -> None:
    async with running(ScriptedModel(COUNT)) as server, session(Target.of(url=server.url)) as opened:
        other = await opened._link._connect(f"session={opened._link._token}&after={opened._link._last}")
        with pytest.raises(ConnectionFailedError, match="Another client"):
            await replied(opened, "Count")
        await other.close()
