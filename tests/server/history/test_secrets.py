"""Client secrets that outlive the process: stored before they are told, counted behind it, found by other servers."""

import asyncio
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import connect

from bench.faults.postgres import Postgres
from pipelines.events import StageError
from server.access import stored as stored_module
from server.access.leash import Leash
from server.access.secrets import OVERHEAD, Secret
from server.access.stored import GRACE, StoredSecrets
from server.config import LimitSettings
from server.errors import ApiError
from server.history.interface import HistoryError
from server.history.schema import MIGRATIONS
from server.history.settings import HistorySettings
from server.history.store import DatabaseHistory
from tests.server.access.support import Guarded, bearer, guarded, new_key, revoke
from tests.server.access.test_secrets import Clock, status_of
from tests.server.history.databases import history
from tests.server.history.test_deletion import files_with
from tests.server.history.test_faults import locked
from tests.support import ROOT, Client, eventually, realtime


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@asynccontextmanager
async def over(store: str, keys: Path, *, patience: float = 30.0, **sections: Any) -> AsyncIterator[Guarded]:
    """A server with this history."""
    async with guarded(keys, history=HistorySettings(store=store, patience=patience), **sections) as given:
        yield given


@asynccontextmanager
async def visiting(url: str, value: str, **query: str) -> AsyncIterator[Client]:
    async with connect(_with(realtime(url), query), additional_headers=bearer(value), compression=None) as socket:
        yield Client(socket)


def _with(url: str, query: dict[str, str]) -> str:
    return url + ("?" + "&".join(f"{name}={value}" for name, value in query.items()) if query else "")


async def asks(client: Client) -> dict[str, Any]:
    """The response at the end of a turn."""
    response: dict[str, Any] = (await client.ask("Hello"))[-1]["response"]
    return response


@contextmanager
def process(store: str, keys: Path) -> Iterator[str]:
    """The address of a server that is killed at the end of the block."""
    command = [sys.executable, "-m", "tests.server.history.serving", store, str(keys)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as running:
        assert running.stdout is not None
        try:
            address = running.stdout.readline().strip()
            assert address.startswith("http"), "it does not start"
            yield address
        finally:
            running.send_signal(signal.SIGKILL)


async def made(url: str, key: str, **body: Any) -> str:
    async with (
        aiohttp.ClientSession() as http,
        http.post(f"{url}/v1/realtime/client_secrets", json=body, headers=bearer(key)) as answer,
    ):
        assert answer.status == 200
        value: str = (await answer.json())["value"]
        return value


async def test_a_secret_opens_resumes_and_has_its_turns_counted_after_kills(store: str, keys: Path) -> None:
    key = new_key(keys)
    with process(store, keys) as url:
        value = await made(url, key, session={"type": "realtime", "instructions": "Sell."}, loquent={"turns": 3})
        async with visiting(url, value) as client:
            created, _ = await client.expect("session.created", "conversation.created")
            assert (await asks(client))["status"] == "completed"
            last = client.seen[-1]["event_id"]
    with process(store, keys) as url:
        token = created["loquent"]["resume_token"]
        async with visiting(url, value, session=token, after=last) as again:
            (resumed,) = await again.expect("session.updated")
            assert resumed["session"]["id"] == created["session"]["id"]
            assert resumed["session"]["instructions"] == "Sell."
            assert (await asks(again))["status"] == "completed"
    with process(store, keys) as url:
        async with visiting(url, value) as third:
            await third.expect("session.created", "conversation.created")
            assert (await asks(third))["status"] == "completed"
            await third.say("And?")
            await third.send("response.create")
            refused = await third.receive()
            assert refused["error"]["code"] == "turn_limit_reached", "three turns in all"


async def test_a_secret_keeps_what_it_may_not_do_after_a_restart(store: str, keys: Path) -> None:
    key = new_key(keys)
    leash = {"locked": ["instructions"], "origin": "https://shop.example", "connections": 1, "seconds": 60}
    async with over(store, keys) as given:
        value = (await given.secret(key, session={"instructions": "Sell é\0."}, loquent=leash))["value"]
        before = given.server.backend.access.secrets.find(value)
    async with over(store, keys) as given:
        after = given.server.backend.access.secrets.find(value)
        assert after == before
        assert after is not None
        assert after.leash.locked == {"instructions"}
        assert await status_of(given, value, Origin="https://evil.example") == 403


async def test_a_secret_that_has_expired_or_whose_key_was_revoked_meanwhile_is_refused(store: str, keys: Path) -> None:
    shop, other = new_key(keys, "shop"), new_key(keys, "other")
    async with over(store, keys) as given:
        values = [(await given.secret(key))["value"] for key in (shop, other)]
        short = (await given.secret(other, expires_after={"anchor": "created_at", "seconds": 10}))["value"]
        assert [await status_of(given, value) for value in (*values, short)] == [400, 400, 400]
        secret = given.server.backend.access.secrets.find(short)
        assert secret is not None
    revoke(keys, "shop")
    async with over(store, keys) as given:
        assert [await status_of(given, value) for value in values] == [401, 400]
        wall = lambda: float(secret.leash.expires_at)  # noqa: E731
        given.server.backend.access.secrets._wall = wall  # type: ignore[attr-defined]
        assert await status_of(given, short) == 401
    async with over(store, keys) as given:
        await given.server.backend.history.writer.submit(  # type: ignore[union-attr]
            lambda transaction: transaction.execute("UPDATE loquent_secrets SET expires = 1")
        )
    async with over(store, keys) as given:
        assert [await status_of(given, value) for value in values] == [401, 401]


async def test_the_database_has_no_value_of_a_secret(store: str, keys: Path, tmp_path: Path) -> None:
    key = new_key(keys)
    async with over(store, keys) as given:
        value = (await given.secret(key, session={"instructions": "a marker"}, loquent={"turns": 2}))["value"]
        async with visiting(given.server.url, value) as client:
            await client.greet()
            await asks(client)
        history_of = given.server.backend.history
        assert history_of is not None
        rows = await history_of.read(lambda transaction: transaction.fetch("SELECT * FROM loquent_secrets"))
        assert "a marker" in str([tuple(row) for row in rows])
        assert value not in str([tuple(row) for row in rows])
    if store.startswith("sqlite"):
        assert files_with(tmp_path / "data", "a marker")
        assert files_with(tmp_path / "data", "ek_") == []
        assert files_with(tmp_path / "data", value.removeprefix("ek_")) == []


async def test_a_secret_of_one_server_opens_another_and_has_its_turns_once(store: str, keys: Path) -> None:
    key = new_key(keys)
    async with over(store, keys) as one, over(store, keys) as two:
        value = (await one.secret(key, loquent={"turns": 2}))["value"]
        assert two.server.backend.access.secrets.find(value) is None
        async with visiting(one.server.url, value) as client:
            await client.greet()
            assert (await asks(client))["status"] == "completed"
        async with visiting(two.server.url, value) as client:
            await client.greet()
            assert (await asks(client))["status"] == "completed"
        async with visiting(two.server.url, value) as client:
            await client.greet()
            await client.say("And?")
            await client.send("response.create")
            assert (await client.receive())["error"]["code"] == "turn_limit_reached"
        revoke(keys, "shop")
        two.look()
        assert await status_of(two, value) == 401


async def test_servers_learn_of_each_others_turns_when_they_write_their_own(store: str) -> None:
    async with history(store) as first, history(store) as second:
        one, two = StoredSecrets(first), StoredSecrets(second)
        value = await one.issue(Leash("", int(time.time()) + 600, turns=5), "shop", "k")
        await two.seek(value)
        here, there = one.find(value), two.find(value)
        assert here is not None
        assert there is not None
        for _ in range(2):
            one.take_turn(here.leash)
        await one.close()
        two.take_turn(there.leash)
        await two.close()
        assert two.turns_left(there.leash) == 2
        assert one.turns_left(here.leash) == 3, "it has written nothing since"
        one.take_turn(here.leash)
        await one.close()
        assert one.turns_left(here.leash) == 1
        third = StoredSecrets(second)
        await third.seek(value)
        assert third.turns_left(here.leash) == 1


async def test_a_secret_that_was_deleted_while_its_session_runs_gets_no_turn_anew(store: str) -> None:
    async with history(store) as database:
        old = StoredSecrets(database)
        value = await old.issue(Leash("", int(time.time()) + 600, turns=3), "shop", "k")
        old.take_turn(_found(old, value).leash)
        await old.close()
        new = StoredSecrets(database)
        await new.start()
        await database.writer.submit(lambda transaction: transaction.execute("DELETE FROM loquent_secret_turns"))
        await database.writer.submit(lambda transaction: transaction.execute("DELETE FROM loquent_secrets"))
        new.take_turn(_found(new, value).leash)
        await new.close()
        assert new.turns_left(_found(new, value).leash) == 1


def _found(store: StoredSecrets, value: str) -> Secret:
    secret = store.find(value)
    assert secret is not None
    return secret


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite waits no time for a lock."""
    monkeypatch.setattr("server.history.sqlite.BUSY", 0)


@pytest.mark.usefixtures("impatient")
async def test_a_secret_that_can_not_be_stored_is_none(tmp_path: Path, keys: Path) -> None:
    key = new_key(keys)
    file = tmp_path / "history.db"
    async with over(f"sqlite:///{file}", keys, patience=0.3) as given:
        before = (await given.secret(key))["value"]
        secrets = given.server.backend.access.secrets
        other = await locked(file)
        try:
            assert (await given.secret(key, 503))["error"]["code"] == "history_unavailable"
            assert len(secrets) == 1  # type: ignore[arg-type]
            assert await status_of(given, before) != 401, "what is in memory needs no database"
        finally:
            other.close()
        await eventually(lambda: given.server.backend.ready, "the database is back")
        assert await status_of(given, (await given.secret(key))["value"]) == 400


async def test_a_secret_of_another_server_is_no_wrong_key_while_the_database_is_away(
    own_postgres: Postgres, keys: Path
) -> None:
    key = new_key(keys)
    async with over(own_postgres.new_database(), keys, patience=0.5) as given:
        await asyncio.to_thread(own_postgres.stop)
        await eventually(lambda: not given.server.backend.ready, "it is known to be away")
        assert await status_of(given, "ek_" + "x" * 43) == 503
        assert await status_of(given, "ek_x") == 401
        assert (await given.secret(key, 503))["error"]["code"] == "history_unavailable"


class Counted:
    """Counts what is read, and lets it wait."""

    def __init__(self, database: DatabaseHistory) -> None:
        self.reads = self.most = self.now = 0
        self.gate = asyncio.Event()
        read = database.read

        async def counted(query: Any) -> Any:
            self.reads += 1
            self.now += 1
            self.most = max(self.most, self.now)
            await self.gate.wait()
            try:
                return await read(query)
            finally:
                self.now -= 1

        database.read = counted  # type: ignore[method-assign]


async def test_only_what_may_be_a_secret_is_looked_up_and_a_few_at_a_time(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_module, "WAITING", 6)
    async with history(store) as database:
        secrets = StoredSecrets(database)
        mine = await secrets.issue(Leash("", int(time.time()) + 600), "shop", "k")
        for value in (mine, "ek_", "ek_short", "ek_" + "x" * 44, "ek_" + "é" * 43, "lq-" + "x" * 43):
            assert not secrets.lacks(value)
        counted = Counted(database)
        values = [f"ek_{number:043}" for number in range(30)]
        assert all(map(secrets.lacks, values))
        seeking = [asyncio.create_task(secrets.seek(value)) for value in values]
        await asyncio.sleep(0)
        refused = [task for task in seeking if task.done()]
        assert len(refused) == 20
        for task in refused:
            with pytest.raises(ApiError) as error:
                await task
            assert error.value.status == 503
        counted.gate.set()
        await asyncio.gather(*seeking, return_exceptions=True)
        assert (counted.reads, counted.most) == (10, 4)
        await secrets.seek(values[0])


async def test_an_address_that_may_make_no_request_causes_no_look_up(store: str, keys: Path) -> None:
    new_key(keys)
    async with over(store, keys, limits=LimitSettings(address_requests=3)) as given:
        database = given.server.backend.history
        assert database is not None
        counted = Counted(database)
        counted.gate.set()
        found = [await status_of(given, f"ek_{number:043}") for number in range(6)]
        assert found == [401, 401, 401, 429, 429, 429]
        assert counted.reads == 3
        assert await status_of(given, f"ek_{7:043}", Host="evil.example") == 421
        assert counted.reads == 3


async def test_those_that_are_loaded_and_found_are_bounded(store: str) -> None:
    async with history(store) as database:
        many = StoredSecrets(database)
        values = [await many.issue(Leash("", int(time.time()) + 600), "shop", "") for _ in range(5)]
        few = StoredSecrets(database, most=3)
        await few.start()
        assert len(few) == 3
        left = next(value for value in values if few.find(value) is None)
        with pytest.raises(ApiError) as error:
            await few.seek(left)
        assert error.value.status == 503
        small = StoredSecrets(database, most_bytes=2 * (OVERHEAD + 10))
        await small.start()
        assert len(small) == 2
        for each in (few, small):
            await each.close()


async def test_all_of_many_are_loaded(store: str) -> None:
    async with history(store) as database:
        many = StoredSecrets(database)
        expires_at = int(time.time()) + 600
        values = await asyncio.gather(*(many.issue(Leash("", expires_at), "shop", "") for _ in range(1500)))
        again = StoredSecrets(database)
        await again.start()
        assert len(again) == 1500
        assert all(map(again.find, values))
        await again.close()


async def test_those_that_have_expired_go_from_the_table_with_their_turns(store: str) -> None:
    clock = Clock()
    async with history(store) as database:
        secrets = StoredSecrets(database, wall=clock)
        await secrets.issue(Leash("", 5000, turns=2), "shop", "k")
        value = await secrets.issue(Leash("", 1500, turns=2), "shop", "k")
        secrets.take_turn(_found(secrets, value).leash)
        await secrets.close()
        clock.now = 1500 + GRACE + 1
        before = database.metrics.commits._value.get()
        again = StoredSecrets(database, wall=clock)
        await again.start()
        assert again.find(value) is None
        await eventually(lambda: database.metrics.commits._value.get() > before, "what has expired is deleted")

        async def counts(transaction: Any) -> tuple[int, int]:
            rows = await transaction.fetch("SELECT hash FROM loquent_secrets")
            return len(rows), len(await transaction.fetch("SELECT hash FROM loquent_secret_turns"))

        assert await database.read(counts) == (1, 0)
        await again.close()


async def test_a_file_of_the_first_version_opens_and_keeps_its_content(
    store: str, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.history.schema.MIGRATIONS", MIGRATIONS[:1])
    async with history(store) as database, database._database.writing() as transaction:
        await transaction.execute(
            """INSERT INTO loquent_conversations (owner, id, created, changed, kind, metadata, session)
            VALUES ('shop', 'conv_old', $1, $1, 'realtime', '{"k":"v"}', '{}')""",
            database.now(),
        )
    monkeypatch.undo()
    key = new_key(keys)
    async with over(store, keys) as given:
        headers = bearer(key)
        async with given.server.http.get(f"{given.server.url}/v1/conversations/conv_old", headers=headers) as answer:
            assert (await answer.json())["metadata"] == {"k": "v"}
        value = (await given.secret(key))["value"]
    async with over(store, keys) as given:
        assert await status_of(given, value) == 400


async def test_a_restriction_that_is_not_known_voids_its_secret(store: str) -> None:
    async with history(store) as database:
        secrets = StoredSecrets(database)
        value = await secrets.issue(Leash("", int(time.time()) + 600), "shop", "k")

        async def restrict(transaction: Any) -> None:
            ((leash,),) = await transaction.fetch("SELECT leash FROM loquent_secrets")
            new = json.dumps(json.loads(leash) | {"weekdays": [1]})
            await transaction.execute("UPDATE loquent_secrets SET leash = $1", new)

        await database.writer.submit(restrict)
        again = StoredSecrets(database)
        await again.start()
        await again.seek(value)
        assert again.find(value) is None
        await again.close()


async def test_turns_are_taken_at_once_and_written_once_the_database_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impatient: None
) -> None:
    monkeypatch.setattr("server.history.behind.RETRY", 0.05)
    file = tmp_path / "history.db"
    async with history(f"sqlite:///{file}", patience=0.1) as database:
        secrets = StoredSecrets(database)
        value = await secrets.issue(Leash("", int(time.time()) + 600, turns=4), "shop", "k")
        leash = _found(secrets, value).leash
        other = await locked(file)
        for _ in range(3):
            secrets.take_turn(leash)
            await asyncio.sleep(0.2)
        other.close()
        with sqlite3.connect(file) as reader:
            await eventually(
                lambda: reader.execute("SELECT turns FROM loquent_secret_turns").fetchall() == [(3,)], "it is written"
            )
        reader.close()
        secrets.take_turn(leash)
        with pytest.raises(StageError):
            secrets.take_turn(leash)
        await secrets.close()


@pytest.mark.usefixtures("impatient")
async def test_a_request_that_ends_before_its_secret_is_stored_leaves_none(tmp_path: Path) -> None:
    file = tmp_path / "history.db"
    async with history(f"sqlite:///{file}") as database:
        secrets = StoredSecrets(database)
        other = await locked(file)
        task = asyncio.create_task(secrets.issue(Leash("", int(time.time()) + 600), "shop", "k"))
        await asyncio.sleep(0.05)
        assert len(secrets) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(secrets) == 0
        other.close()


async def test_a_history_that_closes_stores_no_secret(store: str) -> None:
    async with history(store) as database:
        secrets = StoredSecrets(database)
    with pytest.raises(HistoryError):
        await secrets.issue(Leash("", int(time.time()) + 600), "shop", "k")
    assert len(secrets) == 0
