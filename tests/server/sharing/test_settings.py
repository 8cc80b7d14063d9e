"""``[limits] store`` and ``[image] store``: what they may name, what is shown of them, what a wrong one leads to."""

import sys
from pathlib import Path
from typing import Any

import pytest

from server.app import application
from server.config import ConfigError, Settings, read, show
from server.history.database import SetupError
from tests.support import ScriptedModel, run, scripted_pipeline

SETTINGS = ("limits", "image")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("section", SETTINGS)
@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1",
        "redis://:hush@redis.example:6380/3",
        "rediss://me:hush@redis.example/0?ssl_ca_certs=/etc/ca.pem",
        "redis://[::1]:6379/?db=4",
        "unix:///run/redis.sock?db=1&password=hush",
    ],
)
def test_the_address_of_a_redis_is_taken_and_its_password_never_shown(section: str, url: str, elsewhere: Path) -> None:
    (elsewhere / "config.toml").write_text(f'[{section}]\nstore = "{url}"\n')
    configuration = read()
    settings: Any = configuration.settings
    assert getattr(settings, section).store == url
    shown = {key: value for key, value, _ in show(configuration)}[f"{section}.store"]
    assert shown == url.replace("hush", "***")
    assert "hush" not in repr(settings)
    application(settings, scripted_pipeline(ScriptedModel([])))  # nothing connects before it is started


@pytest.mark.parametrize("section", SETTINGS)
@pytest.mark.parametrize(
    "url",
    [
        "hush",
        "http://:hush@127.0.0.1:6379",
        "redis://:hush@",
        "redis://:hush@127.0.0.1:0",
        "redis://:hush@127.0.0.1:99999",
        "redis://:hush@127.0.0.1:port",
        "redis://:hush@127.0.0.1/zero",
        "redis://:hush@127.0.0.1/0?db=x",
        "redis://:hush@127.0.0.1/0?socket_timeout=9",
        "redis://:hush@127.0.0.1/0#x",
        "redis://:hush@[::1/0",
        "unix://hush",
    ],
)
def test_what_is_none_is_refused_with_what_to_do(section: str, url: str, elsewhere: Path) -> None:
    (elsewhere / "config.toml").write_text(f'[{section}]\nstore = "{url}"\n')
    with pytest.raises(ConfigError) as refused:
        read()
    assert f"{section}.store: must be empty, or the address of a Redis server: " in str(refused.value)
    assert "redis://:PASSWORD@HOST:6379/0" in str(refused.value)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("section", SETTINGS)
def test_without_the_extra_the_server_says_what_to_install(section: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    settings = Settings.model_validate({section: {"store": "redis://127.0.0.1/0"}})
    with pytest.raises(SetupError) as refused:
        application(settings, scripted_pipeline(ScriptedModel([])))
    assert refused.value.usage
    assert str(refused.value) == f"[{section}] store needs the package redis: pip install 'loquent[history]'"


@pytest.mark.parametrize("section", SETTINGS)
def test_an_option_that_the_library_does_not_know_is_said(section: str) -> None:
    settings = Settings.model_validate({section: {"store": "rediss://:hush@127.0.0.1/0?ssl_magic=1"}})
    with pytest.raises(SetupError, match=r"can't be used") as refused:
        application(settings, scripted_pipeline(ScriptedModel([])))
    assert f"[{section}] store: rediss://:***@127.0.0.1/0?ssl_magic=1" in str(refused.value)
    assert "hush" not in str(refused.value)


@pytest.mark.parametrize("section", SETTINGS)
def test_the_command_refuses_a_wrong_one_before_it_loads_anything(loquent: str, section: str) -> None:
    name = f"LOQUENT__{section.upper()}__STORE"
    outcome = run(loquent, "serve", env={name: "postgres://me:hush@127.0.0.1/x"})
    assert outcome.returncode == 2
    assert f"{section}.store: must be empty, or the address of a Redis server" in outcome.stderr
    assert "hush" not in outcome.stderr + outcome.stdout


def test_the_command_says_that_an_option_is_unknown(loquent: str) -> None:
    outcome = run(
        loquent,
        "serve",
        "--port",
        "0",
        env={"LOQUENT__LIMITS__STORE": "rediss://:hush@h/0?ssl_magic=1", "LOQUENT__PIPELINE__STAGES": '["chat"]'},
    )
    assert outcome.returncode == 2
    assert "[limits] store: rediss://:***@h/0?ssl_magic=1 can't be used" in outcome.stderr
    assert "hush" not in outcome.stderr + outcome.stdout
