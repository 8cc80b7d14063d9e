"""A server of this project in a process of its own, which may be killed and started again."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from bench.servers import CONFIG

READY_SECONDS = 300.0
STOP_SECONDS = 60.0
LOG = Path("bench/results/faults.log")


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


@dataclass
class Process:
    """``loquent serve`` with the shipped configuration, but for ``settings`` (``"history.store": "sqlite:///…"``)."""

    settings: Mapping[str, Any] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    log: Path = LOG
    log_level: str = "warning"
    environment: Mapping[str, str] = field(default_factory=dict)  # besides this process's
    within: Sequence[str] = ()  # the words before its command, which become its process
    more: Sequence[str] = ()  # further words of its command
    stop_seconds: float = STOP_SECONDS
    _process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def running(self) -> psutil.Process:
        """The process itself."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def start(self) -> None:
        """Start it; ``ready`` says when it answers."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("LOQUENT")}
        for key, value in self.settings.items():
            text = value if isinstance(value, str) else json.dumps(value)
            environment["LOQUENT__" + key.upper().replace(".", "__")] = text
        environment.update(self.environment)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        command = [*self.within, str(Path(sys.executable).parent / "loquent"), "serve", "--config", str(CONFIG)]
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                [*command, "--port", str(self.port), "--log-level", self.log_level, *self.more],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    async def ready(self) -> None:
        """Wait until it takes turns. Raises: TimeoutError, ChildProcessError."""
        assert self._process is not None
        async with asyncio.timeout(READY_SECONDS), aiohttp.ClientSession() as http:
            while True:
                if self._process.poll() is not None:
                    raise ChildProcessError(f"the server ended with {self._process.returncode}; see {self.log}")
                try:
                    async with http.get(f"{self.url}/readyz") as response:
                        if response.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.05)

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End it at once, as a machine that fails does."""
        self.end(signal.SIGKILL)

    def end(self, by: signal.Signals = signal.SIGTERM) -> int:
        """End it by a signal; returns its exit code."""
        assert self._process is not None
        self._process.send_signal(by)
        try:
            return self._process.wait(self.stop_seconds)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise


@asynccontextmanager
async def serving(**settings: Any) -> AsyncIterator[Process]:
    """A server that is ready; settings as ``history__store``."""
    process = Process({key.replace("__", ".", 1): value for key, value in settings.items()})
    process.start()
    try:
        await process.ready()
        yield process
    finally:
        if process.alive:
            process.end()
