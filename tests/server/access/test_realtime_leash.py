"""Client secrets, limits and revoked keys on a real websocket."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed

from server.config import LimitSettings
from tests.server.access.support import Guarded, bearer, guarded, new_key, revoke
from tests.support import PATIENCE, Client, ScriptedModel, text_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@asynccontextmanager
async def visiting(given: Guarded, value: str) -> AsyncIterator[Client]:
    async with given.server.client(additional_headers=bearer(value)) as client:
        yield client


async def closed(client: Client) -> tuple[int, str]:
    """The close code and reason, which must come without anything being sent."""
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(ConnectionClosed) as error:
            while True:
                await client.receive()
    assert error.value.rcvd is not None
    return error.value.rcvd.code, error.value.rcvd.reason


async def test_a_secrets_session_begins_as_it_says_and_keeps_its_locks(file: Path) -> None:
    key = new_key(file)
    model = ScriptedModel(["Hi"])
    async with guarded(file, model) as given:
        made = await given.secret(
            key, session={"type": "realtime", "instructions": "Sell shoes."}, loquent={"locked": ["instructions"]}
        )
        async with visiting(given, made["value"]) as client:
            created, _ = await client.expect("session.created", "conversation.created")
            assert created["session"]["instructions"] == "Sell shoes."
            await client.send("session.update", event_id="e1", session={"instructions": "Obey."})
            (error,) = await client.expect("error")
            assert (error["error"]["code"], error["error"]["event_id"]) == ("field_locked", "e1")
            assert text_of(await client.ask("Hello")) == "Hi"
    assert "Sell shoes." in model.prompts[-1]


async def test_a_secrets_turns_count_over_all_of_its_connections(file: Path) -> None:
    key = new_key(file)
    async with guarded(file) as given:
        value = (await given.secret(key, loquent={"turns": 2}))["value"]
        async with visiting(given, value) as one, visiting(given, value) as two:
            await one.greet()
            await two.greet()
            assert (await one.ask("Hello"))[-1]["response"]["status"] == "completed"
            assert (await one.ask("Hello"))[-1]["response"]["status"] == "completed"
            done = (await two.ask("Hello"))[-1]["response"]
            assert (done["status"], done["status_details"]["error"]["code"]) == ("failed", "turn_limit_reached")
        async with visiting(given, value) as three:
            await three.greet()
            await three.say("Hello")
            await three.send("response.create")
            (error,) = await three.expect("error")
            assert error["error"]["code"] == "turn_limit_reached"


async def test_a_secret_has_no_more_websockets_than_it_says(file: Path) -> None:
    key = new_key(file)
    async with guarded(file) as given:
        value = (await given.secret(key, loquent={"connections": 1}))["value"]
        async with visiting(given, value) as client:
            await client.greet()
            url = f"{given.server.url}/v1/realtime"
            async with given.server.http.get(url, headers=bearer(value)) as answer:
                assert (answer.status, (await answer.json())["error"]["code"]) == (429, "too_many_connections")


async def test_a_revoked_key_closes_its_websockets_and_those_of_its_secrets(file: Path) -> None:
    key, other, gate = new_key(file), new_key(file, "other"), threading.Semaphore(0)
    async with guarded(file, ScriptedModel("abc", gate=gate)) as given:
        value = (await given.secret(key))["value"]
        async with visiting(given, key) as one, visiting(given, value) as two, visiting(given, other) as three:
            for client in (one, two, three):
                await client.greet()
            await one.say("Hello")
            await one.send("response.create")
            await one.until("response.created")
            revoke(file, "shop")
            given.look()
            for client in (one, two):
                assert await closed(client) == (1008, "invalid_request_error.invalid_api_key")
            assert [event["type"] for event in one.seen][-2:] == ["response.done", "error"]
            gate.release(100)
            assert text_of(await three.ask("Hello")) == "abc"


async def test_a_session_whose_time_is_over_is_closed_and_had_said_when(file: Path) -> None:
    key = new_key(file)
    async with guarded(file) as given:
        value = (await given.secret(key, loquent={"seconds": 60}))["value"]
        async with visiting(given, value) as client:
            created, _ = await client.expect("session.created", "conversation.created")
            ends: int = created["session"]["expires_at"]
            given.server.backend.sessions._wall = lambda: float(ends)
            given.server.backend.sessions.check()
            assert await closed(client) == (1008, "invalid_request_error.session_expired")


async def test_rate_limits_updated_says_what_is_left(file: Path) -> None:
    key = new_key(file)
    limits = LimitSettings(key_requests=100, key_tokens=5000)
    async with guarded(file, limits=limits) as given, visiting(given, key) as client:
        await client.greet()
        left = []
        for _ in range(2):
            events = await client.ask("Hello")
            (said,) = (event for event in events if event["type"] == "rate_limits.updated")
            left.append({each["name"]: each["remaining"] for each in said["rate_limits"]})
            used = events[-1]["response"]["usage"]["total_tokens"]
    assert left[0] == {"requests": 99, "tokens": 5000}
    assert left[1]["requests"] == 98
    assert left[1]["tokens"] == pytest.approx(5000 - used, abs=100)


async def test_a_turn_beyond_the_limit_fails_with_the_reason_and_the_session_goes_on(file: Path) -> None:
    key = new_key(file)
    limits: dict[str, Any] = {"secret_requests": 2}
    async with guarded(file, limits=LimitSettings(**limits)) as given:
        value = (await given.secret(key))["value"]
        async with visiting(given, value) as client:
            await client.greet()
            assert (await client.ask("Hello"))[-1]["response"]["status"] == "completed"
            done = (await client.ask("Hello"))[-1]["response"]
            assert (done["status"], done["status_details"]["error"]["code"]) == ("failed", "rate_limit_exceeded")
            await client.say("Still here?")
