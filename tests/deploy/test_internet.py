"""What docs/internet.md says is true: its way to TLS is walked, from the first key to its end."""

import json
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from server.config import Settings
from tests.deploy.test_files import UNIT
from tests.documents import blocks
from tests.server.commands.test_main import served
from tests.server.test_tls import signed, trusting
from tests.support import ROOT, Client, run

PAGE = (ROOT / "docs/internet.md").read_text()
BLOCKS = blocks("docs/internet.md")
COMMANDS = [line for language, block in BLOCKS if language == "sh" for line in block.splitlines()]
CONFIGURATIONS = [block for language, block in BLOCKS if language == "toml"]
SMALL = '\n[pipeline]\nstages = ["chat"]\n[listening]\nmodel = ""\n[chat]\nmax_tokens = 8\n'


class Operator:
    """A reader who follows the page, in a folder of its own."""

    def __init__(self, loquent: str, folder: Path) -> None:
        self.folder = folder
        self._environment = {"PATH": f"{Path(loquent).parent}:{os.environ['PATH']}"}
        self.certificate, _ = signed(folder, "cert")
        (folder / "cert.key").rename(folder / "key.pem")
        (folder / "config.toml").write_text(next(c for c in CONFIGURATIONS if "tls_cert" in c) + SMALL)

    def does(self, words: str, *, code: int = 0) -> str:
        """Run the page's only command with these words; returns what it prints."""
        (command,) = [command for command in COMMANDS if words in command]
        done = run("bash", "-c", command, cwd=self.folder, env=self._environment)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    @contextmanager
    def serving(self, loquent: str) -> Iterator[str]:
        """The server, as ``loquent serve`` of the page starts it, on a free port and with a small model."""
        assert "loquent serve" in COMMANDS
        with served(loquent, self.folder) as (_, address):
            url = address.replace("0.0.0.0", "127.0.0.1")  # noqa: S104
            self._environment |= {"URL": url, "CURL_CA_BUNDLE": str(self.certificate)}
            yield url

    def has(self, key: str) -> None:
        self._environment["KEY"] = key


async def test_from_the_first_key_over_tls_to_a_browser_and_to_the_end_of_the_key(loquent: str, tmp_path: Path) -> None:
    operator = Operator(loquent, tmp_path)
    assert 'server.tls_cert = "cert.pem"' in operator.does("config check")
    operator.has(operator.does("keys new shop").split()[1])
    assert "shop" in operator.does("keys list")
    with operator.serving(loquent) as url:
        assert url.startswith("https://")
        assert json.loads(operator.does("readyz")) == {"status": "ok"}
        assert json.loads(operator.does("/v1/models"))["data"]
        assert json.loads(operator.does("chat/completions"))["choices"]
        secret = json.loads(operator.does("client_secrets"))["value"]
        address = url.replace("https", "wss") + "/v1/realtime"
        as_browser = [Subprotocol("realtime"), Subprotocol(f"openai-insecure-api-key.{secret}")]
        async with connect(address, ssl=trusting(operator.certificate), subprotocols=as_browser) as socket:
            client = Client(socket)
            await client.greet()
            operator.does("keys revoke shop")
            with pytest.raises(ConnectionClosed):
                while True:
                    await client.receive()
        assert socket.close_code == 1008
        operator.does("/v1/models", code=22)  # what curl says of a 401


def test_every_configuration_of_the_page_is_one() -> None:
    assert len(CONFIGURATIONS) == 2
    for configuration in CONFIGURATIONS:
        Settings(**tomllib.loads(configuration))


def test_the_page_says_where_the_unit_looks() -> None:
    assert "LOQUENT_CONFIG=/etc/loquent/config.toml" in UNIT
    for folder in ("/var/lib/loquent", "/var/cache/loquent", "/opt/loquent/bin/", "/etc/loquent/environment"):
        assert folder in UNIT or f"Directory={Path(folder).name}\n" in UNIT
        assert folder in PAGE
