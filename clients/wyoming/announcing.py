"""Zeroconf: the adapter is announced in the local network, so that Home Assistant finds it by itself."""

import ipaddress
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import ifaddr
from zeroconf import InterfaceChoice
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

SERVICE = "_wyoming._tcp.local."
NAME_LENGTH = 60  # of 63 bytes that a label may have

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@asynccontextmanager
async def announced(port: int, addresses: Sequence[Address]) -> AsyncIterator[str]:
    """Announced with these addresses, and only in their networks, for as long as the context lasts; yields the name."""
    host = socket.gethostname().partition(".")[0]
    name = f"loquent-{host}"[:NAME_LENGTH]
    info = AsyncServiceInfo(
        SERVICE, f"{name}.{SERVICE}", port=port, addresses=[each.packed for each in addresses], server=f"{name}.local."
    )
    cards = [str(each) for each in addresses if each.version == 4]
    announcer = AsyncZeroconf(interfaces=cards or InterfaceChoice.All)
    try:
        sending = await announcer.async_register_service(info, allow_name_change=True)
        try:
            yield info.name
        finally:
            await sending
    finally:
        await announcer.async_unregister_all_services()
        await announcer.async_close()


def addresses_of(host: str) -> list[Address]:
    """The addresses by which other machines reach a listener on ``host``: its own, or all of this machine's."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        address = ipaddress.ip_address(socket.gethostbyname(host))
    if not address.is_unspecified:
        return [address]
    found = [ipaddress.ip_address(ip.ip) for card in ifaddr.get_adapters() for ip in card.ips if isinstance(ip.ip, str)]
    return [each for each in found if not each.is_loopback]
