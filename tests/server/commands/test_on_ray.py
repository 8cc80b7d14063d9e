"""``loquent serve --on ray``, as far as no cluster is needed: what it refuses, and what its replicas read."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from server.cluster.inner import engine_of, gateway_of
from server.commands import on_ray
from server.commands.failure import Exit, Failure
from server.config import ConfigError, Configuration, read
from tests.support import run

HAS_RAY = find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not HAS_RAY, reason="Ray Serve is not installed: pip install 'loquent[ray]'")
POSTGRES = "postgresql://loquent@127.0.0.1/loquent"


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    file = tmp_path / "config.toml"
    file.write_text(
        '[server]\nhost = "0.0.0.0"\nkeys_file = "keys"\ntls_cert = "c"\ntls_key = "k"\n'
        '[history]\nstore = "postgresql://loquent@127.0.0.1/loquent"\n[chat]\nmodel = "m"\nstreams = 5\n'
    )
    return read(str(file))


def test_without_ray_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_ray, "find_spec", lambda name: None)
    with pytest.raises(Failure) as failure:
        on_ray.serve_on_ray(None, {}, None)
    assert failure.value.code == Exit.USAGE
    assert "pip install 'loquent[ray]'" in str(failure.value)


def test_an_address_is_that_of_a_cluster(loquent: str) -> None:
    done = run(loquent, "serve", "--address", "auto")
    assert (done.returncode, done.stderr) == (2, "loquent: --address is that of a Ray cluster: --on ray\n")


@pytest.mark.parametrize("value", ["[4, 1]", "[0, 1]", "[1]", "1"])
def test_how_many_there_are_is_the_least_and_the_most(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOQUENT__RAY__GATEWAYS", value)
    with pytest.raises(ConfigError, match=r"ray\.gateways"):
        read()


@needs_ray
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_several_gateways_need_a_database_that_they_share() -> None:
    with pytest.raises(Failure, match="PostgreSQL") as failure:
        on_ray.serve_on_ray(None, {"history.store": "sqlite:///x.db"}, None)
    assert failure.value.code == Exit.USAGE


def test_a_gateway_has_everything_but_the_model_and_an_engine_nothing_else(configuration: Configuration) -> None:
    gateway = gateway_of(configuration, own=True)
    assert (gateway.settings.chat.engine, gateway.settings.chat.upstream.urls) == ("openai", ())
    assert gateway.settings.chat.at_once == 5, "until there is an engine, as many as one makes"
    assert gateway.settings.history.store == POSTGRES
    assert gateway.settings.server.keys_file == "keys"
    assert not gateway.settings.server.tls, "which is Serve's"
    elsewhere = gateway_of(configuration, own=False)
    assert elsewhere.settings.chat == configuration.settings.chat
    engine = engine_of(configuration, "10.0.0.5")
    assert list(engine.parts) == ["chat"]
    assert (engine.settings.history.store, engine.settings.limits.rates) == ("none", "off")
    assert (engine.settings.chat.model, engine.settings.server.keys_file) == ("m", "")
    assert engine.settings.server.allowed_hosts == ("10.0.0.5",)
