import json
import re
import tomllib
from pathlib import Path

import pytest

from server.config import ConfigError, ServerSettings, Settings, hash_key, read, show
from tests.support import ROOT

KEY = "lq-secret"


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_config_toml_holds_every_key_with_its_default() -> None:
    written = tomllib.loads((ROOT / "config.toml").read_text())
    assert written == Settings().model_dump(mode="json")


def test_config_toml_has_a_comment_above_every_key() -> None:
    lines = (ROOT / "config.toml").read_text().splitlines()
    for before, line in zip(["", *lines], lines, strict=False):
        if re.match(r"\w+ = ", line):
            assert before.startswith("# "), f"no comment above: {line}"


def test_config_toml_has_the_order_of_the_code() -> None:
    written = tomllib.loads((ROOT / "config.toml").read_text())
    assert json.dumps(written) == json.dumps(Settings().model_dump(mode="json"))


def test_a_file_gives_way_to_the_environment_and_that_to_the_command_line(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere / "config.toml").write_text('[chat]\nmodel = "file"\ncontext = 512\nstreams = 3\n')
    monkeypatch.setenv("LOQUENT__CHAT__MODEL", "environment")
    monkeypatch.setenv("LOQUENT__CHAT__CONTEXT", "1024")
    configuration = read(None, {"chat.model": "line", "server.port": None})
    chat = configuration.settings.chat
    assert (chat.model, chat.context, chat.streams) == ("line", 1024, 3)
    origins = {key: origin for key, _, origin in show(configuration)}
    assert origins["chat.model"] == "command line"
    assert origins["chat.context"] == "environment"
    assert origins["chat.streams"] == "config.toml"
    assert origins["server.port"] == "default"


def test_the_file_is_looked_for_where_the_documents_say(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(explicit: str | None = None) -> str:
        return read(explicit).settings.chat.model

    def write(path: Path) -> str:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'[chat]\nmodel = "{path.stem}"\n')
        return str(path)

    assert found() == "smollm2-135m-instruct"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(elsewhere / "home"))
    write(elsewhere / "home/loquent/config.toml")
    assert found() == "config"
    (elsewhere / "config.toml").write_text('[chat]\nmodel = "here"\n')
    assert found() == "here"
    monkeypatch.setenv("LOQUENT_CONFIG", write(elsewhere / "named.toml"))
    assert found() == "named"
    assert found(write(elsewhere / "explicit.toml")) == "explicit"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[chat]\ncontxt = 5", r"no key 'chat.contxt'. Did you mean 'chat.context'"),
        ("[chatt]\nmodel = 'x'", r"no key 'chatt.model'. Did you mean 'chat.model'"),
        ("chat = 5", r"no key 'chat'"),
        ("[chat]\ncontext = 'many'", r"config.toml: chat.context: .*\(it is 'many'\)"),
        ("[chat]\ncontext = 3", r"chat.context: Input should be greater than or equal to 16"),
        ("[chat]\noverflow = 'perhaps'", r"chat.overflow: .*'error' or 'trim'"),
        ("[pipeline]\nstages = ['chad']", r"pipeline.stages: "),
        ("[server", r"config.toml can't be read"),
        (f"[server]\nkeys = ['{KEY}']", r"server.keys: .*loquent keys new"),
    ],
)
def test_what_is_wrong_is_named(text: str, message: str, elsewhere: Path) -> None:
    (elsewhere / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        read()
    assert KEY not in str(error.value)


@pytest.mark.parametrize("name", ["LOQUENT__CHAT__MODLE", "LOQUENT__CHTA__MODEL", "LOQUENT__MODEL"])
def test_a_misspelt_environment_variable_is_an_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "x")
    with pytest.raises(ConfigError):
        read()


def test_an_environment_variable_that_is_no_json_where_it_must_be_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOQUENT__SERVER__KEYS", "abc")
    with pytest.raises(ConfigError, match="server"):
        read()


@pytest.mark.parametrize("explicit", [True, False])
def test_a_file_that_was_named_must_be_there(explicit: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not explicit:
        monkeypatch.setenv("LOQUENT_CONFIG", "nowhere.toml")
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        read("nowhere.toml" if explicit else None)


def test_only_the_environment_may_hold_a_key_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOQUENT__SERVER__KEYS", json.dumps([KEY, hash_key("other")]))
    configuration = read()
    assert configuration.settings.server.keys == (hash_key(KEY), hash_key("other"))
    assert KEY not in str(list(show(configuration)))


def test_the_settings_are_frozen() -> None:
    settings = Settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.chat.context = 5


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *((host, True) for host in ("127.0.0.1", "127.8.9.1", "::1", "localhost")),
        *((host, False) for host in ("0.0.0.0", "::", "192.168.1.5", "127.evil.example", "bot.example")),  # noqa: S104
    ],
)
def test_only_this_machines_own_addresses_are_loopback(host: str, loopback: bool) -> None:
    assert ServerSettings(host=host).loopback is loopback


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ('["anomaly", "chat", "speech", "image"]', r'ends with the model: \["speech", "anomaly", "image", "chat"\]'),
        ('["chat", "speech"]', r'ends with the model: \["speech", "chat"\]'),
        ('["speech"]', r'ends with the model: \["speech", "chat"\]'),
        ("[]", r'ends with the model: \["chat"\]'),
        ('["chat", "chat"]', "names a stage twice"),
        ('["speach", "chat"]', "there is no stage 'speach'. Did you mean 'speech'"),
        ('["os", "chat"]', "there is no stage 'os'. There are anomaly, chat, image, speech, tools"),
    ],
)
def test_the_list_of_stages_is_their_order_and_ends_with_the_model(
    stages: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOQUENT__PIPELINE__STAGES", stages)
    with pytest.raises(ConfigError, match=rf"pipeline\.stages: .*{message}"):
        read()
    for right in (["chat"], ["speech", "chat"], ["image", "anomaly", "chat"]):
        monkeypatch.setenv("LOQUENT__PIPELINE__STAGES", json.dumps(right))
        assert read().settings.pipeline.stages == tuple(right)
        assert list(read().stages) == right


def test_settings_of_a_stage_that_is_not_listed_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOQUENT__STAGES__MASK__WITH", "x")
    with pytest.raises(ConfigError, match=r"stages\.mask: \[pipeline\] stages lacks 'mask'"):
        read()
