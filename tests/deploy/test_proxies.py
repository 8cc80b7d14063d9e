"""Behind the real Caddy, with deploy/Caddyfile: nothing streamed waits, and no invented address is believed."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from bench.faults.process import free_port
from server.config import ServerSettings
from tests.deploy.test_files import DEPLOY, program
from tests.server.access.support import bearer, guarded, new_key
from tests.support import PATIENCE, Client, Running, ScriptedModel, eventually


@asynccontextmanager
async def behind_caddy(server: Running, folder: Path) -> AsyncIterator[str]:
    """The address of a Caddy before the server, without TLS: its certificate would be asked of the internet."""
    port = free_port()
    own = (DEPLOY / "Caddyfile").read_text().replace("{\n\tservers", "{\n\tadmin off\n\tservers", 1)
    (folder / "Caddyfile").write_text(own)
    environment = {
        "DOMAIN": f"http://127.0.0.1:{port}",
        "UPSTREAM": server.url.removeprefix("http://"),
        "HOME": str(folder),
    }
    words = ["run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
    quiet = asyncio.subprocess.DEVNULL
    caddy = await asyncio.create_subprocess_exec(program("caddy"), *words, env=environment, stdout=quiet, stderr=quiet)
    try:
        await eventually(lambda: _answers(port), "Caddy listens")
        yield f"http://127.0.0.1:{port}"
    finally:
        caddy.terminate()
        await caddy.wait()


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


SERVER = ServerSettings(trusted_proxies=("127.0.0.1/32",), allowed_hosts=("bot.example",))


@pytest.mark.parametrize("streams", ["sse", "websocket"])
async def test_a_token_comes_before_the_next_one_is_made(streams: str, tmp_path: Path) -> None:
    gate = threading.Semaphore(1)
    key = new_key(tmp_path / "keys.json")
    model = ScriptedModel(["One ", "two."], gate=gate)
    async with (
        guarded(tmp_path / "keys.json", model, server=SERVER) as site,
        behind_caddy(site.server, tmp_path) as url,
    ):
        try:
            async with asyncio.timeout(PATIENCE):
                if streams == "sse":
                    await _first_of_sse(site.server.http, url, key)
                else:
                    await _first_of_websocket(url, key)
        finally:
            for _ in range(4):
                gate.release()


async def _first_of_sse(http: aiohttp.ClientSession, url: str, key: str) -> None:
    body = {"messages": [{"role": "user", "content": "Count"}], "stream": True}
    async with http.post(f"{url}/v1/chat/completions", json=body, headers=bearer(key)) as answer:
        assert answer.status == 200, await answer.text()
        async for line in answer.content:
            if b'"One' in line:
                return
    raise AssertionError("the reply ended without its first token")


async def _first_of_websocket(url: str, key: str) -> None:
    from websockets.asyncio.client import connect

    address = f"{url.replace('http', 'ws')}/v1/realtime"
    async with connect(address, additional_headers=bearer(key)) as connection:
        client = Client(connection)
        await client.greet()
        await client.send("session.update", session={"type": "realtime", "output_modalities": ["text"]})
        await client.until("session.updated")
        await client.say("Count")
        await client.send("response.create")
        assert (await client.until("response.output_text.delta"))[-1]["delta"].strip() == "One"


async def test_an_address_that_a_client_invents_is_not_believed(tmp_path: Path) -> None:
    key = new_key(tmp_path / "keys.json")
    async with guarded(tmp_path / "keys.json", server=SERVER) as site, behind_caddy(site.server, tmp_path) as url:
        invented = {"X-Forwarded-Host": "evil.example", "X-Forwarded-For": "203.0.113.9"}
        async with site.server.http.get(f"{url}/v1/models", headers=bearer(key) | invented) as answer:
            assert answer.status == 200, await answer.text()
        direct = bearer(key) | {"X-Forwarded-Host": "evil.example"}
        async with site.server.http.get(f"{site.server.url}/v1/models", headers=direct) as answer:
            assert answer.status == 421, "the server itself believes its proxy"


async def test_the_metrics_are_hidden_from_the_internet(tmp_path: Path) -> None:
    key = new_key(tmp_path / "keys.json", scopes=("admin",))
    async with guarded(tmp_path / "keys.json", server=SERVER) as site, behind_caddy(site.server, tmp_path) as url:
        async with site.server.http.get(f"{url}/metrics", headers=bearer(key)) as answer:
            assert answer.status == 404
        async with site.server.http.get(f"{site.server.url}/metrics", headers=bearer(key)) as answer:
            assert answer.status == 200
