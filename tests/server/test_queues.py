"""The queue between a connection's tasks."""

import asyncio

import pytest

from server.realtime.queues import OVERHEAD, ByteQueue


async def test_items_come_out_in_their_order() -> None:
    queue: ByteQueue[int] = ByteQueue(10_000)
    for number in range(5):
        await queue.put(number, 10)
    assert [await queue.get() for _ in range(5)] == list(range(5))
    assert queue.held == 0


async def test_bytes_bound_it_and_not_the_number_of_items() -> None:
    queue: ByteQueue[str] = ByteQueue(4 * OVERHEAD)
    await queue.put("large", 3 * OVERHEAD)
    waiting = asyncio.create_task(queue.put("small", 1))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not waiting.done()
    assert queue.held == 4 * OVERHEAD
    assert await queue.get() == "large"
    await waiting
    assert await queue.get() == "small"


@pytest.mark.parametrize("size", [0, 10**9])
async def test_an_item_always_fits_into_an_empty_queue(size: int) -> None:
    queue: ByteQueue[str] = ByteQueue(1024)
    await queue.put("any", size)
    assert await queue.get() == "any"


async def test_who_is_cancelled_leaves_nothing_behind() -> None:
    queue: ByteQueue[str] = ByteQueue(1024)
    await queue.put("first", 2000)
    for coroutine in (queue.put("second", 1),):
        task = asyncio.create_task(coroutine)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
    assert await queue.get() == "first"
    taking = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    taking.cancel()
    await asyncio.wait([taking])
    await queue.put("third", 1)
    assert await queue.get() == "third"
