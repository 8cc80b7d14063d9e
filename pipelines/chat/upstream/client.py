"""HTTP to one upstream: its models, and streamed chat completions. Every wait has a limit, and every body a bound."""

import asyncio
import json
import math
import re
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import aiohttp

from pipelines.chat.pace import joined
from pipelines.chat.upstream.chunks import Refusal, read_chunk, read_error
from pipelines.chat.upstream.gathering import Gathered
from pipelines.chat.upstream.outcomes import UpstreamError, outcome_of
from pipelines.chat.upstream.reading import Broken, ReplyReader
from pipelines.chat.upstream.settings import UpstreamSettings
from pipelines.chat.upstream.sse import EventReader, Malformed
from pipelines.chat.upstream.waits import Waits
from pipelines.events import Event

BODY = 1024 * 1024  # bytes of an answer that is no stream
ERROR_BODY = 64 * 1024  # of an error
ERROR_SECONDS = 5.0  # that an error's body may take
USAGE_SECONDS = 2.0  # in which the usage follows a reply's end
END_SECONDS = 0.05  # in which a stream that has said [DONE] also ends; then its connection is used again
IDLE_SECONDS = 4.0  # that an idle connection is kept open: uvicorn, which most of these servers use, closes it after 5
HEADERS = {"User-Agent": "loquent", "Accept-Encoding": "identity"}  # compressed events come when there are many
BUFFER = 64 * 1024  # bytes that may wait to be read


class Client:
    """What talks to the upstreams of one server."""

    def __init__(self, settings: UpstreamSettings) -> None:
        self._settings = settings
        self.headers: Mapping[str, Mapping[str, str]] = {}  # by address, of those that want further ones
        self.tenant_header = ""  # of those, to say for whom a reply is
        self._session: aiohttp.ClientSession | None = None
        self._waits = Waits()
        self.gathering: set[str] = set()  # addresses of those that gather texts where they are asked to: Loquents

    def start(self) -> None:
        """Open the pool of connections, on the running loop."""
        key = self._settings.key.get_secret_value()
        # No cookies, no proxies and no redirects: what is sent goes to the configured address and nowhere else.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=HEADERS | ({"Authorization": f"Bearer {key}"} if key else {}),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._settings.connect_timeout),
            read_bufsize=BUFFER,
        )

    async def close(self) -> None:
        """End every request, and close every connection."""
        self._waits.end()
        if self._session is not None:
            await self._session.close()

    async def models(self, url: str) -> Sequence[str]:
        """The names of its models; none where it has no list. Raises: UpstreamError."""
        until = asyncio.get_running_loop().time() + self._settings.connect_timeout + ERROR_SECONDS
        async with (
            self._waits.within(until),
            self._opened.get(f"{url}/models", allow_redirects=False, headers=self.headers.get(url)) as response,
        ):
            if response.status == 404:
                return ()
            if response.status != 200:
                raise await _error(response)
            body = await body_of(response, BODY)
        try:
            data = json.loads(body)["data"]
            names = tuple(str(each["id"]) for each in data)
            own = [each.get("loquent") for each in data]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise UpstreamError("invalid", "its list of models can't be read") from None
        if any(isinstance(each, dict) and each.get("gather") is True for each in own):
            self.gathering.add(url)
        else:
            self.gathering.discard(url)
        return names

    async def reply(
        self, url: str, body: Mapping[str, Any], reader: ReplyReader, gathered: Gathered, tenant: str = ""
    ) -> AsyncGenerator[Event]:
        """The events of a reply, as ``reader`` reads them; closing this closes the request at once.

        Raises: UpstreamError; ``reader.begun`` says whether some of the reply was passed on before.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + self._settings.connect_timeout + self._settings.first_token_timeout
        async with self._waits.within(until):
            response = await self._opened.post(
                f"{url}/chat/completions", json=body, allow_redirects=False, headers=self._further(url, tenant)
            )
        try:
            async with self._waits.within(until):
                await _check(response)
            async with aclosing(self._events(response, reader, gathered, until)) as events:
                async for event in events:
                    yield event
            if not reader.complete:
                raise UpstreamError("failed", "it closed the stream before the reply was complete")
            await drained(response)
            for event in reader.end():
                yield event
        finally:
            # Closes the connection where the stream has not ended: the upstream notices, and stops.
            response.release() if response.content.at_eof() else response.close()

    def _further(self, url: str, tenant: str) -> Mapping[str, str] | None:
        """The headers that this address wants besides the usual ones."""
        own = self.headers.get(url)
        return {**own, self.tenant_header: quote(tenant)} if own and self.tenant_header else own

    async def _events(
        self, response: aiohttp.ClientResponse, reader: ReplyReader, gathered: Gathered, until: float
    ) -> AsyncGenerator[Event]:
        """The events up to the stream's end; ``until`` is when the first one must have come."""
        now, stream = asyncio.get_running_loop().time, _Stream(reader)
        response.content.on_eof(gathered.end)
        while not stream.done:
            try:
                async with self._waits.within(until):
                    data = await response.content.readany()
            except UpstreamError:
                if reader.complete:  # but for its usage, which some servers do not send
                    return
                raise
            for event in joined(stream.read(data)):
                yield event
            if reader.complete:
                until = now() + min(self._settings.token_timeout, USAGE_SECONDS)
                continue
            if reader.begun:
                await gathered.wait(gathered.seconds)
            if reader.alive:
                until = now() + self._settings.token_timeout

    @property
    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the client is not started")
        return self._session


async def _check(response: aiohttp.ClientResponse) -> None:
    """Raises: UpstreamError where this is no stream."""
    if response.status != 200:
        raise await _error(response)
    kind = response.content_type
    if kind != "text/event-stream":
        raise UpstreamError("invalid", f"it answered with {kind:.80} instead of a stream")


async def _error(response: aiohttp.ClientResponse) -> UpstreamError:
    """The failure that an answer's status and body tell of."""
    try:
        async with asyncio.timeout(ERROR_SECONDS):
            refusal = read_error(_json(await body_of(response, ERROR_BODY)))
    except (TimeoutError, aiohttp.ClientError, UpstreamError):
        refusal = read_error(None)
    wait = retry_after(response.headers.get("Retry-After"), time.time())
    text = f"HTTP {response.status}{_named(refusal)}"
    return UpstreamError(outcome_of(response.status), text, refusal=refusal, retry_after=wait)


def _named(refusal: Refusal) -> str:
    """The code of an error, for the log. What it says besides may repeat the conversation."""
    return f" {refusal.code}" if re.fullmatch(r"[\w.-]{1,64}", str(refusal.code or "")) else ""


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


async def body_of(response: aiohttp.ClientResponse, most: int) -> bytes:
    """All of it. Raises: UpstreamError where it has more than ``most`` bytes."""
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > most:
            raise UpstreamError("invalid", f"its answer has more than {most} bytes")
    return bytes(body)


async def drained(response: aiohttp.ClientResponse) -> None:
    """Wait a moment for the end of a stream that has said all, so that its connection can be used again."""
    try:
        async with asyncio.timeout(END_SECONDS):
            while not response.content.at_eof():
                await response.content.readany()
    except (TimeoutError, aiohttp.ClientError):
        pass


def retry_after(given: str | None, now: float) -> float | None:
    """The seconds that a ``Retry-After`` asks for, in either of its forms; None where it says nothing of use."""
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(given).timestamp() - now
        except (ValueError, TypeError, OverflowError):
            return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None


class _Stream:
    """The stream of one reply."""

    def __init__(self, reader: ReplyReader) -> None:
        self._reader = reader
        self._events = EventReader()
        self.done = False  # nothing follows

    def read(self, data: bytes) -> Iterator[Event]:
        """The events in what has come; nothing (b"") says that nothing follows. Raises: UpstreamError."""
        try:
            for text in self._events.feed(data) if data else self._events.end():
                self.done = self.done or text == "[DONE]"
                if not self.done:
                    yield from self._chunk(text)
        except (Malformed, Broken) as error:
            early = isinstance(error, Broken) or not data
            raise UpstreamError("failed" if early else "invalid", str(error)) from None
        self.done = self.done or not data

    def _chunk(self, text: str) -> Iterator[Event]:
        chunk = read_chunk(text)
        if chunk.error is not None:
            refusal = read_error(chunk.error)
            raise UpstreamError("failed", f"an error in the stream{_named(refusal)}", refusal=refusal)
        yield from self._reader.feed(chunk)
