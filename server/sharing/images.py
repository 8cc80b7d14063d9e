"""Drawn pictures that every server of one Redis can show: each holds what it drew, and writes it behind that.

In Redis a picture is one key that expires with its link. The ids of a conversation's pictures are a set, by which they
are deleted with it. One more key has the secret that signs the links: that of the server which creates it first.
"""

import asyncio
import hashlib
import logging
import re
import secrets
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from typing import Any

from pipelines.events import Picture
from server.api.pictures import BEGINNINGS
from server.errors import RETRY_AFTER, ApiError
from server.image_store import SECRET_BYTES, Entry, ImageStore, gone
from server.pauses import Pauses
from server.sharing.store import PAUSES, RedisStore, StoreError

log = logging.getLogger(__name__)

LOOK = 5.0  # seconds between two looks whether Redis still has what it had
PUT_SECONDS = 0.5  # that a picture waits to be in Redis before its link is given out
GET_SECONDS = 2.0  # that a picture of another server may take, until it is a 503
READERS = 4  # of such pictures at a time; the others wait within that time, and no write waits for them
CLOSE_SECONDS = 2.0
LARGEST = 32 * 1024 * 1024  # bytes; what is larger is no picture of ours
MOST_GONE = 100_000  # deletions that wait for Redis; then the oldest are forgotten, and expire
MOST_SECRETS = 4
PREFIX = "loquent:pictures:"
SECRET = PREFIX + "secret"
SECRET_SHAPE = re.compile(
    rb"([0-9a-f]{16}):([0-9a-f]{%d})" % (2 * SECRET_BYTES)
)  # which creation it was, and the secret
ID_SHAPE = re.compile(rb"[\w-]{1,64}")


class SharedImageStore(ImageStore):
    """See ``ImageStore``. ``limit`` bounds the bytes of this server's pictures, here and in Redis.

    While Redis is away, this server serves what it drew. When Redis is back, it is written, and what was deleted
    meanwhile goes. Where Redis has lost everything, each server writes again what it drew.
    """

    def __init__(
        self,
        limit: int,
        seconds: float,
        store: RedisStore,
        *,
        look: float = LOOK,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(limit, seconds, clock=clock)
        self._store = store
        self._look = look
        self._created: bytes | None = None  # which creation of the secret is known; None: the shared one is not
        self._unwritten: dict[str, asyncio.Future[None]] = {}  # pictures that Redis may lack; done: no one waits
        self._gone: dict[str, None] = {}  # ids whose pictures are to go
        self._conversations: dict[str, None] = {}  # whose pictures are to go
        self._work = asyncio.Event()
        self._readers = asyncio.Semaphore(READERS)
        self._warned = False
        self._running: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to write; the caller does not wait for Redis."""
        self._running = asyncio.create_task(self._run(), name="shared-pictures")

    async def close(self) -> None:
        """Write what was not written yet, where Redis answers."""
        if self._running is None:
            return
        self._running.cancel()
        await asyncio.wait([self._running])
        self._release()
        if self._store.healthy:
            with suppress(StoreError, TimeoutError):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._settle()

    def add(self, picture: Picture, origin: str, tenant: str = "", conversation: str = "") -> Picture:
        """As ``ImageStore.add``; the picture is written to Redis behind it."""
        link = super().add(picture, origin, tenant, conversation)
        self._unwritten[picture.id] = asyncio.get_running_loop().create_future()
        self._work.set()
        return link

    async def put(self, picture: Picture, origin: str, tenant: str = "", conversation: str = "") -> Picture:
        """As ``ImageStore.put``; waits a short time for Redis, and not at all where it is known to be away."""
        if self._created is None and self._store.healthy:  # the first link of a process: better signed for all
            await self._meet()
        link = self.add(picture, origin, tenant, conversation)
        if self._store.healthy and (written := self._unwritten.get(picture.id)) is not None:
            await asyncio.wait([written], timeout=PUT_SECONDS)
        return link

    async def get(self, id: str, expires: str, signature: str) -> tuple[bytes, int]:
        """As ``ImageStore.get``."""
        try:
            left = self.valid(id, expires, signature)
        except ApiError as error:
            if error.status == 403 and self._created is None:  # another server may have made it
                raise _away() from None
            raise
        entry = self._entries.get(id)
        if entry is not None:
            return entry.png, left
        try:
            async with asyncio.timeout(GET_SECONDS), self._readers:
                png = await self._store.run(partial(self._fetch, id))
        except (StoreError, TimeoutError):
            raise _away() from None
        if not any(map(png.startswith, BEGINNINGS)):
            if png:
                self._warn(_file(id))
            raise gone()
        return png, left

    def forget(self, conversations: Collection[str]) -> None:
        """As ``ImageStore.forget``, of the pictures of all servers."""
        super().forget(conversations)
        self._conversations |= dict.fromkeys(filter(None, conversations))
        _bound(self._conversations)
        self._work.set()

    def _pop(self, id: str) -> Entry:
        if (written := self._unwritten.pop(id, None)) is not None and not written.done():
            written.set_result(None)
        self._gone[id] = None  # it may be there, or about to be
        _bound(self._gone)
        self._work.set()
        return super()._pop(id)

    def _release(self) -> None:
        """Let go those who wait for Redis."""
        for written in self._unwritten.values():
            if not written.done():
                written.set_result(None)

    async def _run(self) -> None:
        pauses = Pauses(*PAUSES)
        while True:
            self._work.clear()
            try:
                await self._settle()
            except StoreError:
                self._release()
                await asyncio.sleep(pauses.take())
                continue
            pauses.reset()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._look):
                    await self._work.wait()

    async def _settle(self) -> None:
        """Bring Redis up to what is known here. Raises: StoreError."""
        await self._agree(await self._store.run(self._secret))
        for id in list(self._unwritten):
            if (entry := self._entries.get(id)) is not None:
                await self._store.run(partial(self._write, id, entry))
            if (written := self._unwritten.pop(id, None)) is not None and not written.done():
                written.set_result(None)
        while self._gone or self._conversations:  # behind the writes: what was deleted amid one goes too
            ids, conversations = list(self._gone)[:500], list(self._conversations)[:20]
            await self._store.run(partial(self._delete, ids, conversations))
            for id in ids:
                self._gone.pop(id, None)
            for conversation in conversations:
                self._conversations.pop(conversation, None)

    async def _meet(self) -> None:
        """Learn the shared secret, in the time that a link may wait."""
        with suppress(StoreError, TimeoutError):
            async with asyncio.timeout(PUT_SECONDS):
                await self._agree(await self._store.run(self._secret))

    async def _secret(self, redis: Any) -> bytes | None:
        mine = f"{secrets.token_hex(8)}:{self._secrets[0].hex()}"
        async with redis.pipeline(transaction=True) as pipeline:
            pipeline.set(SECRET, mine, nx=True)
            pipeline.get(SECRET)
            _, found = await pipeline.execute(raise_on_error=False)
        if isinstance(found, Exception) and "WRONGTYPE" not in str(found):
            raise found
        return found if isinstance(found, bytes) else None

    async def _agree(self, found: bytes | None) -> None:
        """Take the shared secret; where it was created anew since, Redis has lost the pictures too."""
        shape = SECRET_SHAPE.fullmatch(found or b"")
        if shape is None:
            self._warn(SECRET)
            return
        created, secret = shape[1], bytes.fromhex(shape[2].decode())
        if created == self._created:
            return
        if self._created is not None:
            log.info("%s has lost its pictures: it gets those of this server", self._store.where)
            loop = asyncio.get_running_loop()
            self._unwritten |= {id: loop.create_future() for id in self._entries if id not in self._unwritten}
        self._created = created
        self._secrets = [secret, *(each for each in self._secrets if each != secret)][:MOST_SECRETS]

    async def _write(self, id: str, entry: Entry, redis: Any) -> None:
        left = int((entry.expires_at - self._clock()) * 1000)
        if left <= 0:
            return
        async with redis.pipeline(transaction=True) as pipeline:
            pipeline.set(_file(id), entry.png, px=left)
            if entry.conversation:
                pipeline.sadd(_of(entry.conversation), id)
                pipeline.pexpire(_of(entry.conversation), left)  # the newest picture expires last
            await pipeline.execute()

    async def _fetch(self, id: str, redis: Any) -> bytes:
        from redis.exceptions import ResponseError

        try:
            png: bytes = await redis.getrange(_file(id), 0, LARGEST)
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            return b"-"
        return png if len(png) <= LARGEST else b"-"

    async def _delete(self, ids: list[str], conversations: list[str], redis: Any) -> None:
        keys = [_file(id) for id in ids]
        async with redis.pipeline(transaction=False) as pipeline:
            for conversation in conversations:
                pipeline.smembers(_of(conversation))
            found = await pipeline.execute(raise_on_error=False) if conversations else []
        for conversation, members in zip(conversations, found, strict=True):
            if isinstance(members, set | list):
                keys += [_file(id.decode()) for id in members if ID_SHAPE.fullmatch(id)]
                keys.append(_of(conversation))
        if keys:
            await redis.delete(*keys)

    def _warn(self, key: str) -> None:
        if not self._warned:
            log.warning(
                "%s has something else under %s: it is not used. Delete it, or give Loquent a database of its own.",
                self._store.where,
                key,
            )
        self._warned = True


def _away() -> ApiError:
    text = "Where pictures are stored can't be reached now; try again in a moment."
    return ApiError(503, "images_unavailable", text, retry_after=RETRY_AFTER)


def _bound(waiting: dict[str, None]) -> None:
    while len(waiting) > MOST_GONE:
        del waiting[next(iter(waiting))]


def _file(id: str) -> str:
    return f"{PREFIX}file:{id}"


def _of(conversation: str) -> str:
    return f"{PREFIX}of:{hashlib.sha256(conversation.encode()).hexdigest()[:32]}"
