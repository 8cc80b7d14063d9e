"""Client secrets: made over HTTP as OpenAI's, stored within bounds, void with their key."""

import time
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI
from openai.types.realtime import ClientSecretCreateResponse
from pydantic import TypeAdapter
from websockets.asyncio.client import connect
from websockets.typing import Subprotocol

from pipelines.events import StageError
from server.access.leash import Leash
from server.access.secrets import OVERHEAD, MemorySecrets
from server.config import ServerSettings
from server.errors import ApiError
from tests.server.access.support import Guarded, bearer, guarded, new_key, revoke
from tests.support import realtime

ADAPTER = TypeAdapter(ClientSecretCreateResponse)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def leash(expires_at: int = 2000, **fields: Any) -> Leash:
    return Leash("", expires_at, **fields)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


async def test_the_sdk_makes_one_with_its_session_complete(file: Path) -> None:
    key = new_key(file)
    async with guarded(file) as given, sdk(given, key) as client:
        before = int(time.time())
        made = await client.realtime.client_secrets.create(
            expires_after={"anchor": "created_at", "seconds": 60},
            session={"type": "realtime", "instructions": "You sell shoes.", "output_modalities": ["text"]},
        )
        ADAPTER.validate_python(made.to_dict(), strict=True)
        assert made.value.startswith("ek_")
        assert before + 60 <= made.expires_at <= time.time() + 60
        assert made.session.type == "realtime"
        assert made.session.instructions == "You sell shoes."
        assert made.session.to_dict()["tool_choice"] == "auto", "what was not said is there too"
        usual = await client.realtime.client_secrets.create()
        assert usual.expires_at - time.time() == pytest.approx(600, abs=5)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"expires_after": {"anchor": "created_at", "seconds": 9}}, "expires_after.seconds"),
        ({"expires_after": {"anchor": "created_at", "seconds": 7201}}, "expires_after.seconds"),
        ({"expires_after": {"anchor": "now", "seconds": 60}}, "expires_after.anchor"),
        ({"session": {"type": "video"}}, "session.type"),
        ({"session": {"type": "transcription"}}, "session.type"),  # this server has no speech recognition
        ({"session": {"type": "realtime", "max_output_tokens": 0}}, "session.max_output_tokens"),
        ({"session": {"audio": {"output": {"speed": 9}}}}, "session.audio.output.speed"),
        ({"loquent": {"locked": ["instruction"]}}, "loquent.locked.0"),
        ({"loquent": {"origin": "shop.example"}}, "loquent.origin"),
        ({"loquent": {"origin": "https://shop.example/path"}}, "loquent.origin"),
        ({"loquent": {"turns": 0}}, "loquent.turns"),
        ({"loquent": {"seconds": 0}}, "loquent.seconds"),
        ({"loquent": {"connections": -1}}, "loquent.connections"),
        ({"loquent": {"sessions": 1}}, "loquent.sessions"),
        ({"model": "gpt-realtime"}, "model"),
    ],
)
async def test_what_is_wrong_is_a_400_that_names_it(file: Path, body: dict[str, Any], param: str) -> None:
    key = new_key(file)
    async with guarded(file) as given:
        assert (await given.secret(key, 400, **body))["error"]["param"] == param
        assert len(given.server.backend.access.secrets) == 0  # type: ignore[arg-type]


async def test_the_answer_is_in_no_cache_and_says_what_the_secret_may_do(file: Path) -> None:
    key = new_key(file)
    own = {"turns": 3, "locked": ["instructions"], "origin": "https://shop.example"}
    async with guarded(file) as given:
        url = f"{given.server.url}/v1/realtime/client_secrets"
        async with given.server.http.post(url, json={"loquent": own}, headers=bearer(key)) as answer:
            assert answer.headers["Cache-Control"] == "no-store"
            assert (await answer.json())["loquent"] == own


async def test_a_secret_makes_no_secret(file: Path) -> None:
    key = new_key(file)
    async with guarded(file) as given:
        made = await given.secret(key)
        assert (await given.secret(made["value"], 403))["error"]["code"] == "insufficient_scope"


async def test_a_secret_opens_a_websocket_as_a_bearer_and_as_a_subprotocol(file: Path) -> None:
    key = new_key(file)
    async with guarded(file) as given:
        value = (await given.secret(key))["value"]
        url = realtime(given.server.url)
        async with connect(url, additional_headers=bearer(value)) as socket:
            assert "session.created" in str(await socket.recv())
        protocols = [Subprotocol("realtime"), Subprotocol(f"openai-insecure-api-key.{value}")]
        async with connect(url, subprotocols=protocols) as socket:
            assert "session.created" in str(await socket.recv())


def sdk(given: Guarded, key: str) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{given.server.url}/v1", api_key=key, max_retries=0)


async def status_of(given: Any, value: str, **headers: str) -> int:
    """The status of a websocket's handshake, as HTTP has it: 400 is where it passes but is no handshake."""
    url = f"{given.server.url}/v1/realtime"
    async with given.server.http.get(url, headers=bearer(value) | headers) as answer:
        return int(answer.status)


async def test_a_secret_for_an_origin_opens_no_other_and_needs_no_allow_list(file: Path) -> None:
    key = new_key(file)
    async with guarded(file) as given:
        value = (await given.secret(key, loquent={"origin": "https://shop.example"}))["value"]
        assert await status_of(given, value, Origin="https://shop.example") == 400
        assert await status_of(given, value, Origin="https://evil.example") == 403
        assert await status_of(given, value, Origin="http://shop.example") == 403
        assert await status_of(given, value, Origin=given.server.url) == 403
        assert await status_of(given, value) == 403
        free = (await given.secret(key))["value"]
        assert await status_of(given, free) == 400
        assert await status_of(given, free, Origin="https://shop.example") == 403


async def test_a_secret_is_void_once_its_key_is_revoked(file: Path) -> None:
    key = new_key(file)
    new_key(file, "other")
    async with guarded(file) as given:
        value = (await given.secret(key))["value"]
        assert await status_of(given, value) == 400
        revoke(file, "shop")
        given.look()
        assert await status_of(given, value) == 401


async def test_a_secret_that_has_expired_opens_nothing_also_where_no_key_is_needed(file: Path) -> None:
    async with guarded(file) as given:
        value = (await given.secret(None))["value"]
        assert await status_of(given, value) == 400
        secret = given.server.backend.access.secrets.find(value)
        assert secret is not None
        given.server.backend.access.secrets._wall = lambda: float(secret.leash.expires_at)  # type: ignore[attr-defined]
        assert await status_of(given, value) == 401
        assert await status_of(given, "ek_unknown") == 401


async def test_a_secret_of_a_server_without_keys_is_void_once_it_has_one(file: Path) -> None:
    async with guarded(file) as given:
        value = (await given.secret(None))["value"]
        new_key(file)
        given.look()
        assert await status_of(given, value) == 401


async def test_a_secret_is_another_owner_than_its_key(file: Path) -> None:
    key = new_key(file)
    async with guarded(file) as given:
        access = given.server.backend.access
        secret = access.secrets.find((await given.secret(key))["value"])
        assert secret is not None
        id = secret.leash.secret
        caller = access._with_secret(secret, "198.51.100.1")
        assert (caller.owner, caller.tenant, sorted(caller.scopes)) == (f"shop/{id}", f"/{id}", ["realtime"])
        new_key(file, "other")
        given.look()
        caller = access._with_secret(secret, "198.51.100.1")
        assert (caller.owner, caller.tenant) == (f"shop/{id}", f"shop/{id}")


def test_only_the_hash_of_a_secret_is_stored() -> None:
    store = MemorySecrets(wall=Clock())
    value = store.add(leash(session={"instructions": "x"}), "shop", "k")
    secret = store.find(value)
    assert secret is not None
    assert value not in repr(secret)
    assert len(value) == len("ek_") + 43, "256 random bits"


def test_secrets_are_bounded_in_all_and_for_each_key() -> None:
    clock = Clock()
    store = MemorySecrets(most=8, wall=clock)
    for _ in range(2):
        store.add(leash(), "shop", "a")
    with pytest.raises(ApiError) as error:
        store.add(leash(), "shop", "a")
    assert (error.value.status, error.value.code) == (429, "too_many_client_secrets")
    for key in "bcd":
        for _ in range(2):
            store.add(leash(), "shop", key)
    with pytest.raises(ApiError):
        store.add(leash(), "shop", "e")
    clock.now = 2000
    store.add(leash(3000), "shop", "e")
    assert len(store) == 1, "those that have expired made room"


def test_the_bytes_of_their_settings_are_bounded() -> None:
    store = MemorySecrets(most_bytes=8 * OVERHEAD, wall=Clock())
    with pytest.raises(ApiError):
        store.add(leash(session={"instructions": "x" * OVERHEAD}), "shop", "a")
    store.add(leash(session={"instructions": "x" * (OVERHEAD - 100)}), "shop", "a")


def test_turns_are_counted_over_all_connections_and_an_open_one_outlives_its_secret() -> None:
    clock = Clock()
    store = MemorySecrets(most=1, wall=clock)
    secret = store.find(store.add(leash(turns=2), "shop", ""))
    assert secret is not None
    secret.connections = 1
    store.take_turn(secret.leash)
    clock.now = 3000
    with pytest.raises(ApiError):
        store.add(leash(4000), "shop", "")
    store.take_turn(secret.leash)
    assert store.turns_left(secret.leash) == 0
    with pytest.raises(StageError) as error:
        store.take_turn(secret.leash)
    assert error.value.code == "turn_limit_reached"


async def test_a_wrong_host_is_refused_before_anything_else(file: Path) -> None:
    key = new_key(file)
    async with guarded(file, server=ServerSettings()) as given:
        value = (await given.secret(key))["value"]
        assert await status_of(given, value, Host="evil.example") == 421


async def test_the_sdk_connects_with_a_secret_as_its_key(file: Path) -> None:
    key = new_key(file)
    async with guarded(file) as given:
        value = (await given.secret(key))["value"]
        async with sdk(given, value) as client, client.realtime.connect(model="gpt-realtime") as connection:
            assert (await connection.recv()).type == "session.created"
