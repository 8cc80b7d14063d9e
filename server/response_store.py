"""Stores the responses and conversations of ``/v1/responses``, each tenant's for itself.

``ResponseStore`` is what the handlers need; ``MemoryStore`` holds everything in memory, within bounds, and
``server.history.responses`` in the history's database.
"""

import json
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

Json = dict[str, Any]

OVERHEAD = 1024  # bytes that a record counts for besides its text


@dataclass(frozen=True, slots=True)
class Record:
    """A stored response or conversation."""

    id: str
    body: Json  # as clients see it
    items: tuple[Json, ...] = ()  # of a response its own input, of a conversation everything
    parent: str = ""  # of a response the one before it
    kind: Literal["api", "realtime"] = "api"  # of a conversation, which only a realtime session changes where it is one

    def everything(self) -> Iterator[Json]:
        """Its items, then a response's output."""
        yield from self.items
        yield from self.body.get("output", ())

    @property
    def conversation(self) -> str:
        """Of a response the id of the conversation that it belongs to, if it does."""
        return str((self.body.get("conversation") or {}).get("id", ""))


Page = tuple[tuple[Json, ...], bool]  # and whether more follow


class ResponseStore(Protocol):
    """What the handlers need of a store. No tenant finds what is another's."""

    async def get(self, tenant: str, id: str) -> Record | None:
        """A record, which counts as used by this; None where there is none."""

    async def put(self, tenant: str, record: Record) -> None:
        """Store a record in place of the one with this id."""

    async def delete(self, tenant: str, id: str) -> bool:
        """Drop a record, and with a conversation the responses that belong to it; whether there was one."""

    async def append(self, tenant: str, id: str, items: Sequence[Json]) -> bool:
        """Add items at the end of a conversation; whether it is there."""

    async def drop_item(self, tenant: str, id: str, item: str) -> bool:
        """Drop an item of a conversation; whether there was one."""

    async def describe(self, tenant: str, id: str, metadata: Json) -> bool:
        """Change a conversation's metadata; whether it is there."""

    async def conversations(self, tenant: str, *, after: str, limit: int, newest_first: bool) -> Page | None:
        """At most ``limit`` conversations behind the one with the id ``after``; None where there is none with it."""

    async def find_item(self, tenant: str, id: str) -> Json | None:
        """The item with this id in any of the tenant's records."""


@dataclass(frozen=True, slots=True)
class _Entry:
    record: Record
    size: int  # bytes
    expires_at: float
    born: int  # the order in which records were first stored


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
        self._born = 0

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
        mine.entries[id] = replace(entry, expires_at=self._clock() + self._seconds)
        mine.entries.move_to_end(id)
        return entry.record

    async def put(self, tenant: str, record: Record) -> None:
        """See ``ResponseStore``."""
        self._expire()
        mine = self._tenants.get(tenant)
        entry = mine.entries.get(record.id) if mine else None
        if entry is not None:
            self._drop(tenant, record.id)
        self._born += 1
        born = self._born if entry is None else entry.born
        size = len(json.dumps([record.body, record.items])) + OVERHEAD
        if size > self._limit:
            return
        while self._tenants and self.held + size > self._limit:
            largest = max(self._tenants, key=lambda name: self._tenants[name].held)
            self._drop(largest, next(iter(self._tenants[largest].entries)))
        self._tenants.setdefault(tenant, _Tenant()).add(_Entry(record, size, self._clock() + self._seconds, born))

    async def delete(self, tenant: str, id: str) -> bool:
        """See ``ResponseStore``."""
        self._expire()
        if tenant not in self._tenants or id not in self._tenants[tenant].entries:
            return False
        belonging = [each.record.id for each in self._of(tenant) if each.record.conversation == id]
        for each in (id, *belonging):
            self._drop(tenant, each)
        return True

    async def append(self, tenant: str, id: str, items: Sequence[Json]) -> bool:
        """See ``ResponseStore``."""
        record = await self.get(tenant, id)
        if record is not None:
            await self.put(tenant, replace(record, items=(*record.items, *items)))
        return record is not None

    async def drop_item(self, tenant: str, id: str, item: str) -> bool:
        """See ``ResponseStore``."""
        record = await self.get(tenant, id)
        left = tuple(each for each in record.items if each["id"] != item) if record else ()
        if record is None or len(left) == len(record.items):
            return False
        await self.put(tenant, replace(record, items=left))
        return True

    async def describe(self, tenant: str, id: str, metadata: Json) -> bool:
        """See ``ResponseStore``."""
        record = await self.get(tenant, id)
        if record is not None:
            await self.put(tenant, replace(record, body=record.body | {"metadata": metadata}))
        return record is not None

    async def conversations(self, tenant: str, *, after: str, limit: int, newest_first: bool) -> Page | None:
        """See ``ResponseStore``."""
        self._expire()
        born = sorted(self._of(tenant), key=lambda entry: entry.born, reverse=newest_first)
        listed = [entry.record for entry in born if entry.record.id.startswith("conv_")]
        ids = [record.id for record in listed]
        if after and after not in ids:
            return None
        rest = listed[ids.index(after) + 1 :] if after else listed
        return tuple(record.body for record in rest[:limit]), len(rest) > limit

    async def find_item(self, tenant: str, id: str) -> Json | None:
        """See ``ResponseStore``."""
        self._expire()
        mine = self._tenants.get(tenant)
        return mine.items.get(id, ("", None))[1] if mine else None

    def _of(self, tenant: str) -> list[_Entry]:
        mine = self._tenants.get(tenant)
        return list(mine.entries.values()) if mine else []

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
