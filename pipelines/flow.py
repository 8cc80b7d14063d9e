"""Stages as middleware: each one wraps the rest of the pipeline.

A stage takes a turn and ``next``, the rest of the pipeline. It may change the turn before it calls ``next``, answer
without calling it, call it twice, or change the events that come back; what it does not handle it passes on. The
innermost stage is the language model.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass

from pipelines.events import Event, Finished, StageError, Turn

Next = Callable[[Turn], AsyncGenerator[Event]]
Stage = Callable[[Turn, Next], AsyncGenerator[Event]]


@asynccontextmanager
async def flow(turn: Turn, stages: Sequence[Stage]) -> AsyncIterator[AsyncGenerator[Event]]:
    """Run ``turn`` through ``stages``, outermost first; yields the events of the reply, which end with ``Finished``.

    Leaving the block, however it happens, closes every stage, innermost first, also those whose stream a stage dropped.

    Raises: StageError ``reply_incomplete`` in the stream when the stages end without ``Finished``.
    """
    opened: list[AsyncGenerator[Event]] = []  # bounded by how often the stages call ``next``

    def compose(depth: int) -> Next:
        def run(turn: Turn) -> AsyncGenerator[Event]:
            if depth == len(stages):
                raise RuntimeError("the last stage called next, and there is nothing behind it")
            opened.append(stages[depth](turn, compose(depth + 1)))
            return opened[-1]

        return run

    async with AsyncExitStack() as closing:
        closing.push_async_callback(_close_all, opened)
        async with aclosing(_complete(compose(0)(turn))) as events:
            yield events


async def _complete(events: AsyncGenerator[Event]) -> AsyncGenerator[Event]:
    """The events up to ``Finished``. Raises: StageError where it is missing, or something within was cancelled."""
    async with aclosing(events):
        try:
            async for event in events:
                yield event
                if isinstance(event, Finished):
                    return
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise  # the reader is to end
    raise StageError("internal", "reply_incomplete", "The reply ended before it was complete.")


async def _close_all(opened: Sequence[AsyncGenerator[Event]]) -> None:
    """Close what is still open. A stage that closes what it opened has left nothing to do here."""
    async with AsyncExitStack() as closing:
        for events in opened:
            closing.push_async_callback(events.aclose)


@dataclass(frozen=True, slots=True)
class _End:
    error: BaseException | None


async def ahead(events: AsyncGenerator[Event], limit: int) -> AsyncGenerator[Event]:
    """The same events; their source, which is closed with this, runs ahead of the reader by at most ``limit`` of them.

    Raises: ValueError where ``limit`` is below 1; what the source raises.
    """
    if limit < 1:
        raise ValueError(f"ahead needs room for at least 1 event, not {limit}")
    queue: asyncio.Queue[Event | _End] = asyncio.Queue(maxsize=limit)
    closing = False

    async def pump() -> None:
        error: BaseException | None = None
        try:
            async for event in events:
                await queue.put(event)
        except BaseException as raised:  # a CancelledError of the source's own too: the reader must not wait for ever
            if closing:
                raise
            error = raised
        await queue.put(_End(error))

    task = asyncio.create_task(pump(), name="ahead")
    try:
        while not isinstance(item := await queue.get(), _End):
            yield item
        if item.error is not None:
            raise item.error
    finally:
        closing = True
        task.cancel()
        await asyncio.wait([task])
        await events.aclose()
