"""What a server's metrics say while clients stall."""

import asyncio
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import aiohttp

from bench.faults.bystanders import COUNT

LEAVING_SECONDS = 75.0  # until all slots must be free: [sessions] linger as shipped, and some
WATCHED = ("loquent_dropped_total", "loquent_requests_running", "loquent_speech_speaking")
MEMORY = "process_resident_memory_bytes"


@dataclass
class Watch:
    """What the server's metrics said."""

    cut: list[float] = field(default_factory=list)  # seconds until each client was dropped
    grown: int = 0  # bytes of resident memory, at most
    freed: float = 0.0  # seconds behind the attack until all slots were free
    left: list[str] = field(default_factory=list)  # slots that never were

    async def watch(self, http: aiohttp.ClientSession, url: str) -> None:
        """Note when clients are dropped, and how much memory is taken, until cancelled."""
        begun, before = time.monotonic(), await metrics(http, url)
        while True:
            now = await metrics(http, url)
            dropped = int(now[WATCHED[0]] - before[WATCHED[0]])
            self.cut += [time.monotonic() - begun] * (dropped - len(self.cut))
            self.grown = max(self.grown, int(now[MEMORY] - before[MEMORY]))
            await asyncio.sleep(0.25)

    async def free(self, http: aiohttp.ClientSession, url: str) -> None:
        """Wait until no reply but those of the bystanders is in progress."""
        begun = time.monotonic()
        while (now := await metrics(http, url))[WATCHED[1]] > COUNT or now[WATCHED[2]] > 0:
            if time.monotonic() > begun + LEAVING_SECONDS:
                self.left.append(f"{now[WATCHED[1]]:.0f} replies and {now[WATCHED[2]]:.0f} spoken ones go on")
                return
            await asyncio.sleep(0.1)
        self.freed = max(self.freed, time.monotonic() - begun)


async def metrics(http: aiohttp.ClientSession, url: str, names: Sequence[str] = (*WATCHED, MEMORY)) -> dict[str, float]:
    """The metrics with these names; 0 where the server has none."""
    async with http.get(f"{url}/metrics") as response:
        text = await response.text()
    found = {name: re.search(rf"^{name} (\S+)$", text, re.MULTILINE) for name in names}
    return {name: float(value[1]) if value else 0.0 for name, value in found.items()}
