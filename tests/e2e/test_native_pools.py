"""The native thread pools of a running server with the shipped defaults: who computes with how many threads."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.cores import cores
from tests.e2e.test_configurations import ask, post
from tests.support import PATIENCE, started

# The server as the command starts it, in whose process a signal writes down what is loaded.
SERVER = """
import gc, json, os, signal, sys, threading
from pathlib import Path
from server.commands.main import main

folder = Path(os.environ["POOLS"])

def report(*_):
    from onnxruntime import InferenceSession
    from threadpoolctl import threadpool_info
    gc.unfreeze()  # what the server took out of collections is seen too
    sessions = [each for each in gc.get_objects() if isinstance(each, InferenceSession)]
    found = {
        "pools": threadpool_info(),
        "voice": [each.get_session_options().intra_op_num_threads for each in sessions],
        "tokenizers": os.environ.get("TOKENIZERS_PARALLELISM"),
        "python": [thread.native_id for thread in threading.enumerate()],
    }
    (folder / "new").write_text(json.dumps(found))
    (folder / "new").rename(folder / "report")

signal.signal(signal.SIGUSR1, report)
(folder / "pid").write_text(str(os.getpid()))
sys.exit(main(sys.argv[1:]))
"""
CALM = "Where is my parcel? I ordered it two weeks ago, and nobody tells me. "
TICK = 1 / os.sysconf("SC_CLK_TCK")  # seconds, in which the kernel counts
LOADS: dict[str, Callable[[str], object]] = {
    "chat": lambda address: [ask(address, f"{number}: tell a story.") for number in range(4)],
    "screen": lambda address: post(address, "/v1/moderations", input=[CALM, CALM * 60, CALM * 100]),
    "embed": lambda address: post(address, "/v1/embeddings", input=[CALM * (n % 9 + 1) for n in range(100)]),
    "draw": lambda address: [post(address, "/v1/images/generations", prompt="happy cat") for _ in range(8)],
    "speak": lambda address: post(address, "/v1/audio/speech", input=CALM * 4),
}
VOICE = min(2, cores())  # threads of a sentence
SHARES = {
    "chat": cores() - 1,
    "screen": 0,
    "embed": 0,
    "draw": 0,
    "speak": 3 * (VOICE - 1),
}  # helpers; a voice has 3 parts


class Process:
    """A server's process, from within and from outside."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.pid = int((folder / "pid").read_text())

    def report(self) -> dict[str, Any]:
        """What is loaded in it now."""
        file = self._folder / "report"
        file.unlink(missing_ok=True)
        os.kill(self.pid, signal.SIGUSR1)
        until = time.monotonic() + PATIENCE
        while not file.exists() and time.monotonic() < until:
            time.sleep(0.01)
        found: dict[str, Any] = json.loads(file.read_text())
        return found

    def native_seconds(self) -> dict[int, float]:
        """Processor time of each thread that isn't Python's, so that a library started it."""
        python = set(self.report()["python"])
        found = {}
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            if int(task.name) not in python:
                fields = (task / "stat").read_text().rpartition(")")[2].split()
                found[int(task.name)] = (int(fields[11]) + int(fields[12])) * TICK
        return found


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Process]]:
    """A server that has answered, screened, drawn and spoken, so that whatever loads late is loaded."""
    folder = tmp_path_factory.mktemp("pools")
    with started([sys.executable, "-c", SERVER], {"POOLS": str(folder)}) as address:
        for load in LOADS.values():
            load(address)
        yield address, Process(folder)


pytestmark = [pytest.mark.e2e, pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux tells threads")]


def test_no_library_s_pool_may_use_more_than_its_share(server: tuple[str, Process]) -> None:
    _, process = server
    found = process.report()
    pools = {pool["filepath"]: (pool["user_api"], pool["num_threads"]) for pool in found["pools"]}
    assert {"blas", "openmp"} <= {api for api, _ in pools.values()}, "NumPy's and PyTorch's are seen"
    assert all(threads <= (1 if api == "blas" else cores()) for api, threads in pools.values()), pools
    assert found["voice"], "the voice's sessions are seen"
    assert all(1 <= threads <= VOICE for threads in found["voice"]), "0 would be as many as ONNX Runtime likes"
    assert found["tokenizers"] == "false"


@pytest.mark.parametrize("load", LOADS)
def test_no_more_threads_help_than_what_computes_may_use(server: tuple[str, Process], load: str) -> None:
    address, process = server
    before = process.native_seconds()
    LOADS[load](address)
    after = process.native_seconds()
    used = {thread: seconds - before.get(thread, 0.0) for thread, seconds in after.items()}
    busy = {thread: seconds for thread, seconds in used.items() if seconds > 2 * TICK}
    assert len(busy) <= SHARES[load], busy
