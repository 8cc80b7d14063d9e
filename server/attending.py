"""What runs while a server serves: its pipeline starts, and it is waited for that it is to stop."""

import asyncio
from collections.abc import Callable
from typing import Any

from pipelines.downloads.progress import Progress
from server.backend import Backend

START_PATIENCE = 2.0  # seconds to wait for model preparation to stop


async def attend(
    backend: Backend, *, stop: asyncio.Event, show: Callable[[Progress], None], ready: Callable[[], Any]
) -> None:
    """Start the pipeline of what is being served, and return once ``stop`` is set, with the drain begun.

    ``ready`` is called once turns are accepted. Raises: what preparing or loading the models raises.
    """
    starting = asyncio.create_task(backend.pipeline.start(show), name="start")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    try:
        await asyncio.wait([starting, stopping], return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            starting.result()
            ready()
            await stopping
    finally:
        backend.draining = True
        for task in (starting, stopping):
            task.cancel()
        _, stuck = await asyncio.wait([starting, stopping], timeout=START_PATIENCE)
        for left in stuck:  # a download or conversion can't be interrupted; its thread ends with the process
            left.cancel()
            await asyncio.wait([left])
