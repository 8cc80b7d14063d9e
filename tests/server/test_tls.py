"""HTTPS and wss: through the real server, and through a process of its own with the command line's clients."""

import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import aiohttp
import pytest
from websockets.asyncio.client import connect

from server.auth import Refusal
from server.config import ConfigError, ServerSettings, Settings, read
from server.tls import Certificate
from tests.support import ROOT, Client, ScriptedModel, eventually, realtime, run, running, started


def signed(folder: Path, name: str, *, password: str = "") -> tuple[Path, Path]:
    """A self-signed certificate of this machine, and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-days", "2"]
    command += ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    command += ["-passout", f"pass:{password}"] if password else ["-noenc"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


def replace(file: Path, by: Path) -> None:
    """As certificate managers do it: at once."""
    shutil.copy(by, file.with_suffix(".new"))
    os.replace(file.with_suffix(".new"), file)


def trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(certificate))


def over(certificate: Path, key: Path) -> Settings:
    return Settings(server=ServerSettings(tls_cert=str(certificate), tls_key=str(key)))


async def test_the_protocol_runs_over_wss_and_https(tmp_path: Path) -> None:
    certificate, key = signed(tmp_path, "one")
    trust = trusting(certificate)
    async with running(ScriptedModel(["Hello."]), over(certificate, key)) as server:
        assert server.url.startswith("https://127.0.0.1:")
        async with server.http.get(f"{server.url}/livez", ssl=trust) as answer:
            assert answer.status == 200
        async with connect(realtime(server.url), ssl=trust) as socket:
            client = Client(socket)
            await client.greet()
            assert (await client.ask("Hi"))[-1]["response"]["status"] == "completed"


async def test_old_versions_of_tls_are_refused(tmp_path: Path) -> None:
    certificate, key = signed(tmp_path, "one")
    old = trusting(certificate)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.minimum_version = ssl.TLSVersion.TLSv1_1
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    async with running(ScriptedModel(["Hello."]), over(certificate, key)) as server:
        with pytest.raises((ssl.SSLError, OSError)):
            async with connect(realtime(server.url), ssl=old):
                pass


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])  # a client names the server only where it has a name
async def test_a_changed_certificate_is_shown_to_new_connections(tmp_path: Path, host: str) -> None:
    certificate, key = signed(tmp_path, "one")
    first, second = trusting(certificate), signed(tmp_path, "two")
    async with running(ScriptedModel(["Hello."]), over(certificate, key)) as server:
        url = realtime(server.url).replace("127.0.0.1", host)
        async with connect(url, ssl=first, host="127.0.0.1") as socket:
            client = Client(socket)
            await client.greet()
            replace(certificate, second[0])
            async with connect(url, ssl=first, host="127.0.0.1"):
                pass  # half of the change: the key is still the old one's
            replace(key, second[1])
            async with connect(url, ssl=trusting(second[0]), host="127.0.0.1"):
                pass
            with pytest.raises(ssl.SSLCertVerificationError):
                async with connect(url, ssl=first, host="127.0.0.1"):
                    pass
            assert (await client.ask("Hi"))[-1]["response"]["status"] == "completed", "who is connected stays"


async def test_a_broken_certificate_leaves_the_old_one_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key = signed(tmp_path, "one")
    trust = trusting(certificate)
    async with running(ScriptedModel(["Hello."]), over(certificate, key)) as server:
        for change in (lambda: certificate.write_text("no PEM"), certificate.unlink):
            change()
            for _ in range(3):
                async with connect(realtime(server.url), ssl=trust):
                    pass
    assert len([record for record in caplog.records if "the old one stays" in record.getMessage()]) == 2


def test_a_key_of_another_certificate_is_refused_at_the_start(tmp_path: Path) -> None:
    (certificate, _), (_, other) = signed(tmp_path, "one"), signed(tmp_path, "two")
    with pytest.raises(Refusal, match="is not the key of"):
        Certificate(str(certificate), str(other))


def test_a_key_with_a_password_is_refused_and_asks_for_none(tmp_path: Path) -> None:
    with pytest.raises(Refusal, match="is encrypted"):
        Certificate(*map(str, signed(tmp_path, "one", password="secret")))


def test_what_is_missing_or_no_pem_is_named(tmp_path: Path) -> None:
    certificate, key = signed(tmp_path, "one")
    with pytest.raises(Refusal, match="nowhere"):
        Certificate(str(certificate), str(tmp_path / "nowhere"))
    key.write_text("no PEM")
    with pytest.raises(Refusal, match="must be PEM files"):
        Certificate(str(certificate), str(key))


def test_a_certificate_without_its_key_is_no_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOQUENT__SERVER__TLS_CERT", "one.pem")
    with pytest.raises(ConfigError, match="tls_cert and tls_key must be set together"):
        read()


def test_the_command_says_at_once_what_is_wrong_with_a_key(loquent: str, tmp_path: Path) -> None:
    (certificate, _), (_, other) = signed(tmp_path, "one"), signed(tmp_path, "two")
    environment = {"LOQUENT__SERVER__TLS_CERT": str(certificate), "LOQUENT__SERVER__TLS_KEY": str(other)}
    ended = run(loquent, "serve", "--port", "0", env=environment)
    assert ended.returncode == 2
    assert "is not the key of" in ended.stderr


async def test_a_process_serves_https_and_wss_and_shows_a_new_certificate(loquent: str, tmp_path: Path) -> None:
    certificate, key = signed(tmp_path, "one")
    old, new = trusting(certificate), signed(tmp_path, "two")
    environment = {
        "LOQUENT__SERVER__TLS_CERT": str(certificate),
        "LOQUENT__SERVER__TLS_KEY": str(key),
        "LOQUENT__PIPELINE__STAGES": json.dumps(["chat"]),
        "PYTHONASYNCIODEBUG": "",  # with it asyncio logs every failed handshake as an error
    }
    with started([loquent], environment, cwd=ROOT) as address:
        assert address.startswith("https://")
        async with aiohttp.ClientSession() as http, http.get(f"{address}/readyz", ssl=old) as answer:
            assert answer.status == 200
        async with connect(realtime(address), ssl=old) as socket:
            await Client(socket).greet()
        for trust in (("--ca", str(certificate)), ("--insecure",)):
            answered = run(loquent, "ask", "--url", address, *trust, "--max-tokens", "3", "Hi")
            assert answered.returncode == 0, answered.stderr
        refused = run(loquent, "ask", "--url", address, "Hi")
        assert refused.returncode == 3
        assert "is not trusted" in refused.stderr
        assert "--ca" in refused.stderr
        replace(key, new[1])
        replace(certificate, new[0])
        async with connect(realtime(address), ssl=trusting(new[0])) as socket:
            await Client(socket).greet()


async def test_a_client_without_tls_leaves_nothing_behind(tmp_path: Path) -> None:
    certificate, key = signed(tmp_path, "one")
    async with running(ScriptedModel(["Hello."]), over(certificate, key)) as server:
        ended = run_plain(server.url.replace("https", "http"))
        assert ended
        await eventually(lambda: server.backend.requests == 0, "it is gone")


def run_plain(url: str) -> bool:
    try:
        urllib.request.urlopen(f"{url}/livez", timeout=5)  # noqa: S310
    except OSError:
        return True
    return False


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root can become another user")
def test_a_key_that_the_servers_user_may_not_read_is_named(tmp_path: Path) -> None:
    certificate, key = signed(tmp_path, "one")
    key.chmod(0o600)
    for folder in (tmp_path, *tmp_path.parents):
        if Path(tempfile.gettempdir()) in folder.parents:
            folder.chmod(0o755)
    program = f"from server.tls import Certificate\nCertificate({str(certificate)!r}, {str(key)!r})"
    other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    ended = run(*other, sys.executable, "-c", program, PYTHONPATH=str(ROOT), HOME=str(tmp_path))
    assert ended.returncode != 0
    assert f"tls_cert, tls_key: Permission denied: {key}." in ended.stderr
