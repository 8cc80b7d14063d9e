"""Opens the websocket of a session."""

import asyncio
import json
import re
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidHandshake, InvalidStatus, InvalidURI

from loquent.address import websocket_address
from loquent.errors import ConnectionFailedError, UsageError
from loquent.texts import clean

OPEN_SECONDS = 10.0
CLOSE_SECONDS = 2.0
LOADING_SECONDS = 120.0  # at most, while a server loads its model
RETRY_SECONDS = 0.5
MESSAGE_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Server:
    """A server, and how to enter."""

    url: str
    key: str | None = field(default=None, repr=False)
    model: str | None = None
    tls: ssl.SSLContext | None = None  # whose certificates are trusted; None: those that the system trusts

    def __post_init__(self) -> None:
        """Raises: UsageError for an address or a key that can't be one."""
        websocket_address(self.url)
        if self.key and not re.fullmatch(r"[ -~]+", self.key):
            raise UsageError(
                "The key can't be one: it holds a line end or another character that no key has.", "invalid_key"
            )

    async def open(self, report: Callable[[str], None], query: str = "") -> ClientConnection:
        """Open a websocket; while the server loads its model, wait, and report that once.

        Raises: ConnectionFailedError that says why.
        """
        address = websocket_address(self.url, clean(self.model) if self.model else None, query)
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        secure: dict[str, Any] = {"ssl": self.tls} if self.tls and address.startswith("wss:") else {}
        deadline = asyncio.get_running_loop().time() + LOADING_SECONDS
        reported = False
        while True:
            try:
                # One attempt: without `async with` or `async for`, connect() does not retry by itself.
                return await connect(
                    address,
                    additional_headers=headers,
                    open_timeout=OPEN_SECONDS,
                    close_timeout=CLOSE_SECONDS,
                    max_size=MESSAGE_BYTES,
                    compression=None,
                    proxy=None,
                    **secure,
                )
            except InvalidStatus as error:
                code, message = _problem(error)
                if code != "model_not_ready" or asyncio.get_running_loop().time() > deadline:
                    raise no_access(self.url, message, code) from error
            except (OSError, TimeoutError, InvalidHandshake, InvalidURI) as error:
                raise unreachable(self.url, error) from error
            if not reported:
                report("The server is loading its model …")
            reported = True
            await asyncio.sleep(RETRY_SECONDS)


def _problem(error: InvalidStatus) -> tuple[str, str]:
    """The code and the message of a handshake that was refused."""
    status = error.response.status_code
    try:
        problem = dict(json.loads(error.response.body or b"")["error"])
    except (ValueError, KeyError, TypeError, RecursionError):
        problem = {}
    code = "invalid_api_key" if status == 401 else str(problem.get("code") or "")  # 401: of a proxy
    return code, str(problem.get("message") or f"HTTP status {status}")


def no_access(url: str, reason: str, code: str) -> ConnectionFailedError:
    """The error for a server that refuses access."""
    if code == "invalid_api_key":
        return ConnectionFailedError(f"{url} requires a key, and a valid one: connect(…, key=…).", code)
    return ConnectionFailedError(f"{url} refused access: {reason}", code)


def unreachable(url: str, error: BaseException) -> ConnectionFailedError:
    """The error for a server that can't be reached."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return ConnectionFailedError(
            f"The certificate of {url} is not trusted ({error.verify_message}): name those to trust, "
            "connect(…, tls=ssl.create_default_context(cafile=…)).",
            "untrusted_certificate",
        )
    if isinstance(error, ssl.SSLError):
        return ConnectionFailedError(
            f"{url} does not speak TLS as it should; is it http instead of https?", "unreachable"
        )
    return ConnectionFailedError(f"There is no server at {url}.", "unreachable")
