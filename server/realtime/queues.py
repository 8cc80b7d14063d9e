"""A queue that is bounded by the bytes of its items, and so by their number."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")

OVERHEAD = 512  # bytes that each item counts besides its size


class ByteQueue(Generic[Item]):
    """Holds at most ``limit`` bytes of items, each counted with ``OVERHEAD``; a larger one enters when it is empty."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._items: deque[tuple[Item, int]] = deque()  # bounded by ``limit``
        self._held = 0
        self._changed = asyncio.Condition()

    @property
    def held(self) -> int:
        """Bytes in the queue."""
        return self._held

    async def put(self, item: Item, size: int = 0) -> None:
        """Add an item of ``size`` bytes; waits until there is room for it."""
        size += OVERHEAD
        async with self._changed:
            while self._held and self._held + size > self._limit:
                await self._changed.wait()
            self._items.append((item, size))
            self._held += size
            self._changed.notify_all()

    async def get(self) -> Item:
        """The oldest item; waits until there is one."""
        async with self._changed:
            while not self._items:
                await self._changed.wait()
            item, size = self._items.popleft()
            self._held -= size
            self._changed.notify_all()
            return item
