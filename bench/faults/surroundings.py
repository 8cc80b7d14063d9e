"""What the server stands on fails for a while: its disk, its database, its clock, its cache.

Run ``python -m bench.faults disk``, ``database``, ``clock`` or ``cache``. Conversations go on meanwhile; none may lose
what was acknowledged. Linux; ``disk`` and ``cache`` mount file systems in a name space of their own, which needs root;
``clock`` needs Debian's ``libfaketime``, ``database`` its ``postgresql``.
"""

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from glob import glob
from pathlib import Path
from typing import Any

import aiohttp

from bench.faults.kills import SETTINGS
from bench.faults.postgres import postgres
from bench.faults.process import Process
from bench.faults.stories import Found, stories
from pipelines.downloads.cache import cache_folder

CALM_SECONDS = 8.0  # of conversation before and behind a fault
SHORT, LONG = 15.0, 45.0  # seconds that a fault lasts: within [history] patience (30 s), and beyond it
AWAY_SECONDS = 30.0  # of the database
DISK = "8m"
DAY_SECONDS = 86_400
DAYS = 3  # by which the clock jumps
FAKETIME = "/usr/lib/*/faketime/libfaketime.so.1"


@dataclass(frozen=True)
class Outcome:
    """What came of one fault."""

    fault: str
    found: Found
    exit_code: int

    def __str__(self) -> str:
        found = self.found
        return "\n".join(
            [
                f"{self.fault}: {found.turns} turns, the longest took {found.longest:.1f} s, clients were sent away "
                f"{found.sent_away} times, {found.items} items acknowledged: {len(found.wrong)} wrong, exit code "
                f"{self.exit_code}",
                *found.wrong,
            ]
        )

    @property
    def good(self) -> bool:
        """Whether nothing was lost."""
        return self.found.turns > 0 and not self.found.wrong and self.exit_code == 0


Happens = Callable[[Process], Any]  # an async function


async def _amid(server: Process, fault: str, happens: Happens, *, patient: bool = False) -> Outcome:
    """Let something happen amid conversations."""
    server.start()
    try:
        await server.ready()
        async with stories(server, patient=patient) as found:
            await asyncio.sleep(CALM_SECONDS)
            await happens(server)
            await asyncio.sleep(CALM_SECONDS)
        exit_code = await asyncio.to_thread(server.end)
    finally:
        if server.alive:
            server.kill()
    return Outcome(fault, found, exit_code)


async def disk(seconds: float) -> Outcome:
    """The disk of the history is full for so long."""
    with tempfile.TemporaryDirectory() as folder:
        mount = f"mount -t tmpfs -o size={DISK} tmpfs {folder}"
        server = Process({**SETTINGS, "history.store": f"sqlite:///{folder}/history.db"}, within=_name_space(mount))

        async def fill(server: Process) -> None:
            inside = Path(f"/proc/{server.running.pid}/root{folder}/full")  # only the server's name space has it
            await asyncio.to_thread(_fill, inside)
            await asyncio.sleep(seconds)
            await asyncio.to_thread(inside.unlink)

        return await _amid(server, f"the disk is full for {seconds:.0f} s", fill, patient=True)


def _fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


async def database() -> Outcome:
    """PostgreSQL ends, and is started again after half a minute."""
    with postgres() as running:
        if running is None:
            raise SystemExit("PostgreSQL is not installed (Debian: apt install postgresql).")
        server = Process({**SETTINGS, "history.store": await asyncio.to_thread(running.new_database)})

        async def away(server: Process) -> None:
            await asyncio.to_thread(running.stop)
            await asyncio.sleep(AWAY_SECONDS)
            await asyncio.to_thread(running.start)

        return await _amid(server, f"the database is gone for {AWAY_SECONDS:.0f} s", away, patient=True)


async def clock() -> Outcome:
    """The clock jumps by three days, and back."""
    library = next(iter(glob(FAKETIME)), None)
    if library is None:
        raise SystemExit("libfaketime is not installed (Debian: apt install libfaketime).")
    with tempfile.TemporaryDirectory() as folder:
        offset = Path(folder) / "offset"
        true_time = "+0"
        await asyncio.to_thread(offset.write_text, true_time)
        environment = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(offset),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        settings = {**SETTINGS, "history.store": f"sqlite:///{folder}/history.db", "history.days": 1}
        server = Process(settings, environment=environment)

        async def jump(server: Process) -> None:
            for days in (DAYS, -DAYS, 0):
                await asyncio.to_thread(offset.write_text, f"{days:+d}d" if days else true_time)
                await asyncio.sleep(SHORT)
                off = await _date(server) - time.time()
                if abs(off - days * DAY_SECONDS) > DAY_SECONDS / 2:
                    raise AssertionError(f"the server's clock did not jump: it is {off:.0f} s off")

        return await _amid(server, f"the clock jumps by {DAYS} days, forward and back", jump)


async def _date(server: Process) -> float:
    async with aiohttp.ClientSession() as http, http.get(f"{server.url}/livez") as response:
        return parsedate_to_datetime(response.headers["Date"]).timestamp()


async def cache() -> Outcome:
    """The cache, with the models and the kernels, can't be written."""
    folder = cache_folder()
    mount = f"mount --bind {folder} {folder} && mount -o remount,ro,bind {folder}"

    async def nothing(server: Process) -> None:
        inside = Path(f"/proc/{server.running.pid}/root{folder}")
        if not os.statvfs(inside).f_flag & os.ST_RDONLY:
            raise AssertionError("the cache can be written")

    with tempfile.TemporaryDirectory() as data:
        server = Process({"history.store": f"sqlite:///{data}/history.db"}, within=_name_space(mount))
        return await _amid(server, "the cache is read-only from the start, all stages", nothing)


def _name_space(mount: str) -> tuple[str, ...]:
    """The words before a command that runs where these file systems are mounted. Raises: SystemExit."""
    if os.geteuid() or shutil.which("unshare") is None:
        raise SystemExit("This row mounts file systems in a name space of its own: it needs root, and unshare.")
    return ("unshare", "--mount", "sh", "-c", f'{mount} && exec "$0" "$@"')
