"""What ``loquent serve`` runs beside the server, in its process: an adapter that is a client of it."""

import asyncio
import ipaddress
import logging
import socket
import ssl
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from server.access.keyring import Keyring
from server.access.keys import new_key
from server.commands import streams
from server.commands.failure import Exit, Failure
from server.config import ServerSettings, Settings, hash_key

if TYPE_CHECKING:
    from clients.wyoming.adapter import Exposure

log = logging.getLogger(__name__)


class Beside:
    """The Wyoming adapter of this process, where ``[wyoming] port`` asks for one."""

    def __init__(self, settings: Settings) -> None:
        """Bind its address. Raises: Failure with what to do."""
        self._settings = settings
        self._key = new_key() if _wants_key(settings.server) else None  # known to this process only
        self._stack = AsyncExitStack()
        self._starting: asyncio.Task[None] | None = None
        self._bound = self._bind() if settings.wyoming.port else None

    @property
    def settings(self) -> Settings:
        """The settings for the server, which admits the adapter too."""
        if self._bound is None or self._key is None:
            return self._settings
        server = self._settings.server
        keys = (*server.keys, hash_key(self._key))
        return self._settings.model_copy(update={"server": server.model_copy(update={"keys": keys})})

    def _bind(self) -> "tuple[Exposure, socket.socket]":
        try:
            from clients.wyoming.adapter import Exposure, bind
            from loquent import UsageError
        except ModuleNotFoundError as error:
            text = f"[wyoming] port needs the module {error.name}: pip install 'loquent[wyoming]', or set it to 0."
            raise Failure(Exit.USAGE, text) from None
        wanted = self._settings.wyoming
        try:
            exposure = Exposure.of(wanted.host, wanted.port, wanted.allow)
            return exposure, bind(exposure)
        except UsageError as error:
            raise Failure(Exit.USAGE, str(error)) from None

    def start(self, address: str) -> None:
        """Start the adapter of a server that is ready at this address."""
        if self._bound is not None:
            self._starting = asyncio.create_task(self._run(address, *self._bound), name="wyoming")

    async def _run(self, address: str, exposure: "Exposure", listener: socket.socket) -> None:
        from clients.target import Target
        from clients.wyoming.adapter import adapter

        session = {"output_modalities": ["text"]}
        target = Target(own_address(address), self._key, None, session, _trust(self._settings.server))
        here = await self._stack.enter_async_context(adapter(target, exposure, listener))
        streams.announce(f"Wyoming listens on {here}")

    async def stop(self) -> None:
        """End it."""
        if self._starting is not None:
            try:
                await self._starting
            except Exception:
                log.exception("the Wyoming adapter did not start")
        elif self._bound is not None:
            self._bound[1].close()
        await self._stack.aclose()


def _wants_key(settings: ServerSettings) -> bool:
    return Keyring(settings).required


def own_address(address: str) -> str:
    """The address by which a process reaches its own server, which may listen on any address of this machine."""
    parts = urlsplit(address)
    host = ipaddress.ip_address(parts.hostname or "127.0.0.1")
    if not host.is_unspecified:
        return address
    return f"{parts.scheme}://{'127.0.0.1' if host.version == 4 else '[::1]'}:{parts.port}"


def _trust(settings: ServerSettings) -> ssl.SSLContext | None:
    """The process's own certificate is for other names than the one by which it reaches itself."""
    if not settings.tls:
        return None
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
