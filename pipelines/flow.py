"""Chains stages into one stream of events, and closes them in the right order.

A stage is a function from a stream of events to a stream of events. It handles the kinds that it knows and
forwards the rest. Leaving the ``flow`` block, however it happens, closes every stage, the last one first.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass

from pipelines.events import Event, Turn

Stage = Callable[[AsyncGenerator[Event]], AsyncGenerator[Event]]


async def _only(turn: Turn) -> AsyncGenerator[Event]:
    yield turn


@asynccontextmanager
async def flow(turn: Turn, *stages: Stage) -> AsyncIterator[AsyncGenerator[Event]]:
    """Run ``turn`` through ``stages``; yields the stream that leaves the last one."""
    async with aclosing(_only(turn)) as events, chain(events, *stages) as out:
        yield out


@asynccontextmanager
async def chain(events: AsyncGenerator[Event], *stages: Stage) -> AsyncIterator[AsyncGenerator[Event]]:
    """The same for a stream of events that the caller closes."""
    async with AsyncExitStack() as opened:
        for stage in stages:
            events = stage(events)
            opened.push_async_callback(events.aclose)
        yield events


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


def ahead(limit: int) -> Stage:
    """A stage that lets the ones before it run ahead of the ones after it: up to ``limit`` events wait here."""
    if limit < 1:
        raise ValueError(f"ahead(limit) needs a limit of at least 1, not {limit}")

    async def stage(events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
        queue: asyncio.Queue[Event | _End] = asyncio.Queue(maxsize=limit)

        async def pump() -> None:
            error: BaseException | None = None
            try:
                async for event in events:
                    await queue.put(event)
            except Exception as raised:
                error = raised
            await queue.put(_End(error))

        task = asyncio.create_task(pump(), name="ahead")
        try:
            while not isinstance(item := await queue.get(), _End):
                yield item
            if item.error is not None:
                raise item.error
        finally:
            task.cancel()
            await asyncio.wait([task])

    return stage
