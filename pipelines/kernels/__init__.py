"""The kernels of the CPU, compiled once on the machine that runs them.

Without a C++ compiler there are none: everything works, slower, on PyTorch's own operators.
"""

import hashlib
import logging
import os
import shutil
import subprocess
import threading
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock, Timeout
from torch import Tensor
from torch.utils.cpp_extension import include_paths

from pipelines.downloads.cache import cache_folder, writable

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernels.cpp")  # which includes the headers beside it
COMPILE_SECONDS = 300.0
FLAGS = ("-O3", "-march=native", "-ffast-math", "-fno-finite-math-only", "-std=c++20", "-shared", "-fPIC", "-fopenmp")

LIBRARY = torch.library.Library("loquent", "DEF")
LIBRARY.define("add(Tensor x, Tensor other) -> Tensor")
LIBRARY.define(
    "attention(Tensor q, Tensor k, Tensor v, Tensor keys, Tensor values, Tensor segments, "
    "float scale, int window, float cap) -> Tensor"
)
LIBRARY.define(
    "biased_attention(Tensor q, Tensor k, Tensor v, Tensor keys, Tensor values, Tensor segments, Tensor bias, "
    "float scale) -> Tensor"
)
LIBRARY.define(
    "cross_attention(Tensor q, Tensor keys, Tensor values, Tensor segments, Tensor lengths, float scale) -> Tensor"
)
LIBRARY.define("encoder_attention(Tensor q, Tensor k, Tensor v, Tensor segments, Tensor bias, float scale) -> Tensor")
LIBRARY.define("dense(Tensor x, Tensor weights) -> Tensor")
LIBRARY.define("embedding(Tensor tokens, Tensor weights, int form, int outputs, ScalarType dtype) -> Tensor")
LIBRARY.define("forms() -> int[]")
LIBRARY.define("use_threads(int threads) -> ()")
LIBRARY.define("linear(Tensor x, Tensor weights, int form, int outputs) -> Tensor")
LIBRARY.define("pack(Tensor(a!) packed, int first, Tensor quants, Tensor factors, int form) -> ()")
LIBRARY.define("rms_norm(Tensor x, Tensor weight, float eps, bool centred) -> Tensor")
LIBRARY.define("rotate(Tensor x, Tensor cos, Tensor sin) -> Tensor")
LIBRARY.define("gate(Tensor x) -> Tensor")
LIBRARY.define("heads(Tensor(a) x, int begin, int end, int size) -> Tensor(a)")
LIBRARY.define("argmax(Tensor x) -> Tensor")
LIBRARY.define("rule_out(Tensor(a!) logits, Tensor masks) -> ()")


class Form(IntEnum):
    """How packed weights are laid out: as ``linear`` in kernels.cpp reads them."""

    LANES = 1  # four inputs of each of 16 outputs after another, for AVX-512 VNNI
    TILES = 2  # a group of each output after another, for AMX


_loading = threading.Lock()
_loaded: bool | None = None


def load() -> bool:
    """Compile what is not compiled yet, and load it. Returns whether the kernels can be used."""
    global _loaded
    with _loading:
        if _loaded is None:
            _loaded = _load()
        return _loaded


def forms() -> list[Form]:
    """The forms of packed weights that this processor can multiply with, the fastest first."""
    return [Form(form) for form in torch.ops.loquent.forms()] if load() else []


def use_threads(count: int) -> None:
    """Compute with so many threads from now on, the calling one included."""
    if load():
        torch.ops.loquent.use_threads(count)


def argmax(logits: Tensor) -> list[int]:
    """The likeliest token of each row of ``logits`` (N, V)."""
    if logits.device.type == "cpu" and load() and logits.dtype in (torch.bfloat16, torch.float32):
        logits = torch.ops.loquent.argmax(logits)  # PyTorch's takes milliseconds for a batch in bfloat16
    else:
        logits = logits.argmax(dim=-1)
    places: list[int] = logits.tolist()
    return places


@torch.inference_mode()
def rule_out(logits: Tensor, masks: npt.NDArray[np.uint32]) -> None:
    """Set, in place, logits (N, V) of tokens whose bits are 0 in ``masks`` (N, at least V / 32) to minus infinity."""
    fast = logits.device.type == "cpu" and logits.is_contiguous() and logits.dtype in (torch.bfloat16, torch.float32)
    if fast and load():
        torch.ops.loquent.rule_out(logits, torch.from_numpy(masks.view(np.int32)))
        return
    size = logits.shape[-1]
    bits = np.unpackbits((~masks).view(np.uint8), axis=-1, count=size, bitorder="little")
    logits.masked_fill_(torch.from_numpy(bits.view(np.bool_)).to(logits.device), float("-inf"))


def _load() -> bool:
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if compiler is None:
        log.warning("there is no C++ compiler (g++): models run on PyTorch's own, slower operators")
        return False
    try:
        torch.ops.load_library(str(_compiled(compiler)))
    except (OSError, subprocess.SubprocessError, Timeout) as error:
        detail = error.stderr[-2000:] if isinstance(error, subprocess.CalledProcessError) else str(error)
        log.warning("the kernels could not be compiled, PyTorch's own, slower operators are used: %s", detail)
        return False
    return True


def source_code() -> str:
    """What the kernels are compiled of."""
    return "\0".join(path.read_text() for path in (SOURCE, *sorted(SOURCE.parent.glob("*.h"))))


def _compiled(compiler: str) -> Path:
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    capability = torch.backends.cpu.get_cpu_capability()
    facts = (source_code(), version, torch.__version__, capability, _processor(), *FLAGS)
    name = hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]
    made = cache_folder() / "kernels" / f"{name}.so"
    if made.exists():  # it is whole, and a cache that is only read has no lock to take
        return made
    folder = writable(made.parent)
    library = folder / made.name
    with FileLock(folder / f"{name}.lock", timeout=COMPILE_SECONDS):
        if not library.exists():
            log.info("compiling the kernels, once; this takes about a quarter of a minute")
            torch_folder = Path(torch.__file__).parent / "lib"
            vectors = capability if capability in ("AVX512", "AVX2") else "DEFAULT"
            unfinished = library.with_suffix(".part")
            subprocess.run(
                [
                    compiler,
                    *FLAGS,
                    "-DAT_PARALLEL_OPENMP=1",
                    f"-DCPU_CAPABILITY={vectors}",
                    f"-DCPU_CAPABILITY_{vectors}",
                    *(f"-I{path}" for path in include_paths()),
                    str(SOURCE),
                    "-o",
                    str(unfinished),
                    f"-L{torch_folder}",
                    "-ltorch",
                    "-ltorch_cpu",
                    "-lc10",
                    f"-Wl,-rpath,{torch_folder}",
                ],
                capture_output=True,
                text=True,
                check=True,
                timeout=COMPILE_SECONDS,
            )
            unfinished.replace(library)
    return library


def _processor() -> str:
    """What tells one processor's instructions from another's."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _fake_attention(q: Tensor, *_: Any) -> Tensor:
    return q.new_empty((1, q.shape[2], q.shape[1], q.shape[3]))


for _name in ("attention", "biased_attention", "cross_attention", "encoder_attention"):
    torch.library.register_fake(f"loquent::{_name}", _fake_attention, lib=LIBRARY)
