"""Runs the turns of one request through the pipeline."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

from pipelines.events import Event, Turn
from server.access.caller import Caller
from server.backend import Backend

T = TypeVar("T")


async def one_reply(backend: Backend, turn: Turn, origin: str, caller: Caller) -> AsyncGenerator[Event]:
    """The events of one turn's reply; closing this closes every stage."""
    async with backend.flow(turn, origin, caller, counts=False) as events:
        async for event in events:
            yield event


async def replies(
    backend: Backend, turns: Sequence[Turn], origin: str, caller: Caller
) -> AsyncGenerator[tuple[int, Event]]:
    """The events of several replies, each with its turn's index; a failure of one ends them all.

    Where the turns have one prompt, the engine prefills it once: the others wait for it and take it from the cache.
    """
    running = [one_reply(backend, turn, origin, caller) for turn in turns]
    if len(running) > 1:
        async with aclosing(together(running)) as events:
            async for each in events:
                yield each
        return
    async with aclosing(running[0]) as reply:
        async for event in reply:
            yield 0, event


async def together(sources: Sequence[AsyncGenerator[T]]) -> AsyncGenerator[tuple[int, T]]:
    """What comes from several sources at the same time, each with its source's index; closes all of them.

    Each source is read and closed by a task of its own, one item ahead of the reader. The first failure ends them all.

    Raises: what the first failing source raises.
    """
    queue: asyncio.Queue[tuple[int, T] | BaseException | None] = asyncio.Queue(maxsize=len(sources))

    async def pump(index: int) -> None:
        try:
            async with aclosing(sources[index]) as source:
                async for item in source:
                    await queue.put((index, item))
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # raised again where it is read
            await queue.put(error)
        else:
            await queue.put(None)

    tasks = [asyncio.create_task(pump(index), name=f"choice-{index}") for index in range(len(sources))]
    left = len(tasks)
    try:
        while left:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


class Stop:
    """Lets another task end a reply that is being read by ``until``."""

    def __init__(self) -> None:
        self.asked = False
        self.waiting: asyncio.Timeout | None = None  # of ``until``, while it waits

    def ask(self) -> None:
        """End it, now."""
        self.asked = True
        if self.waiting is not None:
            self.waiting.reschedule(asyncio.get_running_loop().time())


async def until(source: AsyncGenerator[T], stop: Stop) -> AsyncGenerator[T]:
    """What comes from ``source``, which the caller closes, until ``stop`` is asked for. Costs no task an item."""
    while not stop.asked:
        try:
            async with asyncio.timeout(None) as stop.waiting:
                item = await anext(source)
        except StopAsyncIteration:
            return
        except TimeoutError:
            if stop.asked:
                return
            raise
        finally:
            stop.waiting = None
        yield item
