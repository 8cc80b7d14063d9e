"""Stores the responses and conversations of ``/v1/responses``, each tenant's for itself.

``ResponseStore`` is what the handlers need; ``MemoryStore`` holds everything in memory, within bounds.
"""

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

Json = dict[str, Any]

OVERHEAD = 1024  # bytes that a record counts for besides its text


@dataclass(frozen=True, slots=True)
class Record:
    """A stored response or conversation."""

    id: str
    body: Json  # as clients see it
    items: tuple[Json, ...] = ()  # of a response its own input, of a conversation everything
    parent: str = ""  # of a response the one before it

    def everything(self) -> Iterator[Json]:
        """Its items, then a response's output."""
        yield from self.items
        yield from self.body.get("output", ())


class ResponseStore(Protocol):
    """What the handlers need of a store. No tenant finds what is another's."""

    async def get(self, tenant: str, id: str) -> Record | None:
        """A record, which counts as used by this; None where there is none."""

    async def put(self, tenant: str, record: Record) -> None:
        """Store a record in place of the one with this id."""

    async def delete(self, tenant: str, id: str) -> bool:
        """Drop a record; whether there was one."""

    async def find_item(self, tenant: str, id: str) -> Json | None:
        """The item with this id in any of the tenant's records."""


@dataclass(frozen=True, slots=True)
class _Entry:
    record: Record
    size: int  # bytes
    expires_at: float


@dataclass(slots=True)
class _Tenant:
    """The records of one key."""

    entries: OrderedDict[str, _Entry] = field(default_factory=OrderedDict)  # in the order in which they expire
    items: dict[str, tuple[str, Json]] = field(default_factory=dict)  # by their ids, each with its record's
    held: int = 0  # bytes

    def add(self, entry: _Entry) -> None:
        """Store a record that is not stored."""
        id = entry.record.id
        self.entries[id] = entry
        self.held += entry.size
        for item in entry.record.everything():
            self.items[item["id"]] = (id, item)

    def drop(self, id: str) -> None:
        """Drop a record and the index of its items."""
        entry = self.entries.pop(id)
        self.held -= entry.size
        for item in entry.record.everything():
            if self.items.get(item["id"], ("", None))[0] == id:
                del self.items[item["id"]]


class MemoryStore:
    """At most ``limit`` bytes, and nothing that was not used for ``seconds``. A full store evicts the oldest record of
    the tenant that holds most; what is larger than the whole store is not stored."""

    def __init__(self, limit: int, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._seconds = seconds
        self._clock = clock
        self._tenants: dict[str, _Tenant] = {}  # no entry is empty

    def __len__(self) -> int:
        return sum(len(each.entries) for each in self._tenants.values())

    @property
    def held(self) -> int:
        """Bytes stored."""
        return sum(each.held for each in self._tenants.values())

    async def get(self, tenant: str, id: str) -> Record | None:
        """See ``ResponseStore``."""
        self._expire()
        mine = self._tenants.get(tenant)
        entry = mine.entries.get(id) if mine else None
        if mine is None or entry is None:
            return None
        mine.entries[id] = _Entry(entry.record, entry.size, self._clock() + self._seconds)
        mine.entries.move_to_end(id)
        return entry.record

    async def put(self, tenant: str, record: Record) -> None:
        """See ``ResponseStore``."""
        await self.delete(tenant, record.id)
        size = len(json.dumps([record.body, record.items])) + OVERHEAD
        if size > self._limit:
            return
        while self._tenants and self.held + size > self._limit:
            largest = max(self._tenants, key=lambda name: self._tenants[name].held)
            self._drop(largest, next(iter(self._tenants[largest].entries)))
        self._tenants.setdefault(tenant, _Tenant()).add(_Entry(record, size, self._clock() + self._seconds))

    async def delete(self, tenant: str, id: str) -> bool:
        """See ``ResponseStore``."""
        self._expire()
        if tenant not in self._tenants or id not in self._tenants[tenant].entries:
            return False
        self._drop(tenant, id)
        return True

    async def find_item(self, tenant: str, id: str) -> Json | None:
        """See ``ResponseStore``."""
        self._expire()
        mine = self._tenants.get(tenant)
        return mine.items.get(id, ("", None))[1] if mine else None

    def _expire(self) -> None:
        now = self._clock()
        for name, each in list(self._tenants.items()):
            while each.entries and (oldest := next(iter(each.entries.values()))).expires_at <= now:
                self._drop(name, oldest.record.id)

    def _drop(self, tenant: str, id: str) -> None:
        mine = self._tenants[tenant]
        mine.drop(id)
        if not mine.entries:
            del self._tenants[tenant]
