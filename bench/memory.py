"""The memory of a server and its children, in bytes, and what it grows by."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.clients import Client
from bench.loads import New, clients, question
from bench.results import Figures

STEADY_REQUESTS, STEADY_TOKENS, STEADY_CLIENTS = 2000, 8, 16
TOUCHING_REQUESTS = 1000  # before memory counts: every KV cache slot is written, and every cache of a shape is filled


@dataclass(frozen=True)
class Memory:
    """What a server and its children hold, in bytes."""

    resident: int
    proportional: int  # where several processes share a page, each counts its part
    peak: int  # the most that was ever resident

    @classmethod
    def of(cls, pid: int) -> "Memory":
        """Of the process and its children, as they are now."""
        family = _family(pid)
        full = [process.memory_full_info() for process in family]
        return cls(sum(each.rss for each in full), sum(each.pss for each in full), sum(map(_peak, family)))


def _peak(process: psutil.Process) -> int:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)


async def steady(new: New, pid: int, seed: int, share: float = 1.0) -> Figures:
    """Many short requests on ever new connections: what memory grows by once everything has been touched.

    ``share`` of the requests that are usual.
    """
    left: Iterator[int] = iter(())
    touching, counted = round(TOUCHING_REQUESTS * share), round(STEADY_REQUESTS * share)
    async with clients(new, STEADY_CLIENTS) as users:

        async def ask(user: Client) -> None:
            for turn, number in enumerate(left):
                await user.ask(question(number), STEADY_TOKENS)
                if turn % 10 == 0:
                    await user.close()  # what a session leaves behind counts too

        marks = [private(pid)]
        for first, count in ((seed, touching), (seed + touching, counted)):
            left = iter(range(first, first + count))
            await asyncio.gather(*(ask(user) for user in users))
            await asyncio.sleep(1.0)  # what goes on beside replies has ended
            marks.append(private(pid))
    return {
        "touched": (marks[1] - marks[0]) / 2**20,
        "grown": (marks[2] - marks[1]) / 1024 / counted,
        "now": Memory.of(pid).resident / 2**20,
    }


def private(pid: int) -> int:
    """Bytes of a server and its children that they share with no other process, as they do pages of mapped files."""
    return sum(process.memory_full_info().uss for process in _family(pid))


def _family(pid: int) -> list[psutil.Process]:
    server = psutil.Process(pid)
    return [server, *server.children(recursive=True)]
