"""Slow-loris: sockets that send a byte a second, and what other clients feel of them.

Run ``python -m bench.faults slow``: ``--count`` sockets (200) each send a request's header, a body, or a websocket's
frame. The server must cut each of them; an attack ends with the last one, or after ``PATIENCE``.
"""

import asyncio
import time
from collections.abc import Callable
from functools import partial

from bench.faults.attack import CHAT, Attack, Target, launch, opened, until_cut
from bench.faults.bystanders import Felt, bystanding, measured
from bench.faults.fates import STILL_THERE, Fates
from bench.faults.raw import masked

PATIENCE = 90.0  # seconds; [limits] keep_alive and twice heartbeat are less
HEADER = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nX-Slow: " + b"a" * 4096
BODY = b'{"messages": [' + b" " * 4096


async def _slowly(target: Target, fates: Fates, *, head: str = "", text: bytes, websocket: bool = False) -> None:
    begun = time.monotonic()
    try:
        async with opened(target, websocket=websocket) as streams:
            writer, coming = streams[1], iter(text)
            writer.write(head.format(host=target.name).encode())

            async def send() -> None:
                writer.write(bytes([next(coming)]))
                await writer.drain()
                await asyncio.sleep(1.0)

            await until_cut(target, fates, streams, send)
    except (OSError, asyncio.IncompleteReadError) as error:
        fates.add(str(error) or type(error).__name__, time.monotonic() - begun)


SLOW: dict[str, Attack] = {
    "header": partial(_slowly, text=HEADER),
    "body": partial(_slowly, head=CHAT + "Content-Length: 4000\r\n\r\n", text=BODY),
    "frame": partial(_slowly, text=masked(0x1, b" " * 4096), websocket=True),
}


async def slow(
    url: str, sockets: int = 200, *, pairs: int = 3, seconds: float = 10.0, patience: float = PATIENCE
) -> list[Felt]:
    """Try each kind with so many sockets."""
    found = []
    async with bystanding(url) as bystanders:
        for kind in SLOW:
            fates = Fates()

            async def creep(begun: Callable[[], None], kind: str = kind, fates: Fates = fates) -> None:
                fates.merge(await launch(kind, url, sockets, patience, begun=begun))

            felt = await bystanders.alternate(f"{kind} × {sockets}", creep, pairs=pairs, seconds=seconds)
            felt.fates.append(str(fates))
            felt.left = fates.found.get(STILL_THERE, (0, 0.0))[0]
            found.append(felt)
    return found


async def row(count: int = 200, pairs: int = 3, seconds: float = 10.0) -> tuple[str, bool]:
    """The row of the bench: what was found, and whether it is good."""
    return await measured(lambda url: slow(url, count, pairs=pairs, seconds=seconds))
