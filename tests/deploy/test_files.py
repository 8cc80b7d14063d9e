"""The files in deploy/: their own tools take them, and what they promise of each other holds."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.config import ServerSettings, read
from tests.support import ROOT, run

DEPLOY = ROOT / "deploy"
PROGRAMS = Path(sys.executable).parent
UNIT = (DEPLOY / "loquent.service").read_text()
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
MOST_EXPOSED = 15  # tenths, of the scale of systemd-analyze, which ends with 100

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


def program(name: str) -> str:
    """A program that a package brought into this environment."""
    if not (path := PROGRAMS / name).exists():
        pytest.skip(f"{name} has no package for this machine")
    return str(path)


def test_hadolint_has_nothing_to_say_of_the_dockerfile() -> None:
    done = run(program("hadolint"), DEPLOY / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_runs_as_a_user_and_has_no_writable_code() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.+)$", last, re.MULTILINE) == ["10001:10001"]
    assert last.index("\nUSER ") > last.rindex("\nRUN ")
    assert "chown" not in last.lower()


def test_the_context_of_the_image_holds_no_secret() -> None:
    rules = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    allowed = {rule[1:] for rule in rules if rule.startswith("!")}
    assert next(rule for rule in rules if rule and not rule.startswith("#")) == "*"
    copied = {
        word for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]
    }
    assert copied == allowed


def test_docker_compose_takes_the_file_and_only_caddy_has_open_ports() -> None:
    done = run(
        program("docker-compose"), "-f", DEPLOY / "compose.yaml", "config", "--format", "json", DOMAIN="bot.example"
    )
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    assert [name for name, service in services.items() if service.get("ports")] == ["caddy"]
    for name, service in services.items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not any("latest" in service.get("image", "") for service in services.values())


def test_the_server_in_compose_has_a_configuration_that_trusts_its_own_network(monkeypatch: pytest.MonkeyPatch) -> None:
    network = COMPOSE["networks"]["inner"]["ipam"]["config"][0]["subnet"]
    for name, value in COMPOSE["services"]["loquent"]["environment"].items():
        monkeypatch.setenv(
            name, re.sub(r"\$\{DOMAIN[^}]*\}", "bot.example", value).replace("${ALLOWED_ORIGINS:-[]}", "[]")
        )
    settings = read().settings
    assert settings.server.trusted_proxies == (network,)
    assert settings.server.allowed_hosts == ("bot.example",)
    assert settings.history.store.startswith("postgresql://loquent@db:5432/")
    assert COMPOSE["networks"]["inner"]["internal"]


def test_what_stops_the_server_waits_for_its_drain() -> None:
    drain = ServerSettings().drain
    assert int(COMPOSE["services"]["loquent"]["stop_grace_period"].removesuffix("s")) > drain
    found = re.search(r"^TimeoutStopSec=(\d+)$", UNIT, re.MULTILINE)
    assert found is not None
    assert int(found[1]) > drain


def test_a_missing_domain_is_named() -> None:
    done = run(program("docker-compose"), "-f", DEPLOY / "compose.yaml", "config", DOMAIN="")
    assert done.returncode != 0
    assert "DOMAIN" in done.stderr


@pytest.mark.parametrize("settings", [{"DOMAIN": "bot.example"}, {"DOMAIN": "bot.lan", "TLS": "tls internal"}, {}])
def test_caddy_takes_its_file(settings: dict[str, str], tmp_path: Path) -> None:
    words = ["validate", "--config", str(DEPLOY / "Caddyfile"), "--adapter", "caddyfile"]
    done = run(program("caddy"), *words, env=settings, HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr


@needs_systemd
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """Its program is not installed on this machine, and so is another one here."""
    unit = tmp_path / "loquent.service"
    unit.write_text(UNIT.replace("/opt/loquent/bin/loquent", "/bin/true"))
    done = run("systemd-analyze", "verify", unit)
    ours = [line for line in done.stderr.splitlines() if "loquent" in line]
    assert (done.returncode, ours) == (0, [])


@needs_systemd
def test_the_unit_is_hardly_exposed() -> None:
    words = ["security", "--offline=true", f"--threshold={MOST_EXPOSED}", "--no-pager", DEPLOY / "loquent.service"]
    done = run("systemd-analyze", *map(str, words))
    assert done.returncode == 0, done.stdout


@needs_systemd
def test_a_wrong_configuration_is_not_tried_again(loquent: str, tmp_path: Path) -> None:
    found = re.search(r"^RestartPreventExitStatus=(\d+)$", UNIT, re.MULTILINE)
    assert found is not None
    done = subprocess.run([loquent, "serve", "--host", "0.0.0.0"], capture_output=True, check=False, timeout=60)  # noqa: S104
    assert done.returncode == int(found[1])
