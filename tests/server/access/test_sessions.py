"""Open connections are counted, and sessions end with their key or their time."""

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from server.access.caller import Caller
from server.access.leash import Leash
from server.access.secrets import MemorySecrets, Secret, whole_leash
from server.access.sessions import Sessions
from server.auth import AccessControl
from server.config import ServerSettings
from server.errors import ApiError
from server.realtime.session import Expired
from tests.server.access.support import new_key, revoke


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Site:
    """A site with one key, and its sessions."""

    def __init__(self, file: Path, most: int | None = None, expires_at: int | None = None) -> None:
        self.file = file
        new_key(file, expires_at=expires_at)
        self.wall = Clock(1000)
        self.secrets = MemorySecrets(wall=self.wall)
        self.access = AccessControl(ServerSettings(keys_file=str(file)), secrets=self.secrets, wall=self.wall)
        self.sessions = Sessions(self.access, address_connections=lambda: most, wall=self.wall)
        (self.key,) = self.access.keyring._keys.values()
        self.ended: list[Expired] = []

    def secret(self, **leash: Any) -> Secret:
        made = self.secrets.find(self.secrets.add(Leash("", 10**10, **leash), "shop", self.key.id))
        assert made is not None
        return made

    def caller(self, secret: Secret | None = None, address: str = "198.51.100.1") -> Caller:
        return Caller("shop", "", self.key.id, frozenset(), address, whole_leash(secret) if secret else None)

    def look(self) -> None:
        """What happens each second, after a change of the file."""
        self.access.keyring._looked = float("-inf")
        self.sessions.check()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


@pytest.fixture
def open_ones() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def test_a_secret_has_no_more_connections_than_its_leash_says(file: Path, open_ones: ExitStack) -> None:
    site = Site(file)
    caller = site.caller(site.secret(connections=2))
    with site.sessions.connected(caller):
        open_ones.enter_context(site.sessions.connected(caller))
        with pytest.raises(ApiError) as error:
            open_ones.enter_context(site.sessions.connected(caller))
        assert (error.value.status, error.value.code) == (429, "too_many_connections")
        open_ones.enter_context(site.sessions.connected(site.caller(site.secret(connections=2))))
    open_ones.enter_context(site.sessions.connected(caller))


def test_an_address_has_no_more_connections_with_secrets_than_configured(file: Path, open_ones: ExitStack) -> None:
    site = Site(file, most=2)
    for _ in range(2):
        open_ones.enter_context(site.sessions.connected(site.caller(site.secret())))
    with pytest.raises(ApiError, match="One address"):
        open_ones.enter_context(site.sessions.connected(site.caller(site.secret())))
    open_ones.enter_context(site.sessions.connected(site.caller(site.secret(), "198.51.100.2")))
    for _ in range(5):
        open_ones.enter_context(site.sessions.connected(site.caller()))  # the site's own server


async def test_sessions_end_once_their_key_is_revoked(file: Path) -> None:
    site = Site(file)
    new_key(file, "other")
    site.sessions.watch(site.caller(), None, site.ended.append)
    site.sessions.watch(site.caller(site.secret()), None, site.ended.append)
    site.look()
    assert site.ended == []
    revoke(file, "shop")
    site.look()
    site.look()
    assert [each.code for each in site.ended] == ["invalid_api_key"] * 2


async def test_sessions_end_once_their_key_has_expired(file: Path) -> None:
    site = Site(file, expires_at=2000)
    site.sessions.watch(site.caller(), None, site.ended.append)
    for site.wall.now in (1000, 1999, 2000):
        assert site.ended == []
        site.look()
    assert [each.code for each in site.ended] == ["invalid_api_key"]


async def test_a_session_ends_when_its_time_is_over(file: Path) -> None:
    site = Site(file)
    site.sessions.watch(site.caller(), 1060, site.ended.append)
    later = site.sessions.watch(site.caller(), 1070, site.ended.append)
    for site.wall.now in (1000, 1059, 1060):
        assert site.ended == []
        site.sessions.check()
    assert [each.code for each in site.ended] == ["session_expired"]
    later.cancel()
    site.wall.now = 2000
    site.sessions.check()
    assert len(site.ended) == 1, "what was cancelled does not end again"


async def test_the_clock_ticks_only_while_there_are_sessions(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.access.sessions.INTERVAL", 0.01)
    site = Site(file)
    assert site.sessions._timer is None
    ended = asyncio.Event()
    site.sessions.watch(site.caller(), 1060, lambda _: ended.set())
    site.wall.now = 1060
    await asyncio.wait_for(ended.wait(), 10)
    assert site.sessions._timer is None


async def test_looking_at_10000_sessions_costs_nothing_while_no_key_has_changed(file: Path) -> None:
    site = Site(file)
    for _ in range(10_000):
        site.sessions.watch(site.caller(), 5000, site.ended.append)
    site.look()
    seen = site.access.keyring.alive
    asked: list[str] = []
    site.access.keyring.alive = lambda id: asked.append(id) or seen(id)  # type: ignore[method-assign, func-returns-value]
    for _ in range(100):
        site.look()
    assert asked == []
    for watch in list(site.sessions._watched):
        watch.cancel()
