"""HTTP requests on the event loop, whose answers are read while they arrive."""

import asyncio
import json
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

from clients.target import Target, no_key, unreachable
from loquent import ConnectionFailedError, LoquentError, RefusedError
from loquent.opening import OPEN_SECONDS
from loquent.texts import clean

HEAD_BYTES = 64 * 1024  # of an answer's status line and headers together
PIECE = 16 * 1024  # bytes
SILENCE_SECONDS = 60.0  # without a byte of an answer
ERROR_BYTES = 64 * 1024  # of an error's body that are read
JSON_BYTES = 4 * 1024 * 1024  # of an answer that is read as a whole
GONE = "The server ended its answer before the end; its log says why."


class Answer:
    """The body of a successful answer."""

    def __init__(self, reader: asyncio.StreamReader, headers: dict[str, str]) -> None:
        self._reader = reader
        self._headers = headers

    async def pieces(self) -> AsyncGenerator[bytes]:
        """The body, as it arrives. Raises: ConnectionFailedError when it is cut."""
        try:
            if "chunked" in self._headers.get("transfer-encoding", "").lower():
                while size := _size((await _within(self._reader.readline())).split(b";")[0], 16):
                    while size:
                        yield (piece := await self._some(size))
                        size -= len(piece)
                    await _within(self._reader.readexactly(2))
                return
            size = _size(self._headers.get("content-length", "0"), 10)
            while size:
                yield (piece := await self._some(size))
                size -= len(piece)
        except (OSError, EOFError, ValueError) as error:  # OSError: TimeoutError too
            raise ConnectionFailedError(GONE) from error

    async def _some(self, most: int) -> bytes:
        piece = await _within(self._reader.read(min(most, PIECE)))
        if not piece:
            raise EOFError
        return piece

    async def json(self) -> Any:
        """The body as JSON. Raises: ConnectionFailedError when it is cut, too large or none."""
        try:
            return json.loads(await self.read(JSON_BYTES))
        except ValueError as error:
            raise ConnectionFailedError(GONE) from error

    async def read(self, most: int) -> bytes:
        """The beginning of the body, at least ``most`` bytes if it has them. Raises: ConnectionFailedError."""
        body = bytearray()
        async for piece in self.pieces():
            body += piece
            if len(body) >= most:
                break
        return bytes(body)


def _size(text: str | bytes, base: int) -> int:
    """A length. Raises: ValueError when it is none."""
    if (size := int(text, base)) < 0:
        raise ValueError("a negative length")
    return size


async def _within(reading: Any) -> bytes:
    async with asyncio.timeout(SILENCE_SECONDS):
        return bytes(await reading)


@asynccontextmanager
async def request(
    target: Target, path: str, body: dict[str, Any] | None = None, *, method: str = "POST"
) -> AsyncIterator[Answer]:
    """Send a request, with ``body`` as JSON; yield the answer, whose connection ends with the context.

    Raises: RefusedError when the server rejects it, ConnectionFailedError when it is unreachable.
    """
    reader, writer = await _connect(target)
    try:
        try:
            async with asyncio.timeout(OPEN_SECONDS):
                writer.write(_request(target, path, body, method))
                await writer.drain()
            head = await _within(reader.readuntil(b"\r\n\r\n"))
            status, headers = _read_head(head)
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise ConnectionFailedError("The server does not answer.") from error
        answer = Answer(reader, headers)
        if status != 200:
            raise _rejected(target, status, await answer.read(ERROR_BYTES))
        yield answer
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


async def _connect(target: Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(target.http)
    tls = (target.tls or ssl.create_default_context()) if parts.scheme == "https" else None
    port = parts.port or (443 if tls else 80)
    try:
        async with asyncio.timeout(OPEN_SECONDS):
            return await asyncio.open_connection(parts.hostname, port, ssl=tls, limit=HEAD_BYTES)
    except OSError as error:
        raise unreachable(target, error) from None


def _request(target: Target, path: str, body: dict[str, Any] | None, method: str) -> bytes:
    parts = urlsplit(target.http)
    data = b"" if body is None else clean(json.dumps(body, ensure_ascii=False)).encode()
    lines = [
        f"{method} {parts.path}{path} HTTP/1.1",
        f"Host: {parts.netloc.rpartition('@')[2]}",
        "Accept: */*",
        "Connection: close",
    ]
    if target.key:
        lines.append(f"Authorization: Bearer {target.key}")
    if body is not None:
        lines += ["Content-Type: application/json", f"Content-Length: {len(data)}"]
    return "\r\n".join([*lines, "", ""]).encode() + data


def _read_head(head: bytes) -> tuple[int, dict[str, str]]:
    """The status and the headers, by lower-case name. Raises: ValueError."""
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    version, _, rest = first.partition(" ")
    if not version.startswith("HTTP/1."):
        raise ValueError("no HTTP")
    return int(rest[:3]), headers


def _rejected(target: Target, status: int, body: bytes) -> LoquentError:
    try:
        problem = dict(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        problem = {}
    if status == 401:
        return no_key(target)
    message = str(problem.get("message") or f"The server answered with HTTP status {status}.")
    return RefusedError(message, str(problem.get("code") or ""), status)
