"""A Redis (or Valkey) server of one's own, with nothing in it."""

import secrets
import shutil
import signal
import socket
import subprocess
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from redis import Redis as Client
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from bench.faults.own import own

START_SECONDS = 30.0


def program() -> str | None:
    """Redis' server, or Valkey's."""
    return shutil.which("redis-server") or shutil.which("valkey-server")


class Redis:
    """A server on a free port of this machine. What it holds is gone when it ends, as that of a cache is."""

    def __init__(self, program: str, folder: Path) -> None:
        self._program = program
        self._folder = folder
        self.password = secrets.token_hex(8)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[Any] | None = None

    @property
    def url(self) -> str:
        """Its address, with the password."""
        return f"redis://:{self.password}@127.0.0.1:{self.port}/0"

    def start(self, *options: str) -> None:
        """Start it, and wait until it answers."""
        words = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self._folder), "--requirepass"]
        self._process = subprocess.Popen(
            [self._program, *words, self.password, "--save", "", "--appendonly", "no", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        until = time.monotonic() + START_SECONDS
        while not self.command("PING"):
            assert time.monotonic() < until, "Redis does not start"
            assert self._process.poll() is None, "Redis has ended"
            time.sleep(0.02)

    def stop(self, by: signal.Signals = signal.SIGKILL) -> None:
        """End it; by default as a machine that fails does."""
        if self._process is not None:
            self._process.send_signal(by)
            self._process.wait(timeout=START_SECONDS)
            self._process = None

    def hang(self) -> None:
        """Let it accept connections, and answer nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """End ``hang``."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> Any:
        """What it answers; None where it answers nothing."""
        try:
            with Client(port=self.port, password=self.password, socket_timeout=5, decode_responses=True) as client:
                return client.execute_command(*words)
        except (RedisConnectionError, RedisTimeoutError):
            return None

    def keys(self, pattern: str = "*") -> list[str]:
        """The names of its keys."""
        return sorted(self.command("KEYS", pattern) or ())


def redis() -> AbstractContextManager[Redis | None]:
    """A running server; None where neither Redis nor Valkey is installed."""
    return own(Redis, program(), "redis")
