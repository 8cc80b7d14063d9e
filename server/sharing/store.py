"""A Redis or Valkey server: every command has a time limit, and its absence is logged once."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from prometheus_client import Counter, Gauge
from prometheus_client.registry import Collector

from server.history.database import SetupError
from server.history.location import without_password
from server.history.writer import brief

log = logging.getLogger(__name__)

SECONDS = 1.0  # that a command may take, its connection included
CLOSE_SECONDS = 1.0
CONNECTIONS = 8  # of one store; more commands wait for one, within their time limit
PAUSES = 0.25, 5.0  # seconds between two attempts, at first and at most

Result = TypeVar("Result")


class StoreError(Exception):
    """Redis did not answer in time, or refused; the log has said so."""


class StoreMetrics:
    """The Prometheus metrics of all stores."""

    def __init__(self) -> None:
        self.up = Gauge("loquent_shared_store_up", "1 while Redis answers.", ["store"], registry=None)
        self.failures = Counter(
            "loquent_shared_store_failures", "Commands that Redis did not answer.", ["store"], registry=None
        )

    @property
    def collectors(self) -> tuple[Collector, ...]:
        """For a registry."""
        return (self.up, self.failures)


class RedisStore:
    """The server at ``url``, for what is called ``name``; ``meanwhile`` is what the log says of its absence."""

    def __init__(self, url: str, name: str, metrics: StoreMetrics, *, meanwhile: str, seconds: float = SECONDS) -> None:
        """Raises: SetupError where the package is missing, or does not know an option of the address."""
        self.where = without_password(url)
        self.healthy = True  # until a command fails
        self._meanwhile = meanwhile
        self._seconds = seconds
        self._up, self._failures = metrics.up.labels(name), metrics.failures.labels(name)
        self._client = _client(url, name, seconds)
        self._up.set(1)

    async def run(self, work: Callable[[Any], Awaitable[Result]]) -> Result:
        """What ``work`` makes of the client, within the time limit. Raises: StoreError."""
        task = asyncio.current_task()
        cancels = 0 if task is None else task.cancelling()
        try:
            async with asyncio.timeout(self._seconds):
                result = await work(self._client)
        except Exception as error:  # whatever the library makes of what a server sends that may be no Redis at all
            self._failed(error)
            raise StoreError(type(error).__name__) from None
        finally:
            # redis-py awaits with ``wait_for``, which Python 3.11 lets swallow a cancel.
            if task is not None and task.cancelling() > cancels:
                raise asyncio.CancelledError
        if not self.healthy:
            log.info("%s answers again", self.where)
        self.healthy = True
        self._up.set(1)
        return result

    async def close(self) -> None:
        """Close the connections."""
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._client.aclose()
        except Exception as error:
            log.debug("%s: %s", self.where, type(error).__name__)

    def _failed(self, error: Exception) -> None:
        if self.healthy:
            # redis-py repeats a pipeline's command, whose values belong in no log.
            said = brief(error).rpartition(" of pipeline caused error: ")[2]
            why = f"no answer within {self._seconds:g} s" if isinstance(error, TimeoutError) else said
            log.warning("%s can't be used (%s: %s): %s", self.where, type(error).__name__, why, self._meanwhile)
        self.healthy = False
        self._up.set(0)
        self._failures.inc()


def _client(url: str, name: str, seconds: float) -> Any:
    try:
        from redis import asyncio as redis
        from redis.backoff import NoBackoff
        from redis.retry import Retry
    except ModuleNotFoundError as error:
        text = f"[{name}] store needs the package {error.name}: pip install 'loquent[history]'"
        raise SetupError(text, usage=True) from None
    try:
        pool: Any = redis.BlockingConnectionPool.from_url(
            url,
            max_connections=CONNECTIONS,
            timeout=seconds,
            socket_timeout=seconds,
            socket_connect_timeout=seconds,
            retry=Retry(NoBackoff(), 0),  # what calls it knows better whether to try again
            protocol=2,  # which the oldest servers speak too
        )
        pool.make_connection()
    except (TypeError, ValueError, redis.RedisError) as error:
        text = f"[{name}] store: {without_password(url)} can't be used: {brief(error)}"
        raise SetupError(text, usage=True) from None
    return redis.Redis.from_pool(pool)  # which closes it
