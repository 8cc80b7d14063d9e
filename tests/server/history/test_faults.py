"""Processes that are killed, databases that go away, disks that are full, files that are another's."""

import asyncio
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.faults.postgres import Postgres
from server.history.database import SetupError
from server.history.interface import HistoryError, PutConversation, PutItem, StoredItem
from server.history.schema import MIGRATIONS
from server.history.sqlite import SqliteDatabase
from server.history.store import DatabaseHistory
from tests.server.history.databases import history
from tests.support import ROOT, eventually

KILLS = 20


def item(id: str, text: str = "") -> PutItem:
    return PutItem(StoredItem(id, {"text": text}))


def killed_amid_writes(store: str, conversation: str, after: int) -> int:
    """The last number that the process said to be stored, before it was killed behind its ``after``-th line."""
    command = [sys.executable, "-m", "tests.server.history.writing", store, conversation]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        for _ in range(after):
            assert process.stdout.readline(), "it ended by itself"
        process.send_signal(signal.SIGKILL)
        said = process.stdout.read().split("\n")[:-1]  # a line that was cut says nothing
    return int(said[-1]) if said else after - 1


@pytest.mark.timeout(240)
async def test_what_was_acknowledged_survives_twenty_kills_in_a_row(store: str) -> None:
    chance = random.Random(7)
    acknowledged: dict[str, int] = {}
    for kill in range(KILLS):
        name = f"conv_{kill}"
        acknowledged[name] = await asyncio.to_thread(killed_amid_writes, store, name, chance.randrange(1, 60))
        if store.startswith("sqlite"):
            with sqlite3.connect(store.removeprefix("sqlite:///")) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            connection.close()
    async with history(store) as stored:
        for name, last in acknowledged.items():
            found = await stored.load("", name)
            assert found is not None
            ids = [each.id for each in found.items]
            assert ids == [str(number) for number in range(len(ids))], "in order, without a gap"
            assert len(ids) > last


async def test_postgresql_may_restart_amid_writes(own_postgres: Postgres) -> None:
    async with history(own_postgres.new_database()) as stored:
        await stored.record("", "c", PutConversation())
        done: list[asyncio.Future[None]] = []

        async def write() -> None:
            for number in range(400):
                done.append(stored.record("", "c", item(str(number))))
                await asyncio.sleep(0.01)

        writing = asyncio.create_task(write())
        for by in (signal.SIGINT, signal.SIGQUIT):  # cuts connections; crashes
            await asyncio.sleep(0.3)
            await asyncio.to_thread(own_postgres.stop, by)
            await eventually(lambda: not stored.healthy, "the history is known to be away")
            with pytest.raises(HistoryError) as error:
                await stored.load("", "other")
            assert error.value.code == "history_unavailable"
            await asyncio.sleep(0.5)
            await asyncio.to_thread(own_postgres.start)
        await writing
        await asyncio.gather(*done)
        await eventually(lambda: stored.healthy, "the history is back")
        found = await stored.load("", "c")
        assert found is not None
        assert [each.id for each in found.items] == [str(number) for number in range(400)]
        assert stored.metrics.failures._value.get() > 0


async def locked(file: Path) -> sqlite3.Connection:
    """A connection of another program that lets no other write."""
    connection = sqlite3.connect(file, isolation_level=None, timeout=0)
    async with asyncio.timeout(20):
        while True:  # the server may be writing, and goes on only while this does not wait
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                await asyncio.sleep(0.01)
            else:
                return connection


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite waits no time for a lock."""
    monkeypatch.setattr("server.history.sqlite.BUSY", 0)


@pytest.mark.usefixtures("impatient")
async def test_a_change_waits_for_the_patience_and_later_ones_are_tried_on(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    async with history(f"sqlite:///{file}", patience=0.5) as stored:
        await stored.record("", "c", PutConversation())
        other = await locked(file)
        begun = time.monotonic()
        lost = stored.record("", "c", item("lost"))
        with pytest.raises(HistoryError) as error:
            await lost
        assert time.monotonic() - begun >= 0.5
        assert error.value.code == "history_unavailable"
        assert "could not be written" in error.value.message
        assert str(file) not in error.value.message, "clients need not know it"
        assert not stored.healthy
        later = stored.record("", "c", item("later"))
        other.execute("ROLLBACK")
        other.close()
        await later
        assert stored.healthy
        found = await stored.load("", "c")
        assert found is not None
        assert [each.id for each in found.items] == ["later"]


@pytest.mark.usefixtures("impatient")
async def test_the_history_is_healthy_again_without_a_further_change(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    async with history(f"sqlite:///{file}", patience=0.1) as stored:
        other = await locked(file)
        with pytest.raises(HistoryError):
            await stored.record("", "c", PutConversation())
        assert not stored.healthy
        other.close()
        await eventually(lambda: stored.healthy, "it is healthy again")


@pytest.mark.usefixtures("impatient")
async def test_a_queue_that_is_full_holds_back_and_then_refuses(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    async with history(f"sqlite:///{file}", queue_bytes=20_000) as stored:
        await stored.record("", "c", PutConversation())
        other = await locked(file)
        done = [stored.record("", "c", item(str(number), "x" * 1000)) for number in range(50)]
        waiting = asyncio.create_task(stored.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        assert stored.writer.held <= 40_000
        refused = [each for each in done if each.done()]
        assert 0 < len(refused) < 40
        other.close()
        await waiting
        outcomes = await asyncio.gather(*done, return_exceptions=True)
        assert sum(isinstance(outcome, HistoryError) for outcome in outcomes) == len(refused)


async def test_a_change_that_can_never_succeed_does_not_hold_up_the_others(store: str) -> None:
    async with history(store) as stored:
        await stored.record("", "c", PutConversation())
        before = [stored.record("", "c", item(f"a{number}")) for number in range(3)]
        bad = stored.writer.submit(
            lambda transaction: transaction.execute(
                "INSERT INTO loquent_items (owner, conversation, id, position, body, serial, event_id) "
                "VALUES ('', 'nothing', 'i', 1, '', 0, '')"
            )
        )
        behind = [stored.record("", "c", item(f"b{number}")) for number in range(3)]
        await asyncio.gather(*before, *behind)
        with pytest.raises(HistoryError) as error:
            await bad
        assert error.value.code == "history_refused"
        assert stored.healthy
        found = await stored.load("", "c")
        assert found is not None
        assert [each.id for each in found.items] == ["a0", "a1", "a2", "b0", "b1", "b2"]


async def test_a_fault_of_the_code_does_not_look_like_a_database_that_is_away(store: str) -> None:
    async def broken(transaction: object) -> None:
        raise KeyError("a fault")

    async with history(store) as stored:
        await stored.record("", "c", PutConversation())
        with pytest.raises(HistoryError) as error:
            await stored.writer.submit(broken)
        assert error.value.code == "history_refused"
        assert stored.healthy
        await stored.record("", "c", item("next"))


FULL = """
import asyncio, resource, signal, sys
from pathlib import Path
from server.history.interface import HistoryError, PutConversation, PutItem, StoredItem
from server.history.sqlite import SqliteDatabase
from server.history.store import DatabaseHistory

async def main():
    history = DatabaseHistory(SqliteDatabase(Path(sys.argv[1])), patience=0.3)
    await history.start()
    await history.record("", "c", PutConversation())
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))  # as a disk that is full
    stored = 0
    try:
        while True:
            await history.record("", "c", PutItem(StoredItem(str(stored), {"text": "x" * 2000})))
            stored += 1
    except HistoryError as error:
        print(stored, error.code, history.healthy, flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await history.record("", "c", PutItem(StoredItem(str(stored), {"text": "room again"})))
    print(history.healthy, flush=True)
    await history.close()

asyncio.run(main())
"""


async def test_a_full_disk_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", FULL, file, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, log = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, log.decode()
    stored, code, healthy, again = out.decode().split()
    assert (code, healthy, again) == ("history_unavailable", "False", "True")
    assert int(stored) > 20
    async with history(f"sqlite:///{file}") as opened:
        found = await opened.load("", "c")
        assert found is not None
        assert [each.id for each in found.items] == [str(number) for number in range(int(stored) + 1)]


async def test_two_servers_that_start_at_once_share_one_database(store: str) -> None:
    async def serve(name: str) -> None:
        async with history(store) as stored:
            await stored.record(name, name, PutConversation(), *(item(str(number)) for number in range(20)))
            await asyncio.gather(*(stored.record(name, name, item(str(20 + number))) for number in range(50)))

    await asyncio.gather(*(serve(name) for name in "abcd"))
    async with history(store) as stored:
        assert [len(each.items) async for each in stored.export()] == [70] * 4


async def test_two_servers_that_add_to_one_conversation_lose_nothing(store: str) -> None:
    async with history(store) as one, history(store) as other:
        await one.record("", "c", PutConversation())
        done = [
            each.record("", "c", item(f"{name}{n}")) for n in range(60) for each, name in ((one, "a"), (other, "b"))
        ]
        await asyncio.gather(*done)
        found = await one.load("", "c")
        assert found is not None
        ids = [each.id for each in found.items]
        for name in "ab":
            assert [id for id in ids if id[0] == name] == [f"{name}{number}" for number in range(60)]


async def test_a_server_learns_what_another_process_deletes(store: str) -> None:
    told: list[tuple[str, tuple[str, ...]]] = []
    async with history(store) as stored, history(store) as other:
        stored._look = 0.05
        stored.on_deleted = lambda owner, ids: told.append((owner, ids))
        for id in ("c1", "c2", "c3"):
            await stored.record("a", id, PutConversation())
        assert await other.delete("a", "c1")
        await eventually(lambda: told == [("a", ("c1",))], "the first deletion is reported")
        await other.purge("a")
        await eventually(lambda: {id for _, ids in told for id in ids} == {"c1", "c2", "c3"}, "the others are")


@pytest.mark.parametrize("content", [b"no database at all" * 100, b"SQLite format 3\0" + b"\x7f" * 5000])
async def test_a_file_that_is_no_database_is_said(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "history.db"
    file.write_bytes(content)
    with pytest.raises(SetupError, match="no database that can be read") as error:
        await DatabaseHistory(SqliteDatabase(file), patience=0.2).start()
    assert not error.value.usage
    assert file.read_bytes() == content, "it is left as it was"


async def test_a_damaged_database_is_said_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    async with history(f"sqlite:///{file}") as stored:
        await stored.record("", "c", PutConversation(), *(item(str(number), "x" * 900) for number in range(200)))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] + b"\xff" * (len(whole) - len(whole) // 2))
    with pytest.raises(SetupError, match="no database that can be read"):
        await DatabaseHistory(SqliteDatabase(file), patience=0.2).start()


async def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    connection = sqlite3.connect(file)
    connection.execute("CREATE TABLE photos (name TEXT)")
    connection.close()
    with pytest.raises(SetupError, match="another program's database") as error:
        await DatabaseHistory(SqliteDatabase(file), patience=0.2).start()
    assert error.value.usage


async def test_a_newer_versions_tables_are_refused(store: str) -> None:
    async with history(store) as stored:
        await stored.writer.submit(lambda transaction: transaction.execute("UPDATE loquent_schema SET version = 99"))
    with pytest.raises(SetupError, match=f"newer version of Loquent.*version 99, this one knows {len(MIGRATIONS)}"):
        async with history(store):
            pass


async def test_an_older_versions_tables_are_migrated_and_what_they_hold_stays(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with history(store) as stored:
        await stored.record("", "c", PutConversation(metadata={"k": "v"}))
    added = ("ALTER TABLE loquent_conversations ADD COLUMN note TEXT NOT NULL DEFAULT ''",)
    monkeypatch.setattr("server.history.schema.MIGRATIONS", (*MIGRATIONS, added))
    for _ in range(2):
        async with history(store) as stored:
            rows = await stored.read(lambda transaction: transaction.fetch("SELECT note FROM loquent_conversations"))
            version = await stored.read(lambda transaction: transaction.fetch("SELECT version FROM loquent_schema"))
            assert ([tuple(row) for row in rows], [tuple(row) for row in version]) == (
                [("",)],
                [(len(MIGRATIONS) + 1,)],
            )
            assert (await stored.list(""))[0][0].metadata == {"k": "v"}


async def test_the_file_and_its_folder_are_their_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "data" / "deep" / "history.db"
    async with history(f"sqlite:///{file}") as stored:
        await stored.record("", "c", PutConversation())
        modes = {each.name: each.stat().st_mode & 0o777 for each in file.parent.iterdir()}
    assert modes == {"history.db": 0o600, "history.db-wal": 0o600, "history.db-shm": 0o600}
    assert file.parent.stat().st_mode & 0o777 == 0o700


async def test_a_database_that_is_away_at_the_start_is_waited_for(own_postgres: Postgres) -> None:
    url = own_postgres.new_database()
    own_postgres.stop()
    with pytest.raises(HistoryError, match="can't be used"):
        async with history(url, patience=0.3):
            pass
    starting = asyncio.create_task(_used(url))
    await asyncio.sleep(0.5)
    own_postgres.start_only()
    await starting


async def _used(url: str) -> None:
    async with history(url) as stored:
        await stored.record("", "c", PutConversation())


async def test_a_database_that_does_not_exist_is_a_wrong_setting(own_postgres: Postgres) -> None:
    url = own_postgres.url.replace("loquent@", "loquent:hush@").replace("/postgres", "/nothing")
    with pytest.raises(SetupError, match="nothing") as error:
        async with history(url):
            pass
    assert error.value.usage
    assert "hush" not in str(error.value)
