"""The server that a command or an adapter talks to, and how it opens sessions there."""

import os
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

from loquent import ConnectionFailedError, Session, Settings, UsageError, connect
from loquent.address import DEFAULT_URL, http_address
from loquent.texts import clean


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
        ca: str | None = None,
        insecure: bool = False,
        **settings: Any,
    ) -> Self:
        """From the command line, with ``LOQUENT_URL``, ``LOQUENT_API_KEY`` and ``LOQUENT_CA`` from the environment.

        ``settings`` are fields of ``loquent.Settings``.

        Raises: ConnectionFailedError when the key is invalid, UsageError when there are no certificates in the file.
        """
        return cls(
            url or os.environ.get("LOQUENT_URL") or DEFAULT_URL,
            _key(),
            clean(model) if model else None,
            Settings(**settings).to_event(),
            _trust(ca or os.environ.get("LOQUENT_CA") or None, insecure=insecure),
        )

    @property
    def http(self) -> str:
        """The server's address for HTTP. Raises: UsageError when the URL is invalid."""
        return http_address(self.url)


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


@asynccontextmanager
async def session(target: Target, *, waiting: Callable[[str], None] = lambda text: None) -> AsyncIterator[Session]:
    """Open a session; ``waiting`` gets what ``loquent.connect`` reports.

    Raises: ConnectionFailedError that says what to do, UsageError for a bad URL, RefusedError for bad settings.
    """
    async with AsyncExitStack() as stack:
        opening = connect(
            target.url, key=target.key, model=target.model, settings=target.session, tls=target.tls, report=waiting
        )
        try:
            opened = await stack.enter_async_context(opening)
        except ConnectionFailedError as error:
            if error.code == "invalid_api_key":
                raise no_key(target) from None
            if error.code in ("unreachable", "untrusted_certificate"):
                raise unreachable(target, error.__cause__) from None
            raise
        yield opened


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


def no_key(target: Target) -> ConnectionFailedError:
    """The error for a server that wants a key, or another one."""
    return ConnectionFailedError(f"{target.url} requires a key: set LOQUENT_API_KEY to a valid one.", "invalid_api_key")
