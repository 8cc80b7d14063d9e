"""A Redis of one's own for every test of what is shared."""

from collections.abc import Iterator

import pytest

from bench.faults.redis import Redis, redis


@pytest.fixture
def own_redis() -> Iterator[Redis]:
    """A Redis or Valkey server for one test, which may stop it."""
    with redis() as server:
        if server is None:
            pytest.skip("neither redis-server nor valkey-server is installed")
        yield server
