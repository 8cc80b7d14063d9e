"""A realtime session as a terminal client needs it: one question, one streamed reply."""

import asyncio
import base64
import json
import os
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote, urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI

from clients.terminal.errors import ClientError as ClientError
from clients.terminal.errors import ConnectionFailedError as ConnectionFailedError
from clients.terminal.errors import UsageError as UsageError
from clients.terminal.link import Link
from clients.terminal.texts import clean

DEFAULT_URL = "http://127.0.0.1:8700"
OPEN_SECONDS = 10.0
CLOSE_SECONDS = 2.0
LOADING_SECONDS = 120.0  # at most, while a server loads its model
RETRY_SECONDS = 0.5
SILENCE_SECONDS = 120.0  # without a message amid a reply, after which the server counts as lost
AUDIO_BYTES = 48_000  # of one event: a second
MESSAGE_BYTES = 4 * 1024 * 1024


class _RefusedError(ClientError):
    """The server accepted the websocket only to say why it refuses access."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Target:
    """A server, and the settings of a session."""

    url: str
    key: str | None
    model: str | None
    session: dict[str, Any]  # the settings for ``session.update``
    tls: ssl.SSLContext | None = None  # whose certificates are trusted; None: those that the system trusts

    @classmethod
    def of(
        cls,
        *,
        url: str | None = None,
        model: str | None = None,
        instructions: str | None = None,
        max_tokens: int | None = None,
        temperature: float | None = None,
        seed: int | None = None,
        spoken: bool = False,
        voice: str | None = None,
        speed: float | None = None,
        ca: str | None = None,
        insecure: bool = False,
    ) -> Self:
        """From the command line, with ``LOQUENT_URL``, ``LOQUENT_API_KEY`` and ``LOQUENT_CA`` from the environment.

        Raises: ConnectionFailedError when the key is invalid, UsageError when there are no certificates in the file.
        """
        sampling = {"temperature": temperature, "seed": seed}
        given = {
            "instructions": instructions,
            "max_output_tokens": max_tokens,
            "loquent": {"sampling": {name: value for name, value in sampling.items() if value is not None}},
        }
        session: dict[str, Any] = {
            name: value for name, value in given.items() if value not in (None, {"sampling": {}})
        }
        session["output_modalities"] = ["audio" if spoken else "text"]
        if spoken:
            output: dict[str, Any] = {"voice": voice, "speed": speed}
            session["audio"] = {"output": {name: value for name, value in output.items() if value is not None}}
        return cls(
            url or os.environ.get("LOQUENT_URL") or DEFAULT_URL,
            _key(),
            clean(model) if model else None,
            session,
            _trust(ca or os.environ.get("LOQUENT_CA") or None, insecure=insecure),
        )

    def websocket(self, query: str = "") -> str:
        """The websocket's address, with this query besides the model. Raises: UsageError when the URL is invalid."""
        whole = "&".join(part for part in (f"model={quote(self.model)}" if self.model else "", query) if part)
        address = self._address({"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"})
        return f"{address}/v1/realtime" + (f"?{whole}" if whole else "")

    @property
    def http(self) -> str:
        """The server's address for HTTP. Raises: UsageError when the URL is invalid."""
        return self._address({"ws": "http", "wss": "https", "http": "http", "https": "https"})

    def _address(self, schemes: Mapping[str, str]) -> str:
        try:
            parts = urlsplit(self.url)
            scheme, right = schemes.get(parts.scheme), bool(parts.hostname) and parts.port != 0
            right = right and re.fullmatch(r"[!-~]*", parts.path) is not None
            (parts.hostname or "").encode("idna")
        except ValueError:  # a port beyond 65535, an open bracket, an invalid host name
            right = False
        if not right or scheme is None:
            raise UsageError(f"{self.url!r} is no URL of a server; one looks like {DEFAULT_URL}.")
        return f"{scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/v1')}"


def _trust(file: str | None, *, insecure: bool) -> ssl.SSLContext | None:
    """Which certificates are trusted. Raises: UsageError."""
    if insecure:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    try:
        return ssl.create_default_context(cafile=file) if file else None
    except OSError as error:  # also ssl.SSLError
        raise UsageError(f"{file} holds no certificates that can be read: {error}.") from None


def _key() -> str | None:
    """The key to send, stripped of a trailing line end. Raises: ConnectionFailedError."""
    key = os.environ.get("LOQUENT_API_KEY", "").strip()
    if not re.fullmatch(r"[ -~]*", key):
        raise ConnectionFailedError(
            "LOQUENT_API_KEY can't be a key: it holds a line end or another character that no key has. "
            "Set it to what `loquent keys new` printed."
        )
    return key or None


@dataclass(frozen=True, slots=True)
class Done:
    """How a reply ended."""

    text: str
    status: str
    reason: str | None
    usage: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sound:
    """A piece of a spoken reply: PCM, mono, 16 bits, 24,000 samples a second."""

    pcm: bytes


class Session:
    """An open session."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._item_id = ""  # of the latest reply, if it is spoken
        self.model = ""
        self.warnings: list[str] = []  # requested settings that are not available

    async def begin(self, settings: dict[str, Any]) -> None:
        """Wait for the greeting, then send the settings. Raises: _RefusedError when the server refuses access."""
        created = await self._receive(greeting=True)
        self.model = created["session"].get("model", "")
        if settings:
            await self._link.send({"type": "session.update", "session": {"type": "realtime", **settings}})
            updated = await self._expect("session.updated")
            self.warnings = (updated.get("loquent") or {}).get("warnings", [])

    async def ask(self, text: str) -> AsyncGenerator[str | Sound | Done]:
        """Send ``text``; yield the reply as it streams in, then how it ended.

        Raises: ClientError when the server refuses, ConnectionFailedError when the connection is lost.
        """
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}
        await self._link.send({"type": "conversation.item.create", "item": item})
        await self._expect("conversation.item.done")  # or an error that says why not, before a response is requested
        await self._link.send({"type": "response.create"})
        response_id = (await self._expect("response.created"))["response"]["id"]
        self._item_id = ""
        pieces: list[str] = []
        while True:
            event = await self._receive()
            match event["type"]:
                case "response.output_text.delta" | "response.output_audio_transcript.delta" if (
                    event["response_id"] == response_id
                ):
                    pieces.append(event["delta"])
                    yield event["delta"]
                case "response.output_audio.delta" if event["response_id"] == response_id:
                    self._item_id = event["item_id"]
                    yield Sound(base64.b64decode(event["delta"]))
                case "response.done" if event["response"]["id"] == response_id:
                    yield self._done(event["response"], "".join(pieces))
                    return

    async def cancel(self) -> None:
        """Cancel the reply; it still ends with a ``Done``."""
        await self._link.send({"type": "response.cancel"})

    async def append(self, pcm: bytes) -> None:
        """Send more of the user's sound: PCM, mono, 16 bits, 24,000 samples a second."""
        for begin in range(0, len(pcm), AUDIO_BYTES):
            audio = base64.b64encode(pcm[begin : begin + AUDIO_BYTES]).decode()
            await self._link.send({"type": "input_audio_buffer.append", "audio": audio})

    async def send(self, kind: str, **fields: Any) -> None:
        """Send an event of this type."""
        await self._link.send({"type": kind, **fields})

    async def events(self) -> AsyncGenerator[dict[str, Any]]:
        """Every event, errors too, for as long as it takes. Raises: ConnectionFailedError."""
        while True:
            yield await self._link.receive(None)

    async def heard(self, milliseconds: int) -> None:
        """Report how much of the latest spoken reply was heard; the rest leaves the conversation."""
        if not self._item_id:
            return
        event = {"item_id": self._item_id, "content_index": 0, "audio_end_ms": milliseconds}
        await self._link.send({"type": "conversation.item.truncate", **event})
        await self._expect("conversation.item.truncated")

    def _done(self, response: dict[str, Any], text: str) -> Done:
        details = response.get("status_details") or {}
        if response["status"] == "failed":
            raise ClientError((details.get("error") or {}).get("message") or "The reply failed.")
        return Done(text, response["status"], details.get("reason"), response.get("usage") or {})

    async def _expect(self, kind: str) -> dict[str, Any]:
        while (event := await self._receive())["type"] != kind:
            pass
        return event

    async def _receive(self, *, greeting: bool = False) -> dict[str, Any]:
        event = await self._link.receive(SILENCE_SECONDS)
        if event["type"] == "error" and greeting:
            raise _RefusedError(event["error"]["message"], event["error"].get("code") or "")
        if event["type"] == "error" and event["error"].get("code") != "response_cancel_not_active":
            raise ClientError(event["error"]["message"])
        return event


@asynccontextmanager
async def session(target: Target, *, waiting: Callable[[str], None] = lambda text: None) -> AsyncIterator[Session]:
    """Open a session. While the server loads its model, wait, and report that to ``waiting`` once; report also when the
    connection breaks and the session goes on over another one.

    Raises: ConnectionFailedError that says why, UsageError for a bad URL.
    """

    async def come_back(query: str) -> ClientConnection:
        return await _connect(target, lambda text: None, query)

    link = Link(await _connect(target, waiting), come_back, waiting)
    try:
        opened = Session(link)
        try:
            await opened.begin(target.session)
        except _RefusedError as error:
            raise _no_key(target) if error.code == "invalid_api_key" else _no_access(target, str(error)) from None
        yield opened
    finally:
        await link.close()


async def _connect(target: Target, waiting: Callable[[str], None], query: str = "") -> ClientConnection:
    headers = {"Authorization": f"Bearer {target.key}"} if target.key else {}
    secure: dict[str, Any] = {"ssl": target.tls} if target.tls and target.websocket().startswith("wss:") else {}
    deadline = asyncio.get_running_loop().time() + LOADING_SECONDS
    reported = False
    while True:
        try:
            # One attempt: without `async with` or `async for`, connect() does not retry by itself.
            return await connect(
                target.websocket(query),
                additional_headers=headers,
                open_timeout=OPEN_SECONDS,
                close_timeout=CLOSE_SECONDS,
                max_size=MESSAGE_BYTES,
                compression=None,
                proxy=None,
                **secure,
            )
        except InvalidStatus as error:
            code = _error_of(error).get("code")
            if code != "model_not_ready" or asyncio.get_running_loop().time() > deadline:
                raise _no_entry(target, error) from None
            if not reported:
                waiting("The server is loading its model …")
            reported = True
            await asyncio.sleep(RETRY_SECONDS)
        except (OSError, TimeoutError, InvalidHandshake, InvalidURI) as error:
            raise _no_entry(target, error) from None


def _error_of(error: InvalidStatus) -> dict[str, Any]:
    try:
        body: dict[str, Any] = json.loads(error.response.body or b"")["error"]
        return {**body}
    except (ValueError, KeyError, TypeError):
        return {}


def unreachable(target: Target, error: BaseException | str | None = None) -> ConnectionFailedError:
    """The error for a server that can't be reached."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectionFailedError(
            f"The certificate of {target.url} is not trusted ({error.verify_message}): "
            "name those to trust with --ca FILE, or accept any with --insecure."
        )
    if isinstance(error, ssl.SSLError):
        return ConnectionFailedError(f"{target.url} does not speak TLS as it should; is it http instead of https?")
    return ConnectionFailedError(
        f"There is no server at {target.url}: start one with `loquent serve`, or name another with --url."
    )


def _no_entry(target: Target, error: Exception) -> ConnectionFailedError:
    if not isinstance(error, InvalidStatus):
        return unreachable(target, error)
    if error.response.status_code == 401:  # of a proxy
        return _no_key(target)
    return _no_access(target, _error_of(error).get("message") or f"HTTP status {error.response.status_code}")


def _no_key(target: Target) -> ConnectionFailedError:
    return ConnectionFailedError(f"{target.url} requires a key: set LOQUENT_API_KEY to a valid one.")


def _no_access(target: Target, reason: str) -> ConnectionFailedError:
    return ConnectionFailedError(f"{target.url} refused access: {reason}")
