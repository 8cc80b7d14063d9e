"""The Wyoming adapter's listener: who may connect, how many, and how it is announced in the local network."""

import asyncio
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from clients.conversations import Conversations
from clients.target import Target
from clients.wyoming.announcing import addresses_of, announced
from clients.wyoming.frames import LINE_BYTES
from clients.wyoming.info import Describer
from clients.wyoming.peer import Peer, Services
from clients.wyoming.waking import Waking, installed
from loquent import UsageError

log = logging.getLogger(__name__)

DEFAULT_PORT = 10_700
CONNECTIONS = 64  # at a time; further ones are closed
BACKLOG = 128  # connections that are not yet accepted
SEND_BUFFER = 64 * 1024  # bytes

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Exposure:
    """Where the adapter listens, and which peers may connect besides those on this machine."""

    host: str
    port: int  # 0: any free one
    allowed: tuple[Network, ...]

    @classmethod
    def of(cls, host: str, port: int, allowed: Sequence[str]) -> "Exposure":
        """Raises: UsageError when other machines could connect and no network is named."""
        try:
            networks = tuple(ipaddress.ip_network(each, strict=False) for each in allowed)
        except ValueError as error:
            raise UsageError(f'{error}: a network looks like "192.168.1.0/24".') from None
        made = cls(host, port, networks)
        if not made.loopback and not networks:
            raise UsageError(
                f"{host} can be reached from other machines, and Wyoming has no keys: name the networks whose machines "
                "may connect (--allow 192.168.1.0/24, or [wyoming] allow), or listen on this machine only: 127.0.0.1."
            )
        return made

    @property
    def loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def admits(self, address: str) -> bool:
        """Whether a peer of this address may connect."""
        peer = ipaddress.ip_address(address.partition("%")[0])
        if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped is not None:
            peer = peer.ipv4_mapped
        return peer.is_loopback or any(peer in network for network in self.allowed if network.version == peer.version)


def bind(exposure: Exposure) -> socket.socket:
    """The socket to listen on. Raises: UsageError when the address can't be used."""
    try:
        family, *_, address = socket.getaddrinfo(
            exposure.host, exposure.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server((str(address[0]), exposure.port), family=family, backlog=BACKLOG)
    except OSError as error:
        text = f"Wyoming can't listen on {exposure.host}, port {exposure.port}: {error.strerror}."
        raise UsageError(text) from None


@asynccontextmanager
async def adapter(
    target: Target, exposure: Exposure, listener: socket.socket, *, announce: bool = True
) -> AsyncIterator[str]:
    """Serve Wyoming beside whatever runs in the context; yields the address, such as ``tcp://127.0.0.1:10700``."""
    words = installed()
    services = Services(target, Conversations(target), Describer(target, words), Waking(words))
    peers = _Peers(services, exposure)
    server = await asyncio.start_server(peers.connected, sock=listener, limit=LINE_BYTES)
    sweeping = asyncio.create_task(services.conversations.watch())
    try:
        host, port = server.sockets[0].getsockname()[:2]
        async with AsyncExitStack() as stack:
            if announce and not exposure.loopback:
                await stack.enter_async_context(announced(port, addresses_of(exposure.host)))
            yield f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
    finally:
        server.close()
        await peers.close()
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)
        await services.describer.close()


class _Peers:
    """The connections."""

    def __init__(self, services: Services, exposure: Exposure) -> None:
        self._services = services
        self._exposure = exposure
        self._peers: set[asyncio.Task[None]] = set()

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a peer, or close its connection when it may not connect or there are too many."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - the stream server makes one
        address = writer.get_extra_info("peername")[0]
        try:
            if not self._exposure.admits(address):
                log.warning("%s may not connect: it is in none of the allowed networks", address)
            elif len(self._peers) >= CONNECTIONS:
                log.warning("%s may not connect: there are %d connections", address, CONNECTIONS)
            else:
                self._peers.add(task)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
                await Peer(reader, writer, self._services).run()
        except asyncio.CancelledError:
            log.debug("the adapter ends")  # a stream server logs it as an error when it is raised
        finally:
            self._peers.discard(task)
            await _closed(writer)

    async def close(self) -> None:
        """End every connection."""
        peers = list(self._peers)
        for task in peers:
            task.cancel()
        await asyncio.gather(*peers, return_exceptions=True)


async def _closed(writer: asyncio.StreamWriter) -> None:
    """Close a connection; one whose peer does not read is cut."""
    writer.close()
    with suppress(OSError):
        async with asyncio.timeout(1):
            await writer.wait_closed()
        return
    writer.transport.abort()
