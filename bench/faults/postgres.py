"""A PostgreSQL server of one's own, with empty databases."""

import asyncio
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import asyncpg

from bench.faults.own import own

START_SECONDS = 60.0


def programs() -> Path | None:
    """The folder of PostgreSQL's programs."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


class Postgres:
    """A PostgreSQL server on a free port of this machine, with its files in a folder of its own."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._data = folder / "data"
        self._account = None if os.geteuid() else pwd.getpwnam("nobody")  # it refuses to run as root
        if self._account:
            os.chown(folder, self._account.pw_uid, self._account.pw_gid)
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[Any] | None = None
        self._run("initdb", "-D", self._data, "-U", "loquent", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")

    @property
    def url(self) -> str:
        """Of its first database."""
        return f"postgresql://loquent@127.0.0.1:{self.port}/postgres"

    def _options(self) -> dict[str, Any]:
        ids = {"user": self._account.pw_uid, "group": self._account.pw_gid} if self._account else {}
        return {**ids, "cwd": "/", "stdin": subprocess.DEVNULL, "env": {"LC_ALL": "C", "PATH": os.environ["PATH"]}}

    def _run(self, program: str, *words: str | Path) -> None:
        command = [str(self._programs / program), *map(str, words)]
        done = subprocess.run(command, capture_output=True, check=False, **self._options())
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        process = self.start_only()
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                self.execute("SELECT 1")
            except (OSError, asyncpg.PostgresError):
                assert time.monotonic() < until, "PostgreSQL does not start"
                assert process.poll() is None, "PostgreSQL has ended"
                time.sleep(0.05)
            else:
                return

    def start_only(self) -> "subprocess.Popen[Any]":
        """Start it; it answers a little later."""
        words = ["-D", str(self._data), "-h", "127.0.0.1", "-p", str(self.port), "-k", "", "-c", "shared_buffers=16MB"]
        self._process = process = subprocess.Popen(
            [str(self._programs / "postgres"), *words],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            **self._options(),
        )
        return process

    def stop(self, by: signal.Signals = signal.SIGINT) -> None:
        """End it: SIGINT cuts its connections, SIGQUIT makes it recover at the next start."""
        if self._process is not None:
            self._process.send_signal(by)
            self._process.wait(timeout=START_SECONDS)
            self._process = None

    def execute(self, sql: str) -> None:
        """Run a statement in its first database."""

        async def run() -> None:
            connection = await asyncpg.connect(self.url, timeout=5)
            try:
                await connection.execute(sql)
            finally:
                await connection.close()

        with ThreadPoolExecutor(1) as thread:  # an event loop of its own, also where the caller has one
            thread.submit(lambda: asyncio.run(run())).result()

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"test_{os.urandom(6).hex()}"
        self.execute(f"CREATE DATABASE {name}")
        return f"postgresql://loquent@127.0.0.1:{self.port}/{name}"


def postgres() -> AbstractContextManager[Postgres | None]:
    """A running server; None where PostgreSQL is not installed."""
    return own(Postgres, programs(), "postgres")
