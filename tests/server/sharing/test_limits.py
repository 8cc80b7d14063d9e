"""Limits of several servers over one Redis: real servers, a real Redis, and what happens when it is away or hostile."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bench.faults.redis import Redis
from server.config import LimitSettings
from server.limits.buckets import Buckets
from server.sharing.limits import SharedLimits, hashed
from server.sharing.store import RedisStore, StoreError, StoreMetrics
from tests.server.access.support import Guarded, bearer, guarded, new_key
from tests.support import eventually

SIZE = 20


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@asynccontextmanager
async def servers(file: Path, redis: Redis, count: int = 2, **limits: Any) -> AsyncIterator[list[Guarded]]:
    """Servers that share their limits."""
    settings = LimitSettings.model_validate({"key_requests": SIZE, "store": redis.url} | limits)
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(guarded(file, limits=settings)) for _ in range(count)]


async def ask(given: Guarded, key: str) -> int:
    async with given.server.http.get(f"{given.server.url}/v1/models", headers=bearer(key)) as answer:
        return answer.status


def left(given: Guarded, name: str = "shop") -> float:
    """What is in the bucket of a key's requests here; below 0 is a debt."""
    bucket = given.server.backend.limiter.buckets["key:requests"]
    return bucket.size - bucket.missing(name) * bucket.size / 60


async def sample(given: Guarded, metric: str) -> float:
    text = given.server.backend.metrics.render().decode()
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(metric))


async def test_what_one_server_admits_counts_at_the_other(file: Path, own_redis: Redis) -> None:
    key = new_key(file)
    async with servers(file, own_redis) as (one, other):
        begun = time.monotonic()
        assert {await ask(one, key) for _ in range(SIZE)} == {200}
        await eventually(lambda: bool(own_redis.keys("loquent:limits:key:requests:*")), "it is shared")
        assert await ask(other, key) == 200, "the first one there: it has not learned yet"
        await eventually(lambda: left(other) < 1, "the other has learned of it")
        refilled = (time.monotonic() - begun) * SIZE / 60
        if refilled < 1:
            assert await ask(other, key) == 429
        assert not own_redis.keys("*shop*"), "no name is in Redis"


async def test_a_burst_at_every_server_admits_at_most_a_bucketful_of_each_and_is_a_debt(
    file: Path, own_redis: Redis
) -> None:
    key = new_key(file)
    async with servers(file, own_redis, count=3) as all_of_them:
        begun = time.monotonic()
        statuses = await asyncio.gather(*(ask(each, key) for each in all_of_them for _ in range(2 * SIZE)))
        admitted = statuses.count(200)
        refilled = 3 * (time.monotonic() - begun) * SIZE / 60
        assert admitted <= 3 * SIZE + refilled
        await eventually(
            lambda: max(map(left, all_of_them)) <= SIZE - admitted + (time.monotonic() - begun) * SIZE / 60 + 1,
            "every server counts what all have admitted",
        )


async def test_a_redis_that_dies_leaves_each_server_its_own_limit_and_learns_it_again(
    file: Path, own_redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    key = new_key(file)
    async with servers(file, own_redis) as (one, other):
        assert {await ask(one, key) for _ in range(SIZE - 1)} == {200}
        await eventually(lambda: bool(own_redis.keys()), "it is shared")
        assert await sample(one, 'loquent_shared_store_up{store="limits"}') == 1
        own_redis.stop()
        begun = time.monotonic()
        statuses = [await ask(other, key) for _ in range(SIZE + 5)]
        assert SIZE <= statuses.count(200) <= SIZE + 1 + (time.monotonic() - begun) * SIZE / 60
        await ask(one, key)
        await eventually(lambda: not other.server.backend.sharing._stores[0].healthy, "it is noticed")
        assert await sample(other, 'loquent_shared_store_up{store="limits"}') == 0
        assert await sample(other, 'loquent_shared_store_failures_total{store="limits"}') >= 1
        await asyncio.sleep(1)
        own_redis.start()
        await eventually(lambda: bool(own_redis.keys("loquent:limits:key:requests:*")), "it has the counts again")
        await eventually(lambda: other.server.backend.sharing._stores[0].healthy, "it is used again")
        await ask(one, key)
        await eventually(lambda: left(one) < 2, "what the other admitted meanwhile is known")
    said = [each.getMessage() for each in caplog.records if "can't be used" in each.getMessage()]
    assert len(said) <= 2, "each of both servers says it once"
    assert all("***@127.0.0.1" in each and own_redis.url not in each for each in said)
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


async def test_a_redis_that_hangs_slows_no_request(file: Path, own_redis: Redis) -> None:
    key = new_key(file)
    async with servers(file, own_redis, count=1, key_requests=1000) as (one,):
        assert await ask(one, key) == 200
        own_redis.hang()
        try:
            begun = time.monotonic()
            assert {await ask(one, key) for _ in range(30)} == {200}
            assert time.monotonic() - begun < 10, "each waited less than for one command of Redis"
            await eventually(lambda: not one.server.backend.sharing._stores[0].healthy, "it is noticed")
        finally:
            own_redis.go_on()
        await eventually(lambda: one.server.backend.sharing._stores[0].healthy, "it is used again")


@pytest.mark.parametrize(
    "hostile",
    [
        ("LPUSH", "a", "b"),
        ("SET", "garbage"),
        ("SET", "1"),  # for ever
        ("SET", "1", "PX", "999999999999"),
        ("HSET", "1", "1"),
        ("SADD", "1"),
    ],
    ids=" ".join,
)
async def test_what_others_put_into_redis_leads_to_a_limit_of_ones_own_and_a_warning(
    file: Path, own_redis: Redis, hostile: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    key = new_key(file)
    command, *words = hostile
    name = hashed("key:requests", "shop")
    own_redis.command(command, name, *words)
    async with servers(file, own_redis, count=1) as (one,):
        begun = time.monotonic()
        statuses = [await ask(one, key) for _ in range(SIZE + 5)]
        assert SIZE <= statuses.count(200) <= SIZE + (time.monotonic() - begun) * SIZE / 60
        await eventually(lambda: "counted by this server alone" in caplog.text, "it is logged")
        assert await ask(one, key) in (200, 429)
    assert own_redis.keys(name), "what is another's stays"
    assert caplog.text.count("counted by this server alone") == 1


async def test_a_server_that_is_no_redis_is_said_to_be_none(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(64)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n\xff\xfe")
        writer.close()

    listener = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    key = new_key(file)
    limits = LimitSettings(key_requests=SIZE, store=f"redis://127.0.0.1:{port}/0")
    async with listener, guarded(file, limits=limits) as one:
        assert {await ask(one, key) for _ in range(5)} == {200}
        await eventually(lambda: "each server limits on its own" in caplog.text, "it is logged")


class Losing(RedisStore):
    """A store whose next answers are lost on their way."""

    losing = False

    async def run(self, work: Callable[[Any], Awaitable[Any]]) -> Any:
        answer = await super().run(work)
        if self.losing:
            raise StoreError("lost")
        return answer


@asynccontextmanager
async def shared(redis: Redis) -> AsyncIterator[tuple[Buckets, SharedLimits, Losing]]:
    store = Losing(redis.url, "limits", StoreMetrics(), meanwhile="")
    buckets = Buckets(60)
    limits = SharedLimits(store, {"key:requests": buckets}, interval=0.01)
    await limits.start()
    try:
        yield buckets, limits, store
    finally:
        await limits.close()
        await store.close()


def lives(redis: Redis) -> float:
    """Seconds that the bucket's key lives; below 0 where there is none."""
    return int(redis.command("PTTL", hashed("key:requests", "x"))) / 1000


async def test_a_bucket_in_redis_expires_when_it_is_full(own_redis: Redis) -> None:
    async with shared(own_redis) as (buckets, _, _):
        buckets.take("x", 4)
        await eventually(lambda: bool(own_redis.keys("loquent:*")), "it is shared")
        assert 0 < lives(own_redis) <= 4
        await eventually(lambda: not own_redis.keys("loquent:*"), "it expires")


async def test_tokens_that_are_given_back_are_given_back_to_all(own_redis: Redis) -> None:
    async with shared(own_redis) as (one, _, _), shared(own_redis) as (other, _, _):
        one.take("x", 40)
        await eventually(lambda: lives(own_redis) > 30, "it is reserved")
        one.take("x", -30)
        await eventually(lambda: lives(own_redis) <= 10, "it is given back")
        other.take("x", 1)
        await eventually(lambda: other.missing("x") > 5, "the other learns of what is left")
        assert other.missing("x") <= 11


async def test_what_was_counted_is_not_counted_again_where_the_answer_was_lost(own_redis: Redis) -> None:
    async with shared(own_redis) as (buckets, limits, store):
        await eventually(lambda: not limits._behind, "it has begun")
        store.losing = True
        buckets.take("x", 30)
        await eventually(lambda: bool(own_redis.keys("loquent:*")), "Redis has counted it")
        await eventually(lambda: limits._behind, "the answer is missed")
        store.losing = False
        buckets.take("x", 1)
        await eventually(lambda: not limits._behind and not limits._taken, "all is said")
        await asyncio.sleep(0.1)
        assert 0 < lives(own_redis) <= 31
        assert buckets.missing("x") <= 31


async def test_what_redis_has_lost_is_in_it_again(own_redis: Redis) -> None:
    async with shared(own_redis) as (buckets, _, _):
        buckets.take("x", 30)
        await eventually(lambda: lives(own_redis) > 20, "it is shared")
        own_redis.command("FLUSHALL")
        own_redis.command("SCRIPT", "FLUSH")
        buckets.take("y", 1)
        await eventually(lambda: lives(own_redis) > 20, "it is there again")
        await asyncio.to_thread(own_redis.stop)
        await asyncio.to_thread(own_redis.start)
        buckets.take("y", 1)
        await eventually(lambda: lives(own_redis) > 20, "and behind a restart")


async def test_a_server_that_ends_says_its_last_counts(own_redis: Redis) -> None:
    async with shared(own_redis) as (buckets, limits, _):
        buckets.take("y", 1)
        await eventually(lambda: bool(own_redis.keys("loquent:*")), "it is shared")
        limits._interval = 60.0
        await asyncio.sleep(0.1)
        buckets.take("x", 30)
    assert lives(own_redis) > 20


async def test_many_buckets_are_exchanged_in_portions(own_redis: Redis) -> None:
    async with shared(own_redis) as (buckets, _, _):
        for number in range(1700):
            buckets.take(str(number), 30)
        await eventually(lambda: own_redis.command("DBSIZE") == 1700, "all are shared")


@pytest.mark.parametrize("amount", [1e18, float("inf")])
async def test_a_debt_beyond_all_bounds_is_an_hour(own_redis: Redis, amount: float) -> None:
    async with shared(own_redis) as (buckets, _, _):
        buckets.take("x", amount)
        await eventually(lambda: lives(own_redis) > 3000, "it is shared")
        await eventually(partial(_within, buckets, 3600), "it is an hour here too")


def _within(buckets: Buckets, seconds: float) -> bool:
    return buckets.missing("x") <= seconds


async def test_a_server_sees_what_others_take_while_it_uses_a_bucket_too(own_redis: Redis) -> None:
    async with shared(own_redis) as (one, _, _), shared(own_redis) as (other, _, _):
        one.take("x", 10)
        await eventually(lambda: bool(own_redis.keys("loquent:*")), "it is shared")
        other.take("x", 20)
        await eventually(lambda: one.missing("x") > 25, "which took nothing since")


async def test_a_server_that_is_started_again_learns_what_was_taken(own_redis: Redis) -> None:
    async with shared(own_redis) as (buckets, _, _):
        buckets.take("x", 50)
        await eventually(lambda: lives(own_redis) > 40, "it is shared")
    async with shared(own_redis) as (buckets, _, _):
        buckets.take("x", 1)
        await eventually(lambda: buckets.missing("x") > 40, "it has learned")


async def test_a_server_that_dies_loses_only_what_it_has_not_said(own_redis: Redis) -> None:
    async with shared(own_redis) as (buckets, limits, _):
        buckets.take("x", 20)
        await eventually(lambda: lives(own_redis) > 15, "it is shared")
        limits._interval = 60.0
        await asyncio.sleep(0.1)
        buckets.take("x", 30)
        running = limits._running
        assert running is not None
        running.cancel()
        await asyncio.wait([running])
        limits._running = None  # so that closing says nothing
    assert 0 < lives(own_redis) <= 20
