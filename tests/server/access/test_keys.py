"""The keys file, and what a running server makes of its changes."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from server.access.key_file import KeyFileError, change_keys, path_of, read_keys
from server.access.keyring import Keyring
from server.access.keys import Key, expiry_of, make_key, scopes_of
from server.auth import Refusal, check_exposure
from server.config import ServerSettings, hash_key

NOW = 1_800_000_000.0


class Clock:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def key(name: str = "shop", **fields: Any) -> Key:
    return Key(name, hash_key(name + str(fields)), **fields)


def settings(path: Path, **fields: Any) -> ServerSettings:
    return ServerSettings(keys_file=str(path), **fields)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.json"


def put(file: Path, *keys: Key) -> None:
    change_keys(file, lambda _: keys)


def test_what_is_written_is_read_again(file: Path) -> None:
    keys = (key(), key("other", scopes=frozenset({"http"}), created_at=5, expires_at=int(NOW)))
    put(file, *keys)
    assert read_keys(file) == keys


def test_a_change_that_fails_leaves_the_file_as_it_was(file: Path) -> None:
    put(file, key())
    with pytest.raises(ZeroDivisionError):
        change_keys(file, lambda keys: [*keys] * (1 // 0))
    assert read_keys(file) == (key(),)
    assert [path.name for path in file.parent.iterdir() if path.name.startswith(".keys")] == []


def test_behind_a_link_the_file_itself_is_replaced(file: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.json"
    put(target, key())
    file.symlink_to(target)
    put(file, key("new"))
    assert file.is_symlink()
    assert read_keys(target) == (key("new"),)


GOOD = {"name": "a", "hash": "sha256:" + "0" * 64, "scopes": ["http"]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Invalid JSON"),
        ("[]", "Input should be an object"),
        ('{"version": 2, "keys": []}', "version"),
        ('{"version": 1, "keys": [{}]}', "keys.0.name"),
        (json.dumps({"version": 1, "keys": [GOOD | {"hash": "lq-plain"}]}), "keys.0.hash"),
        (json.dumps({"version": 1, "keys": [GOOD | {"scopes": ["everything"]}]}), "keys.0.scopes.0"),
        (json.dumps({"version": 1, "keys": [GOOD | {"name": "a/b"}]}), "keys.0.name"),
        (json.dumps({"version": 1, "keys": [GOOD | {"key": "lq-plain"}]}), "keys.0.key"),
        (json.dumps({"version": 1, "keys": [GOOD, GOOD]}), "twice"),
    ],
)
def test_a_broken_file_is_an_error_that_says_where(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(KeyFileError, match=r"keys\.json is broken") as error:
        read_keys(file)
    assert said in str(error.value)
    assert "lq-plain" not in str(error.value), "what is in it is not repeated"


def test_a_folder_in_its_place_is_said(file: Path) -> None:
    file.mkdir()
    with pytest.raises(KeyFileError, match="is no file"):
        read_keys(file)


def test_without_a_configured_file_it_is_in_the_users_data_folder(tmp_path: Path) -> None:
    assert path_of(ServerSettings()) == tmp_path / "data" / "loquent" / "keys.json"


def test_a_running_server_sees_a_new_key_and_a_revoked_one_within_a_second(file: Path) -> None:
    clock = Clock(0)
    keyring = Keyring(settings(file), clock=clock, wall=lambda: NOW)
    assert not keyring.required
    put(file, key())
    clock.now = 1
    assert keyring.required
    assert keyring.find(key().hash) == key()
    put(file)
    clock.now = 2
    assert keyring.find(key().hash) is None
    assert not keyring.alive(key().id)


def test_the_file_is_looked_at_no_more_than_once_a_second(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(file, key())
    clock, looks, real = Clock(0), [0], os.stat

    def counting(path: Any, **options: Any) -> os.stat_result:
        looks[0] += Path(path) == file
        return real(path, **options)

    keyring = Keyring(settings(file), clock=clock, wall=lambda: NOW)
    monkeypatch.setattr("server.access.keyring.os.stat", counting)
    for tenth in range(31):
        clock.now = tenth / 10
        keyring.find("sha256:x")
    assert looks[0] == 3


def test_removing_the_last_key_does_not_open_the_server(file: Path) -> None:
    clock = Clock(0)
    put(file, key())
    keyring = Keyring(settings(file), clock=clock, wall=lambda: NOW)
    file.unlink()
    clock.now = 1
    assert keyring.required
    assert keyring.find(key().hash) is None


def test_a_file_that_breaks_leaves_the_keys_and_is_logged_once(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(0)
    put(file, key())
    keyring = Keyring(settings(file), clock=clock, wall=lambda: NOW)
    file.write_text("{")
    for clock.now in (1.0, 2.0, 3.0):
        assert keyring.find(key().hash) == key()
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    put_again = {"version": 1, "keys": []}
    file.write_text(json.dumps(put_again))
    clock.now = 4
    assert keyring.find(key().hash) is None


def test_a_key_is_no_key_once_it_has_expired(file: Path) -> None:
    wall = Clock(NOW)
    put(file, key(expires_at=int(NOW) + 10))
    keyring = Keyring(settings(file), clock=lambda: 0, wall=wall)
    (found,) = read_keys(file)
    assert keyring.find(found.hash)
    wall.now = NOW + 10
    assert keyring.find(found.hash) is None
    assert not keyring.alive(found.id)
    assert not keyring.usable


def test_two_keys_of_one_name_are_no_two_tenants(file: Path) -> None:
    put(file, key(created_at=1), key(created_at=2))
    assert not Keyring(settings(file)).several
    put(file, key(created_at=1), key("other"))
    assert Keyring(settings(file)).several


def test_beyond_this_machine_a_valid_key_in_the_file_is_enough(file: Path) -> None:
    far = settings(file, host="0.0.0.0")  # noqa: S104 - that is the point
    with pytest.raises(Refusal, match="loquent keys new"):
        check_exposure(far)
    put(file, key(expires_at=1))
    with pytest.raises(Refusal, match="no valid key"):
        check_exposure(far)
    put(file, key())
    check_exposure(far)
    file.write_text("{")
    with pytest.raises(Refusal, match="is broken"):
        check_exposure(settings(file))


@pytest.mark.parametrize(
    ("given", "seconds"), [("12h", 43_200), ("90d", 7_776_000), ("2w", 1_209_600), ("2027-01-16", 57_600)]
)
def test_an_expiry_is_a_time_to_come(given: str, seconds: int) -> None:
    assert expiry_of(given, NOW) == NOW + seconds  # from 2027-01-15 08:00 UTC on


@pytest.mark.parametrize("given", ["", "0d", "-1d", "1y", "90", "2027-01-15", "2027-13-01", "999999w", "٩d"])
def test_any_other_expiry_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="no time to come"):
        expiry_of(given, NOW)


def test_scopes_are_named_with_commas_or_one_by_one() -> None:
    assert scopes_of(["http, admin", "realtime"]) == ("realtime", "http", "admin")
    assert scopes_of([]) == ("realtime", "http", "secrets")


def test_a_keys_id_is_the_beginning_of_its_hash() -> None:
    value, known = make_key("shop", ["http"], None, NOW)
    assert hash_key(value) == known.hash
    assert known.hash.startswith(f"sha256:{known.id}")
