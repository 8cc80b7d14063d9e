"""MCP servers, as other processes: over standard input and output, and over HTTP, well-behaved and not."""

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import psutil
import pytest

from pipelines.tools import mcp as module
from pipelines.tools import relay
from pipelines.tools.mcp import McpSource
from pipelines.tools.relay import FLOODED, Bounds
from pipelines.tools.settings import McpServer
from pipelines.tools.source import ToolError
from tests.support import PATIENCE, ROOT, eventually

SCRIPT = str(ROOT / "tests/peers/mcp_server.py")
ALLOWED = ("add", "fail", "hang", "large", "flood", "die", "ask")
STDIO = McpServer(command=(sys.executable, SCRIPT, "stdio"), allow=ALLOWED)


@asynccontextmanager
async def connected(settings: McpServer, seconds: float = PATIENCE) -> AsyncIterator[McpSource]:
    source = McpSource("tests", settings, seconds, retry=0.05)
    await source.start()
    try:
        yield source
    finally:
        await source.close()


@pytest.fixture
def address() -> Iterator[str]:
    """The address of a running HTTP server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with subprocess.Popen([sys.executable, SCRIPT, "http", str(port)], stderr=subprocess.DEVNULL) as process:
        try:
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.kill()


@pytest.fixture(params=["stdio", "http"])
def server(request: pytest.FixtureRequest) -> McpServer:
    if request.param == "stdio":
        return STDIO
    return McpServer(url=request.getfixturevalue("address"), allow=ALLOWED)


async def ready(source: McpSource) -> None:
    await eventually(lambda: bool(source.tools), "the server is connected")


async def test_the_functions_that_are_allowed_can_be_called(server: McpServer) -> None:
    async with connected(server) as source:
        await ready(source)
        assert sorted(tool.name for tool in source.tools) == sorted(ALLOWED)
        add = next(tool for tool in source.tools if tool.name == "add")
        assert add.description == "Add two numbers."
        assert set(add.parameters["properties"]) == {"a", "b"}
        assert await source.call("add", {"a": 20, "b": 22}) == "42"


async def test_nothing_is_allowed_by_default_and_a_star_allows_everything() -> None:
    async with connected(STDIO.model_copy(update={"allow": ()})) as source:
        await eventually(lambda: source.connections == 1, "the server is connected")
        assert source.tools == ()
    async with connected(STDIO.model_copy(update={"allow": ("*",), "ask": ("add",)})) as source:
        await ready(source)
        assert "forbidden" in {tool.name for tool in source.tools}
        assert source.asks("add")
        assert not source.asks("fail")


@pytest.mark.parametrize(
    ("name", "arguments", "says"),
    [("fail", {}, "fail"), ("add", {"a": "x"}, "add"), ("missing", {}, "missing"), ("ask", {}, ".")],
)
async def test_what_the_server_refuses_is_an_error_for_the_model_and_the_next_call_works(
    server: McpServer, name: str, arguments: dict[str, object], says: str
) -> None:
    async with connected(server) as source:
        await ready(source)
        with pytest.raises(ToolError, match=says):
            await source.call(name, arguments)
        assert await source.call("add", {"a": 1, "b": 2}) == "3"


async def test_a_call_that_hangs_is_cancelled_and_the_next_one_works(server: McpServer) -> None:
    async with connected(server) as source:
        await ready(source)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await source.call("hang", {})
        assert await source.call("add", {"a": 1, "b": 2}) == "3"
        assert len(await source.call("large", {})) == 1_000_000


async def test_a_server_that_floods_is_left_and_connected_again(server: McpServer) -> None:
    async with connected(server, seconds=3.0) as source:
        await ready(source)
        with pytest.raises((ToolError, TimeoutError)):
            await source.call("flood", {})
        assert await sum_of(source) == "3"


async def sum_of(source: McpSource) -> str:
    """A sum, as soon as the server is there again."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await source.call("add", {"a": 1, "b": 2})
            except ToolError:
                await asyncio.sleep(0.05)


async def test_a_server_that_dies_is_started_again() -> None:
    async with connected(STDIO) as source:
        await ready(source)
        with pytest.raises(ToolError):
            await source.call("die", {})
        assert await sum_of(source) == "3"
        assert source.connections == 2


async def test_a_server_that_is_not_there_delays_nothing_and_offers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "START_PATIENCE", 1.0)
    noise = (sys.executable, SCRIPT, "stdio", "noise")
    for command in (("/does/not/exist",), (sys.executable, "-c", "pass"), noise, ("sleep", "60")):
        async with connected(McpServer(command=command, allow=("*",))) as source:
            assert source.tools == ()
            with pytest.raises(ToolError, match="not connected"):
                await source.call("add", {})
    async with connected(McpServer(url="http://127.0.0.1:9/mcp", allow=("*",))) as source:
        assert source.tools == ()


async def test_closing_ends_the_command() -> None:
    before = set(psutil.Process().children(recursive=True))
    async with connected(STDIO) as source:
        await ready(source)
        assert set(psutil.Process().children(recursive=True)) - before
    await eventually(lambda: not set(psutil.Process().children(recursive=True)) - before, "its processes have ended")


def test_a_secret_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "secret")
    assert module._expanded({"a": "$SHOP_TOKEN", "b": "plain", "c": "$MISSING_TOKEN"}) == {
        "a": "secret",
        "b": "plain",
        "c": "",
    }


def test_a_server_is_a_command_or_an_address() -> None:
    for wrong in ({}, {"command": ["x"], "url": "http://x"}, {"url": "ftp://x"}):
        with pytest.raises(ValueError, match=r"command|pattern"):
            McpServer.model_validate(wrong)


def test_the_relay_counts_lines_across_pieces() -> None:
    bounds = Bounds(10, 3)
    assert bounds.hold(b"12345", 0.0)
    assert bounds.hold(b"67890\n1", 0.1)
    assert not bounds.hold(b"2345678901", 0.2)
    bounds = Bounds(10, 3)
    assert bounds.hold(b"a\nb\nc\n", 0.0)
    assert not bounds.hold(b"d\n", 0.9)
    assert bounds.hold(b"e\n", 1.0)


def test_the_relay_ends_a_command_that_floods() -> None:
    command = [sys.executable, str(relay.__file__), "1000", "5"]
    assert subprocess.run([*command, "yes"], capture_output=True, timeout=PATIENCE).returncode == FLOODED
    said = subprocess.run([*command, "echo", "hello"], capture_output=True, timeout=PATIENCE)
    assert (said.returncode, said.stdout) == (0, b"hello\n")
