"""``loquent keys``: made, listed, revoked, and used by a server that starts or runs."""

import json
import math
import stat
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from server.config import hash_key
from tests.server.commands.test_main import served
from tests.support import run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "loquent" / "keys.json"


def made(loquent: str, *options: str) -> tuple[str, str]:
    outcome = run(loquent, "keys", "new", *options)
    assert outcome.returncode == 0, outcome.stderr
    key, hashed = (line.split()[1] for line in outcome.stdout.splitlines())
    return key, hashed


def listed(loquent: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in run(loquent, "keys", "list", "--json").stdout.splitlines()]


def test_a_new_key_is_shown_once_and_only_its_hash_is_stored(loquent: str, file: Path) -> None:
    key, hashed = made(loquent, "shop")
    assert hash_key(key) == hashed
    assert hashed in file.read_text()
    assert key not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_key_has_every_scope_but_admin_unless_some_are_named(loquent: str) -> None:
    made(loquent, "shop")
    made(loquent, "prometheus", "--scope", "admin")
    made(loquent, "both", "--scope", "http,realtime", "--expires", "90d")
    shop, prometheus, both = listed(loquent)
    assert shop["scopes"] == ["http", "realtime", "secrets"]
    assert prometheus["scopes"] == ["admin"]
    assert both["scopes"] == ["http", "realtime"]
    assert (shop["expires_at"], isinstance(both["expires_at"], int)) == (None, True)


def test_a_key_is_revoked_by_its_id_or_with_all_of_its_name(loquent: str) -> None:
    for name in ("one", "one", "two"):
        made(loquent, name)
    id = str(listed(loquent)[2]["id"])
    assert run(loquent, "keys", "revoke", id).returncode == 0
    assert [key["name"] for key in listed(loquent)] == ["one", "one"]
    assert run(loquent, "keys", "revoke", "one").stdout.count("revoked one") == 2
    assert listed(loquent) == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["new", "a/b"], "no name for a key"),
        (["new", "0123456789ab"], "no name for a key"),
        (["new", "shop", "--scope", "all"], "realtime, http, secrets, admin"),
        (["new", "shop", "--expires", "soon"], "90d"),
        (["new", "shop", "--expires", "2001-01-01"], "90d"),
        (["new", "--scope", "http"], "needs a name"),
        (["revoke"], "keys list"),
        (["revoke", "shop"], "there is no key 'shop'"),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(loquent: str, file: Path, options: list[str], said: str) -> None:
    outcome = run(loquent, "keys", *options)
    assert outcome.returncode == 2
    assert said in outcome.stderr
    assert "Traceback" not in outcome.stderr
    assert not file.exists() or json.loads(file.read_text())["keys"] == []


def test_a_broken_keys_file_is_not_overwritten(loquent: str, file: Path) -> None:
    file.parent.mkdir(parents=True)
    file.write_text("{")
    for options in (["new", "shop"], ["list"], ["revoke", "shop"], ["serve"]):
        command = options if options == ["serve"] else ["keys", *options]
        outcome = run(loquent, *command)
        assert outcome.returncode in (1, 2)
        assert "keys.json is broken" in outcome.stderr
        assert "Traceback" not in outcome.stderr
    assert file.read_text() == "{"


def test_commands_at_the_same_time_lose_no_key(loquent: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: made(loquent, f"key{number}"), range(8)))
    assert len(listed(loquent)) == 8


def status(url: str, key: str) -> int:
    request = urllib.request.Request(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - our own server
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def seconds_until(url: str, key: str, wanted: int) -> float:
    """How long it takes until a request with this key is answered so; infinite where it is not within 30 s."""
    begun = time.monotonic()
    while time.monotonic() - begun < 30:
        if status(url, key) == wanted:
            return time.monotonic() - begun
        time.sleep(0.05)
    return math.inf


def test_a_first_server_starts_with_a_key_in_the_file_and_sees_others_made_and_revoked(
    loquent: str, tmp_path: Path
) -> None:
    key, _ = made(loquent, "shop")
    with served(loquent, tmp_path, "--host", "0.0.0.0") as (_, url):  # noqa: S104 - that is the point
        here = url.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
        assert (status(here, key), status(here, "lq-wrong")) == (200, 401)
        other, _ = made(loquent, "other")
        assert seconds_until(here, other, 200) < 30
        assert run(loquent, "keys", "revoke", "shop").returncode == 0
        assert seconds_until(here, key, 401) < 30
        assert status(here, other) == 200
