"""The side of a gateway: the replicas of one part, of which each request goes to the least loaded that works."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

import aiohttp

from pipelines.chat.upstream.balancer import Balancer, Upstream
from pipelines.chat.upstream.client import body_of, drained
from pipelines.chat.upstream.outcomes import UpstreamError
from pipelines.chat.upstream.waits import Waits
from pipelines.events import StageError, shutting_down
from server.cluster.guard import BRIDGE
from server.cluster.members import Kind, Member
from server.cluster.parts.wire import (
    CONTENT_TYPE,
    DESCRIBE,
    ERROR_BYTES,
    FORMAT,
    FORMAT_HEADER,
    MALFORMED,
    OTHER_GENERATOR,
    PATH,
    Frame,
    FrameReader,
    MalformedError,
    error_in,
    error_of,
)

log = logging.getLogger(__name__)

T = TypeVar("T")

CONNECT_SECONDS = 5.0
DESCRIBE_SECONDS = 15.0  # in which a replica says what it is
FIRST_SECONDS = 60.0  # until the first piece of an answer, which may wait behind those of others
NEXT_SECONDS = 30.0  # until the next one
IDLE_SECONDS = 30.0  # that a connection is held for the next request
BUFFER = 64 * 1024  # bytes of an answer that wait to be read
MOST = 1024  # requests of one gateway at a time, to all replicas of a part
NOT_THAT_ONE = (
    "server_shutting_down",
    OTHER_GENERATOR,
)  # codes by which a replica says that another one is to be asked


class BrokenOffError(Exception):
    """An answer ended before it was complete, behind its first piece."""


class Replicas:
    """The replicas of a part, as the directory knows them. ``learn`` takes what one says of itself, and raises
    MalformedError where that makes no sense."""

    def __init__(self, kind: Kind, learn: Callable[[Frame], None], not_ready: Callable[[], StageError]) -> None:
        """``not_ready`` is what to say where none of them can answer."""
        self.kind = kind
        self.balancer = Balancer((), 1, self._probe)
        self.requests = 0  # in progress, or waiting for another replica
        self._learn = learn
        self._not_ready = not_ready
        self._secrets: Mapping[str, str] = {}  # by address
        self._waits = Waits()
        self._session: aiohttp.ClientSession | None = None
        self._first: asyncio.Task[None] | None = None
        self.closing = False

    def change(self, members: tuple[Member, ...]) -> None:
        """Go on with these; what others answer is theirs to finish."""
        if self.closing:
            return
        taken = {each.url: each.secret for each in members if not each.leaving}
        self._secrets = taken
        self.balancer.change(tuple(taken))

    async def start(self) -> None:
        """Ask them what they are; returns once one has said it. Several may wait for it."""
        if self._first is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                read_bufsize=BUFFER,
                auto_decompress=False,
            )
            self._first = asyncio.create_task(self.balancer.start(), name=f"{self.kind}-replicas")
        await asyncio.shield(self._first)

    async def close(self) -> None:
        """End every request, and close every connection."""
        self.closing = True
        if self._first is not None:
            self._first.cancel()
            await asyncio.wait([self._first])
        await self.balancer.close()
        self._waits.end()
        if self._session is not None:
            await self._session.close()

    @property
    def ready(self) -> bool:
        """Whether one of them may be asked."""
        return not self.closing and self.balancer.available > 0

    @property
    def why_not(self) -> str:
        """Why none of them answers; "" where one does."""
        count = len(self.balancer.upstreams)
        if self.balancer.available:
            return ""
        return f"none of {count} replicas answers" if count else f"there is no replica of {self.kind!r}"

    async def ask(self, path: str, head: Mapping[str, Any]) -> AsyncGenerator[Frame]:
        """The pieces of an answer, from whichever replica; closing this closes the request, and drops its job there.

        Raises: StageError as the replica raised it, or where none answers; BrokenOffError.
        """
        if self.requests >= MOST:
            raise StageError("overloaded", "server_overloaded", f"{MOST} requests wait for {self.kind} already.")
        data = Frame(dict(head)).packed()
        tried: list[Upstream] = []
        self.requests += 1
        try:
            while True:
                replica, begun = self._choose(tried), False
                try:
                    async with aclosing(self._attempt(replica, path, data, FIRST_SECONDS)) as frames:
                        async for frame in frames:
                            begun = True
                            yield frame
                    return
                except UpstreamError as error:
                    self._failed(replica, error)
                    if begun:
                        raise BrokenOffError from None
                    failure = self._not_ready()
                except StageError as error:
                    if error.code == MALFORMED:
                        raise self.unreadable() from None
                    if begun or error.kind not in ("overloaded", "unavailable"):
                        raise
                    failure = self._refused(replica, error)
                tried.append(replica)
                if not any(each.available and each not in tried for each in self.balancer.upstreams):
                    raise failure
        finally:
            self.requests -= 1

    async def ask_once(self, path: str, head: Mapping[str, Any], read: Callable[[Frame], T]) -> T:
        """What ``read`` makes of an answer of one piece; it raises MalformedError where that makes no sense.

        Raises: StageError as the replica raised it, or where none answers.
        """
        try:
            async with aclosing(self.ask(path, head)) as frames:
                found = [frame async for frame in frames]
        except BrokenOffError:
            raise self._not_ready() from None
        if len(found) != 1:
            raise self._not_ready()
        try:
            return read(found[0])
        except MalformedError:
            raise self.unreadable() from None

    def unreadable(self) -> StageError:
        """What to raise where a request or its answer is well formed, and makes no sense to the other side."""
        log.error("%s and this gateway do not understand each other", self.kind)
        return StageError("internal", "internal_error", "The server failed on this request; its log says why.")

    def _choose(self, tried: list[Upstream]) -> Upstream:
        if self.closing:
            raise shutting_down()
        if not self.balancer.available:
            raise self._not_ready()
        return self.balancer.choose("", tried)

    def _refused(self, replica: Upstream, error: StageError) -> StageError:
        """What to say where no other replica takes what this one has refused."""
        if error.code == "server_overloaded":
            self.balancer.failed(replica, UpstreamError("overloaded", error.message, retry_after=error.retry_after))
        return self._not_ready() if error.code in NOT_THAT_ONE else error

    def _failed(self, replica: Upstream, error: UpstreamError) -> None:
        if not self.closing:
            log.warning("%s at %s failed: %s, %s", self.kind, replica.url, error.outcome, error.message)
            self.balancer.failed(replica, error)

    async def _probe(self, url: str) -> tuple[str, ...]:
        """Ask a replica what it is. Raises: UpstreamError."""
        try:
            async with aclosing(self._attempt(Upstream(url), DESCRIBE, Frame().packed(), DESCRIBE_SECONDS)) as frames:
                found = [frame async for frame in frames]
            self._learn(found[0])
        except StageError as error:
            raise UpstreamError("overloaded", f"it is not ready: {error.code}") from None
        except (MalformedError, IndexError):
            raise UpstreamError("invalid", "it does not say what it is") from None
        return ()

    async def _attempt(self, replica: Upstream, path: str, data: bytes, first: float) -> AsyncGenerator[Frame]:
        """One replica's answer, whose first piece must come within ``first`` seconds.

        Raises: UpstreamError, StageError as the replica raised it.
        """
        now = asyncio.get_running_loop().time
        until, complete = now() + first, False
        replica.running += 1
        replica.begun += 1
        response: aiohttp.ClientResponse | None = None
        try:
            async with self._waits.within(until):
                response = await self._post(replica.url, path, data)
            async with self._waits.within(until):
                await _check(response)
            frames = FrameReader()
            while not complete:
                async with self._waits.within(until):
                    piece = await response.content.readany()
                if not piece:
                    raise UpstreamError("failed", "it closed the answer before it was complete")
                for frame in _read(frames, piece):
                    complete = frame.ends
                    if not complete:
                        replica.breaker.began()
                        yield frame
                until = now() + NEXT_SECONDS
            replica.breaker.succeeded()
            await drained(response)
        finally:
            replica.running -= 1
            if response is not None:
                response.release() if complete else response.close()

    async def _post(self, url: str, path: str, data: bytes) -> aiohttp.ClientResponse:
        if self._session is None:
            raise RuntimeError("the replicas are not started")
        headers = {BRIDGE: self._secrets.get(url, ""), FORMAT_HEADER: FORMAT, "Content-Type": CONTENT_TYPE}
        return await self._session.post(url + PATH + path, data=data, headers=headers, allow_redirects=False)


def _read(reader: FrameReader, data: bytes) -> Iterator[Frame]:
    """The frames in these bytes. Raises: StageError where one of them says so, UpstreamError."""
    try:
        for frame in reader.feed(data):
            if (failure := error_of(frame.head)) is not None:
                raise failure
            yield frame
    except MalformedError as error:
        raise UpstreamError("invalid", str(error)) from None


async def _check(response: aiohttp.ClientResponse) -> None:
    """Raises: StageError as the replica raised it, UpstreamError where this is no answer."""
    if response.status == 200 and response.headers.get(FORMAT_HEADER) == FORMAT:
        return
    if response.status in (401, 403):
        raise UpstreamError("refused", "it refuses the secret")
    if response.headers.get(FORMAT_HEADER, FORMAT) != FORMAT or response.status == 409:
        raise UpstreamError("invalid", f"it speaks another format than {FORMAT}: another version is being rolled out")
    body = await body_of(response, ERROR_BYTES)
    try:
        error = error_in(body)
    except MalformedError:
        error = None
    if error is None:
        raise UpstreamError("failed" if response.status >= 500 else "invalid", f"HTTP {response.status}")
    raise error
