"""The processes of the load, which share its users."""

import asyncio
import gc
import multiprocessing
import resource
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import aiohttp

from bench.load.figures import Measured, joined
from bench.load.plan import Load, Visit, visits
from bench.load.user import Target, visit

STARTING = 3.0  # seconds until every process is there
DESCRIPTORS = 64_000  # sockets of one process, at most


def run(load: Load, target: Target, processes: int) -> Measured:
    """Run the load; its processes share the users in turn."""
    plan = list(visits(load))
    target = replace(target, begun=time.monotonic() + STARTING)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context) as pool:
        parts = pool.map(_share, [target] * processes, [plan[n::processes] for n in range(processes)])
        return joined(parts)


def _share(target: Target, plan: Sequence[Visit]) -> Measured:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, DESCRIPTORS), hard), hard))
    gc.freeze()  # a collection of everything would be measured as the server's
    return asyncio.run(_visits(target, plan))


async def _visits(target: Target, plan: Sequence[Visit]) -> Measured:
    measured = Measured(visits=len(plan))
    here = 0

    async def come(http: aiohttp.ClientSession, each: Visit) -> None:
        nonlocal here
        await asyncio.sleep(target.begun + each.comes - time.monotonic() - 0.05)
        here += 1
        measured.most = max(measured.most, here)
        try:
            await visit(http, target, each, measured)
        finally:
            here -= 1

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http, asyncio.TaskGroup() as group:
        for each in plan:
            group.create_task(come(http, each))
    return measured
