"""The ways to reach a Redis: TCP, TLS, a socket of this machine; with names and passwords, right and wrong."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from bench.faults.process import free_port
from bench.faults.redis import Redis
from pipelines.events import Picture
from server.limits.buckets import Buckets
from server.sharing.images import SharedImageStore
from server.sharing.limits import SharedLimits
from server.sharing.store import RedisStore, StoreError, StoreMetrics
from tests.server.test_tls import signed
from tests.support import ROOT, eventually


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(url, "limits", StoreMetrics(), meanwhile="meanwhile nothing is shared")
    try:
        yield store
    finally:
        await store.close()


async def ping(url: str) -> bool:
    async with opened(url) as store:
        return await store.run(lambda redis: redis.ping())


async def test_a_redis_is_reached_over_tls_and_only_with_its_certificate(
    own_redis: Redis, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key = signed(tmp_path, "redis")
    port = free_port()
    await asyncio.to_thread(own_redis.stop)
    files = ("--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-auth-clients", "no")
    try:
        await asyncio.to_thread(own_redis.start, "--tls-port", str(port), *files)
    except AssertionError:
        pytest.skip("this Redis was built without TLS")
    url = own_redis.url.replace("redis://", "rediss://").replace(str(own_redis.port), str(port))
    assert await ping(f"{url}?ssl_ca_certs={certificate}")
    with pytest.raises(StoreError):
        await ping(url)
    assert "certificate" in caplog.text.lower()


async def test_a_redis_is_reached_over_a_socket_of_this_machine(own_redis: Redis, tmp_path: Path) -> None:
    await asyncio.to_thread(own_redis.stop)
    await asyncio.to_thread(own_redis.start, "--unixsocket", str(tmp_path / "s"))
    assert await ping(f"unix://{tmp_path / 's'}?db=0&password={own_redis.password}")


async def test_a_user_of_redis_with_few_rights_is_enough(own_redis: Redis) -> None:
    document = (ROOT / "docs" / "internet.md").read_text()
    (rights,) = re.findall(r"`ACL SETUSER loquent on >PASSWORD ([^`]+)`", document)
    own_redis.command("ACL", "SETUSER", "loquent", "on", ">hush", *rights.split())
    url = f"redis://loquent:hush@127.0.0.1:{own_redis.port}/0"
    buckets = Buckets(60)
    async with opened(url) as store:
        limits, pictures = SharedLimits(store, {"x": buckets}), SharedImageStore(10**6, 60, store)
        await limits.start()
        await pictures.start()
        buckets.take("y", 30)
        await pictures.put(Picture("a1", "cat", 1, "flat", "tiny", 64, b"\x89PNG"), "", "", "conv")
        await eventually(lambda: len(own_redis.keys("loquent:*")) == 4, "a bucket, a picture, its set, the secret")
        buckets.take("y", -30)
        pictures.forget(["conv"])
        await eventually(lambda: len(own_redis.keys("loquent:*")) == 1, "all but the secret are gone")
        assert await store.run(lambda redis: redis.getrange("loquent:pictures:file:a1", 0, 9)) == b""
        await limits.close()
        await pictures.close()
        assert store.healthy


@pytest.mark.parametrize("login", [":wrong@", "", "someone:wrong@"])
async def test_a_wrong_password_is_said_and_not_repeated(
    own_redis: Redis, login: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StoreError):
        await ping(f"redis://{login}127.0.0.1:{own_redis.port}/0")
    assert "meanwhile nothing is shared" in caplog.text
    assert "auth" in caplog.text.lower()
    assert ":wrong" not in caplog.text


async def test_a_cancel_is_never_swallowed(own_redis: Redis) -> None:
    async with opened(own_redis.url) as store:
        await store.run(lambda redis: redis.ping())
        for steps in range(40):
            task = asyncio.create_task(store.run(lambda redis: redis.get("x")))
            for _ in range(steps):
                await asyncio.sleep(0)
            ended = task.done()
            task.cancel()
            await asyncio.wait([task])
            assert ended or task.cancelled()
        assert await store.run(lambda redis: redis.ping()), "and the connection was not left with another's answer"
