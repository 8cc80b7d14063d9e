"""Pictures of several servers over one Redis: any server shows them, and what happens when Redis is away or hostile."""

import asyncio
import logging
import re
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bench.faults.redis import Redis
from pipelines.events import Picture
from pipelines.image.stage import ImageStage
from pipelines.image.weights import Drawer
from server.config import Settings
from server.links import IMAGES
from server.sharing import images as shared
from server.sharing.images import SharedImageStore
from server.sharing.store import CONNECTIONS
from tests.support import Running, ScriptedModel, drawing, eventually, running, scripted_pipeline, stage_of

BEGINNING = b"\x89PNG\r\n\x1a\n"


@asynccontextmanager
async def servers(redis: Redis, count: int = 2, **sections: Any) -> AsyncIterator[list[Running]]:
    """Servers that share their pictures."""
    image = {"store": redis.url} | sections.pop("image", {})
    settings = Settings.model_validate({"image": image, **sections})
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(running(ScriptedModel(["Hi"]), settings)) for _ in range(count)]


def store(server: Running) -> SharedImageStore:
    images = server.backend.images
    assert isinstance(images, SharedImageStore)
    return images


async def put(server: Running, size: int = 100, conversation: str = "") -> str:
    """A new picture's link, without its origin."""
    picture = Picture(secrets.token_hex(16), "cat", 1, "flat", "tiny", 64, BEGINNING + b"x" * (size - 8))
    return (await server.backend.images.put(picture, "", "", conversation)).url


async def fetch(server: Running, link: str) -> tuple[int, bytes, dict[str, str]]:
    async with server.http.get(server.url + link) as answer:
        return answer.status, await answer.read(), dict(answer.headers)


async def status(server: Running, link: str) -> int:
    return (await fetch(server, link))[0]


async def test_a_picture_that_one_server_drew_is_shown_by_the_other(
    own_redis: Redis, minilm: Path, drawer: Drawer
) -> None:
    settings = Settings.model_validate({"image": {"store": own_redis.url}})
    pipeline = scripted_pipeline(ScriptedModel(["Hi"]), image=drawing(minilm, drawer))
    async with running(pipeline, settings) as one, running(ScriptedModel(["Hi"]), settings) as other:
        await eventually(lambda: stage_of(pipeline, ImageStage).ready, "pictures can be drawn")
        url = f"{one.url}/v1/images/generations"
        async with one.http.post(url, json={"prompt": "happy cat", "n": 2}) as answer:
            assert answer.status == 200
            links = [each["url"].removeprefix(one.url) for each in (await answer.json())["data"]]
        for link in links:
            here, there = await fetch(one, link), await fetch(other, link)
            assert here[0] == there[0] == 200
            assert here[1] == there[1]
            assert there[2]["Content-Type"] == "image/png"
            assert re.fullmatch(r"private, max-age=3\d\d\d, immutable", there[2]["Cache-Control"])
            forged = link[:-1] + ("0" if link[-1] != "0" else "1")
            assert await status(other, forged) == 403
        assert 3_500_000 < own_redis.command("PTTL", own_redis.keys("*file*")[0]) <= 3_601_000


async def test_a_server_that_was_started_again_shows_what_it_drew_before(own_redis: Redis) -> None:
    async with servers(own_redis, 1) as (one,):
        link = await put(one)
    async with servers(own_redis, 1) as (one,):
        await eventually(lambda: store(one)._created is not None, "it has the secret")
        assert await status(one, link) == 200


async def test_a_picture_goes_with_its_conversation_from_every_server(own_redis: Redis, tmp_path: Path) -> None:
    history = {"store": f"sqlite:///{tmp_path / 'history.db'}"}
    async with servers(own_redis, history=history) as (one, other):
        async with one.http.post(f"{one.url}/v1/conversations", json={}) as answer:
            id = (await answer.json())["id"]
        link, stays = await put(one, conversation=id), await put(one, conversation="another")
        assert await status(other, link) == 200
        assert not own_redis.keys(f"*{id}*"), "no id of a conversation is in Redis"
        async with other.http.delete(f"{other.url}/v1/conversations/{id}") as answer:
            assert answer.status == 200
        await eventually(lambda: len(own_redis.keys("*file*")) == 1, "it is deleted in Redis")
        assert await status(other, link) == 410
        await eventually(lambda: len(store(one)) == 1, "its server has heard of it")
        assert await status(one, link) == 410
        assert await status(other, stays) == 200


async def test_what_is_deleted_while_redis_is_away_goes_when_it_is_back(own_redis: Redis) -> None:
    async with servers(own_redis, 1) as (one,):
        link = await put(one, conversation="conv_1")
        own_redis.hang()
        try:
            store(one).forget(["conv_1"])
            await eventually(lambda: not store(one)._store.healthy, "it is noticed")
        finally:
            own_redis.go_on()
        await eventually(lambda: not own_redis.keys("*file*"), "it is deleted")
        assert await status(one, link) == 410


async def test_a_redis_that_dies_leaves_links_that_work_here_and_503_elsewhere(
    own_redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    async with servers(own_redis) as (one, other):
        before = await put(one)
        assert await status(other, before) == 200
        own_redis.stop()
        begun = time.monotonic()
        link = await put(one)
        assert time.monotonic() - begun < 5
        assert await status(one, link) == 200
        code, body, headers = await fetch(other, link)
        assert (code, headers["Retry-After"]) == (503, "2")
        assert b"images_unavailable" in body
        assert await status(one, before) == 200
        own_redis.start()
        await eventually(lambda: len(own_redis.keys("*file*")) == 2, "all pictures are in it again")
        assert await status(other, link) == await status(other, before) == 200
    said = [each.getMessage() for each in caplog.records if "can't be used" in each.getMessage()]
    assert 1 <= len(said) <= 2, "each server says it once"
    assert all("***@127.0.0.1" in each and own_redis.url not in each for each in said)
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


async def test_a_redis_that_was_away_from_the_start_makes_links_good_for_all_once_it_is_there(own_redis: Redis) -> None:
    own_redis.stop()
    async with servers(own_redis) as (one, other):
        link = await put(one)
        assert await status(one, link) == 200
        assert await status(other, link) == 503, "it may be a link of another server"
        own_redis.start()
        await eventually(lambda: None not in (store(one)._created, store(other)._created), "both have its secret")
        assert await status(one, link) == 200, "what was signed before stays good here"
        later = await put(one)
        assert await status(other, later) == 200
        assert await status(other, link) in (200, 403), "which depends on whose secret it became"


async def test_a_redis_that_lost_everything_gets_the_pictures_again(own_redis: Redis) -> None:
    async with servers(own_redis) as (one, other):
        store(one)._look = store(other)._look = 0.1
        links = [await put(one), await put(other)]
        own_redis.command("FLUSHALL")
        await put(one)
        await put(other)
        await eventually(lambda: len(own_redis.keys("*file*")) == 4, "they are there again")
        for link in links:
            assert await status(one, link) == await status(other, link) == 200, "the secret is the same"


async def test_a_redis_that_hangs_delays_a_picture_briefly_and_once(own_redis: Redis) -> None:
    async with servers(own_redis) as (one, other):
        early = await put(one)
        assert await status(other, early) == 200
        own_redis.hang()
        try:
            begun = time.monotonic()
            link = await put(one)
            assert time.monotonic() - begun < 5
            await eventually(lambda: not store(one)._store.healthy, "it is noticed")
            begun = time.monotonic()
            assert await status(one, await put(one)) == 200
            assert time.monotonic() - begun < 0.9, "nothing waits any more"
            assert await status(other, link) == 503
        finally:
            own_redis.go_on()
        await eventually(lambda: len(own_redis.keys("*file*")) == 3, "all are written")
        assert await status(other, link) == 200


@pytest.mark.parametrize(
    "hostile",
    [
        ("SET", "<html><script>alert(1)</script>"),
        ("SET", ""),
        ("LPUSH", "a", "b"),
        ("HSET", "a", "b"),
        ("SETRANGE", str(shared.LARGEST + 1), "x"),
    ],
    ids=lambda hostile: hostile[0] + hostile[1][:6],
)
async def test_what_is_no_picture_is_not_shown(own_redis: Redis, hostile: tuple[str, ...]) -> None:
    async with servers(own_redis) as (one, other):
        link = await put(one)
        key = own_redis.keys("*file*")[0]
        own_redis.command("DEL", key)
        command, *words = hostile
        own_redis.command(command, key, *words)
        assert await status(other, link) == 410
        assert await status(one, link) == 200


@pytest.mark.parametrize("hostile", [("SET", "garbage"), ("LPUSH", "a"), ("SET", "0" * 16 + ":" + "é" * 64)], ids=str)
async def test_a_secret_that_is_none_leaves_links_that_work_here(
    own_redis: Redis, hostile: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    command, *words = hostile
    own_redis.command(command, shared.SECRET, *words)
    async with servers(own_redis) as (one, other):
        link = await put(one)
        assert await status(one, link) == 200
        assert await status(other, link) == 503
        assert await status(one, link.replace(IMAGES, IMAGES + "a")) == 503, "another server may have made it"
    assert "has something else under loquent:pictures:secret" in caplog.text


async def test_a_wrong_set_of_a_conversation_hinders_no_deletion(own_redis: Redis) -> None:
    async with servers(own_redis, 1) as (one,):
        own_redis.command("SET", shared._of("conv_1"), "garbage")
        own_redis.command("SADD", shared._of("conv_2"), "../../x", "a b", "\n")
        await put(one, conversation="conv_2")
        store(one).forget(["conv_1", "conv_2"])
        await eventually(lambda: not own_redis.keys("*file*"), "it is deleted")
        assert own_redis.keys(shared._of("conv_1"))


async def test_what_is_evicted_here_goes_from_redis_too(own_redis: Redis) -> None:
    size = 3 * 1024 * 1024
    async with servers(own_redis, image={"kept_bytes": 8 * 1024 * 1024}) as (one, other):
        links = [await put(one, size) for _ in range(3)]
        await eventually(lambda: len(own_redis.keys("*file*")) == 2, "the oldest went")
        assert await status(other, links[0]) == 410
        code, body, _ = await fetch(other, links[2])
        assert (code, len(body)) == (200, size)


async def test_a_full_redis_leaves_links_that_work_here(own_redis: Redis, caplog: pytest.LogCaptureFixture) -> None:
    async with servers(own_redis, 1) as (one,):
        await put(one)
        own_redis.command("CONFIG", "SET", "maxmemory", "1")
        link = await put(one, 50_000)
        await eventually(lambda: "OutOfMemoryError" in caplog.text, "it is logged")
        assert shared.SECRET not in caplog.text, "no command is repeated"
        assert await status(one, link) == 200
        own_redis.command("CONFIG", "SET", "maxmemory", "0")
        await eventually(lambda: len(own_redis.keys("*file*")) == 2, "it is written once there is room")


async def test_many_who_ask_for_a_picture_wait_for_few_connections(own_redis: Redis) -> None:
    async with servers(own_redis) as (one, other):
        link = await put(one, 200_000)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:

            async def opened() -> int:
                async with http.get(other.url + link) as answer:
                    return len(await answer.read())

            assert set(await asyncio.gather(*(opened() for _ in range(60)))) == {200_000}
        assert store(other)._store.healthy
        assert str(own_redis.command("CLIENT", "LIST")).count("addr=") <= 2 * (2 * CONNECTIONS + 1)  # and laddr


async def test_many_who_ask_for_a_picture_of_a_redis_that_hangs_get_a_503_soon(own_redis: Redis) -> None:
    async with servers(own_redis) as (one, other):
        link = await put(one)
        assert await status(other, link) == 200
        own_redis.hang()
        try:
            begun = time.monotonic()
            assert set(await asyncio.gather(*(status(other, link) for _ in range(30)))) == {503}
            assert time.monotonic() - begun < 10
        finally:
            own_redis.go_on()
        await eventually(lambda: store(other)._store.healthy, "it is used again")
        assert await status(other, link) == 200


async def test_a_server_starts_draws_and_ends_beside_a_redis_that_hangs(own_redis: Redis) -> None:
    own_redis.hang()
    try:
        begun = time.monotonic()
        async with servers(own_redis, 1, limits={"store": own_redis.url, "rates": "on"}) as (one,):
            async with one.http.get(f"{one.url}/v1/models") as answer:
                assert answer.status == 200
            link = await put(one)
            assert await status(one, link) == 200
        assert time.monotonic() - begun < 15
    finally:
        own_redis.go_on()
