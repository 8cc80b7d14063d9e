"""Floods: what other clients feel while sockets send as fast as they can.

Run ``python -m bench.faults floods``: each flood comes from one socket and from ``--count`` of them (20), in phases of
``--seconds`` (10) between quiet ones, against one server. A flooder that is cut comes back at once. They run in a
process of their own at a low priority: see ``bench.faults.attack``.
"""

from collections.abc import Callable
from functools import partial

from bench.faults.attack import BURST, CHAT, LIMIT, PIPELINED, Attack, Target, launch, opened, until_cut
from bench.faults.bystanders import Felt, bystanding, measured
from bench.faults.fates import Fates
from bench.faults.raw import masked

TINY = b'{"type":"x"}'
TEXT, CONTINUATION, PING = 0x1, 0x0, 0x9


async def connects(target: Target, fates: Fates) -> None:
    """A handshake, and away."""
    async with opened(target, websocket=True):
        fates.add("HTTP 101", 0.0)


async def _frames(target: Target, fates: Fates, *, first: bytes = b"", frames: bytes) -> None:
    async with opened(target, websocket=True) as streams:
        streams[1].write(first)

        async def send() -> None:
            streams[1].write(frames)
            await streams[1].drain()

        await until_cut(target, fates, streams, send)


async def _requests(target: Target, fates: Fates, *, request: str) -> None:
    """Requests, pipelined; each may take the connection with it."""
    batch = request.format(host=target.name).encode() * PIPELINED
    async with opened(target, websocket=False) as streams:

        async def send() -> None:
            streams[1].write(batch)
            await streams[1].drain()

        await until_cut(target, fates, streams, send)


def _many(frame: bytes) -> bytes:
    return frame * (BURST // len(frame))


def _of_size(size: int) -> bytes:
    head, tail = b'{"type":"x","pad":"', b'"}'
    return masked(TEXT, head + b"a" * (size - len(head) - len(tail)) + tail)


FLOODS: dict[str, Attack] = {
    "connects": connects,
    "pings": partial(_frames, frames=_many(masked(PING, b""))),
    "tiny": partial(_frames, frames=_many(masked(TEXT, TINY))),
    "fragments": partial(
        _frames, first=masked(TEXT, b"{", final=False), frames=_many(masked(CONTINUATION, b" ", final=False))
    ),
    "limit": partial(_frames, frames=_of_size(LIMIT)),
    "above": partial(_frames, frames=_of_size(LIMIT + 1)),
    "claims": partial(_frames, frames=masked(TEXT, bytes(1024), claims=1 << 62)),
    "get": partial(_requests, request="GET /livez HTTP/1.1\r\nHost: {host}\r\n\r\n"),
    "post": partial(_requests, request=CHAT + "Content-Length: 7\r\n\r\n{{'bad'}}"),
}


async def floods(
    url: str, sockets: int = 20, *, pairs: int = 3, seconds: float = 10.0, kinds: tuple[str, ...] = tuple(FLOODS)
) -> list[Felt]:
    """Try each kind from one socket and from so many."""
    found = []
    async with bystanding(url) as bystanders:
        for kind in kinds:
            for count in sorted({1, sockets}):
                fates = Fates()

                async def flood(
                    begun: Callable[[], None], kind: str = kind, count: int = count, fates: Fates = fates
                ) -> None:
                    fates.merge(await launch(kind, url, count, seconds, begun=begun))

                felt = await bystanders.alternate(f"{kind} × {count}", flood, pairs=pairs, seconds=seconds)
                felt.fates.append(str(fates))
                found.append(felt)
    return found


async def row(count: int = 20, pairs: int = 3, seconds: float = 10.0) -> tuple[str, bool]:
    """The row of the bench: what was found, and whether it is good."""
    return await measured(lambda url: floods(url, count, pairs=pairs, seconds=seconds))
