"""What is deleted leaves no byte in the data folder; what is old goes, unless the clock can't be trusted."""

import asyncio
import logging
import random
from pathlib import Path

import pytest

from server.history.interface import Change, DropItem, PutConversation, PutItem, PutResponse, StoredItem, StoredResponse
from server.history.responses import HistoryStore
from server.history.retention import DAY, EVERY, Retention
from server.history.store import DatabaseHistory
from server.response_store import Record
from tests.server.history.databases import history

MARKER = "zq-marker-text"


def files_with(folder: Path, text: str) -> list[str]:
    """The files below ``folder`` that hold a text."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files, "there is something to search"
    return [file.name for file in files if text.encode() in file.read_bytes()]


def item(id: str, text: str) -> PutItem:
    return PutItem(StoredItem(id, {"id": id, "text": text}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


def at(folder: Path) -> str:
    return f"sqlite:///{folder}/history.db"


async def fill(stored: DatabaseHistory, seed: int) -> None:
    """Add, change and drop items of many sizes, so that SQLite rebuilds its pages again and again."""
    chance = random.Random(seed)
    live: list[tuple[str, str, str]] = []
    done: list[asyncio.Future[None]] = []
    for number in range(400):
        size, kind = chance.choice([20, 200, 900, 3000]), chance.random()
        if kind < 0.6 or not live:
            owner = chance.choice([MARKER, "others"])
            place = (owner, f"c{chance.randrange(6)}", f"{owner}{number}")
            live.append(place)
        else:
            place = chance.choice(live)
        owner, conversation, id = place
        if kind < 0.8:
            change: Change = item(id, owner + "y" * size + owner)
        else:
            live.remove(place)
            change = DropItem(id)
        done.append(stored.record(owner, conversation, PutConversation({"s": owner}), change))
        if number % 10 == 9:
            await asyncio.gather(*done)


# With the first seeds SQLite rebuilds pages so that copies of deleted cells stay, ``secure_delete`` or not.
@pytest.mark.parametrize("seed", [0, 17, 33, 1])
async def test_deletion_leaves_no_byte_in_the_data_folder(folder: Path, seed: int) -> None:
    async with history(at(folder)) as stored:
        await fill(stored, seed)
        await stored.record(MARKER, "c0", PutResponse(StoredResponse(MARKER, {"text": MARKER})))
        assert files_with(folder, f"{MARKER}y")
        ids = [head.id for head in (await stored.list(MARKER, limit=100))[0]]
        for id in ids:
            assert await stored.delete(MARKER, id)
        await stored.writer.scrubbed()
        assert files_with(folder, f"{MARKER}y") == []
        assert files_with(folder, f'"{MARKER}') == []
        assert len((await stored.list("others", limit=100))[0]) == 6
    assert files_with(folder, f"{MARKER}y") == []
    assert files_with(folder, "othersy")


async def test_an_item_that_is_deleted_leaves_no_byte(folder: Path) -> None:
    async with history(at(folder)) as stored:
        await stored.record("", "c", PutConversation(), item("i", MARKER), item("j", "stays"))
        assert files_with(folder, MARKER)
        assert await stored.delete_item("", "c", "i")
        assert files_with(folder, MARKER) == []
        assert files_with(folder, "stays")


async def test_an_item_that_a_session_drops_leaves_no_byte_behind_the_next_scrub(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.history.store.DROPPED", 0.2)
    async with history(at(folder)) as stored:
        await stored.record("", "c", PutConversation(), item("i", MARKER), item("j", "stays"))
        await stored.record("", "c", DropItem("i"))
        assert files_with(folder, MARKER), "its bytes do not hold up the session"
        await asyncio.wait_for(stored.writer.scrubbed(), 10)
        assert files_with(folder, MARKER) == []


async def test_bytes_that_a_reader_holds_are_overwritten_once_it_has_gone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.history.sqlite.BUSY", 0)
    monkeypatch.setattr("server.history.writer.SCRUB_PAUSE", 0.05)
    async with history(at(folder)) as stored, history(at(folder)) as reader:
        await stored.record("", "c", PutConversation(), item("i", MARKER))
        async with reader._database.reading() as transaction:
            await transaction.fetch("SELECT * FROM loquent_items")
            assert await stored.delete("", "c")
            assert files_with(folder, MARKER), "an old state is still being read"
        await asyncio.wait_for(stored.writer.scrubbed(), 10)
        assert files_with(folder, MARKER) == []


async def test_a_reader_that_holds_deleted_bytes_does_not_hold_up_what_is_written(folder: Path) -> None:
    async with history(at(folder)) as stored, history(at(folder)) as reader:
        await stored.record("", "c", PutConversation(), item("i", MARKER))
        async with reader._database.reading() as transaction:
            await transaction.fetch("SELECT * FROM loquent_items")
            async with asyncio.timeout(15):
                assert await stored.delete("", "c")
                await stored.record("", "d", PutConversation())


async def test_a_purge_takes_stored_responses_too(folder: Path) -> None:
    async with history(at(folder)) as stored:
        responses = HistoryStore(stored)
        await responses.put("a", Record("resp_1", {"id": "resp_1", "output": []}, ({"id": "i", "text": MARKER},)))
        await responses.put("b", Record("resp_1", {"id": "resp_1", "output": []}, ({"id": "i", "text": "others"},)))
        assert (await stored.purge("a")).responses == 1
        assert await responses.get("a", "resp_1") is None
        assert await responses.get("b", "resp_1")
        assert files_with(folder, MARKER) == []


# Retention


class Clocks:
    """A wall clock that may jump, and a steady one."""

    def __init__(self) -> None:
        self.wall_now = 1_800_000_000.0
        self.steady_now = 0.0

    def wall(self) -> float:
        return self.wall_now

    def steady(self) -> float:
        return self.steady_now

    def pass_time(self, seconds: float) -> None:
        self.wall_now += seconds
        self.steady_now += seconds


def test_what_was_not_used_for_some_days_is_old() -> None:
    clocks = Clocks()
    retention = Retention(30, wall=clocks.wall, passed=clocks.steady)
    assert retention.limit() == int(clocks.wall_now) - 30 * DAY
    clocks.pass_time(EVERY)
    assert retention.limit() == int(clocks.wall_now) - 30 * DAY


def test_nothing_is_ever_old_where_days_is_zero() -> None:
    assert Retention(0).limit() is None


@pytest.mark.parametrize("jump", [3650 * DAY, -3650 * DAY, 3600.0])
def test_a_clock_that_jumps_deletes_nothing_until_it_runs_evenly(jump: float, caplog: pytest.LogCaptureFixture) -> None:
    clocks = Clocks()
    retention = Retention(30, wall=clocks.wall, passed=clocks.steady)
    assert retention.limit() is not None
    clocks.pass_time(EVERY)
    clocks.wall_now += jump
    with caplog.at_level(logging.WARNING):
        assert retention.limit() is None
    assert f"the clock jumped by {jump:.0f} s" in caplog.text
    clocks.wall_now -= jump  # it is set right
    clocks.pass_time(EVERY)
    assert retention.limit() is None
    clocks.pass_time(EVERY)
    assert retention.limit() == int(clocks.wall_now) - 30 * DAY


async def test_retention_looks_every_hour_and_survives_a_failure() -> None:
    clocks = Clocks()
    seen: list[int] = []

    async def expire(limit: int) -> None:
        seen.append(limit)
        if len(seen) == 1:
            raise OSError("away")

    async def sleep(seconds: float) -> None:
        assert seconds == EVERY
        if len(seen) == 3:
            raise asyncio.CancelledError
        clocks.pass_time(seconds)

    with pytest.raises(asyncio.CancelledError):
        await Retention(1, wall=clocks.wall, passed=clocks.steady).run(expire, sleep=sleep)
    assert seen == [int(1_800_000_000 - DAY + EVERY * hour) for hour in range(3)]


async def test_old_conversations_go_at_the_start_and_those_in_use_stay(store: str) -> None:
    async with history(store) as stored:
        stored._wall = lambda: 1_700_000_000.0
        await stored.record("a", "old", PutConversation())
        await stored.record("a", "used", PutConversation())
        await HistoryStore(stored).put("a", Record("resp_old", {"id": "resp_old", "output": []}))
    gone: list[str] = []
    async with history(store) as stored:
        await stored.record("a", "used", item("i", "x"))
    async with history(store, days=30) as stored:
        stored.on_deleted = lambda owner, ids: gone.extend(ids)
        async with asyncio.timeout(10):
            while await stored.load("a", "old"):
                await asyncio.sleep(0.01)
            while await HistoryStore(stored).get("a", "resp_old"):
                await asyncio.sleep(0.01)
            while not gone:
                await asyncio.sleep(0.01)
        assert await stored.load("a", "used")
    assert set(gone) == {"old"}
