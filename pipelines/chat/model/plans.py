"""Traced steps on disk: made when a model is first met, read back by every later start."""

import hashlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from pipelines import kernels
from pipelines.chat.model import fusion, graph, program
from pipelines.chat.model.gguf import GgufError
from pipelines.chat.model.gguf_weights import GgufWeights
from pipelines.chat.model.graph import Modules, Plan, Step
from pipelines.downloads.cache import cache_folder, new_folder
from pipelines.kernels import quantise

log = logging.getLogger(__name__)

KEPT = 8  # traced models in the cache folder

PLAN, WEIGHTS = "plan.json", "packed.safetensors"
DAMAGED = (OSError, ValueError, TypeError, LookupError, RuntimeError, SafetensorError)  # or not there


def step(model: PreTrainedModel, files: Path | None, *, packed: bool, modules: nn.Module | None = None) -> Step | None:
    """The fused step of a model in memory, traced now or read back; None where there is none.

    ``packed``: with packed weights, which stay on disk and are known by the model's ``files``. ``modules`` compute the
    step of a model that is no causal one; the model is their ``model``.
    """
    modules = modules or Modules(model)
    packed = packed and bool(kernels.forms())
    kind = f"{type(modules).__name__} {'packed' if packed else 'exact'}"
    kept = _kept(model, kind, files if packed else None)
    try:
        plan = Plan.from_json((kept / PLAN).read_text())
        bound = plan.bind(model, load_file(kept / WEIGHTS) if packed else None)
    except DAMAGED:
        try:
            log.info("tracing the model, once")
            traced, weights = graph.trace(modules), None
            plan = graph.plan(traced, packed=False)
            _check(plan.bind(model, None), model, modules)
            if packed:
                plan = graph.plan(traced, packed=True)
                weights = plan.pack(model)
            bound = plan.bind(model, weights)
        except Exception as error:  # tracing meets code of every kind
            log.warning("the model runs through its modules, slower, because it can't be traced: %.500s", error)
            return None
        _keep(kept, plan, weights)
    plan.free(model)
    return bound


def step_of_gguf(
    model: PreTrainedModel, weights: GgufWeights, attempt: Callable[[], None], threads: int
) -> Step | None:
    """The fused step of a model whose parameters are empty, with weights packed from its file; None if there is none.

    ``threads`` pack. ``attempt`` tries the model's code on something small, and raises when it can't be traced well.

    Raises: GgufError for numbers that are not finite.
    """
    kept = _kept(model, f"gguf {weights.kinds}", None)
    try:
        plan = Plan.from_json((kept / PLAN).read_text())
        return plan.bind(model, weights.packed(model, plan, threads))
    except GgufError:  # another trace would not mend the file
        raise
    except DAMAGED:
        try:
            log.info("tracing the model, once")
            attempt()
            plan = graph.plan(graph.trace(Modules(model)), packed=True, kinds=weights.kinds)
        except Exception as error:  # tracing meets code of every kind
            log.warning("the model's weights are not packed, because it can't be traced: %.500s", error)
            return None
        _keep(kept, plan, None)
    return plan.bind(model, weights.packed(model, plan, threads))


def try_out(model: PreTrainedModel) -> None:
    """Raises: ValueError, and others, unless the model's traced step gives what its modules give."""
    modules = Modules(model)
    _check(graph.plan(graph.trace(modules), packed=False).bind(model, None), model, modules)


def _keep(folder: Path, plan: Plan, weights: dict[str, Tensor] | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if folder.parent.is_dir():  # what other versions and models left
        for old in sorted(folder.parent.iterdir(), key=lambda path: path.stat().st_mtime)[: -KEPT + 1]:
            shutil.rmtree(old, ignore_errors=True)
    try:
        with new_folder(folder) as making:
            (making / PLAN).write_text(plan.to_json())
            if weights is not None:
                save_file(weights, making / WEIGHTS)
    except OSError as error:  # a full disk, or another server that was faster
        log.warning("the traced model could not be kept: %s", error)


def _kept(model: PreTrainedModel, kind: str, files: Path | None) -> Path:
    """The folder of the traced step: its name tells all that the step and its weights depend on."""
    modules = (__file__, graph.__file__, fusion.__file__, quantise.__file__, program.__file__)
    code = [Path(path).read_text() for path in modules]
    facts = [model.config.to_json_string(), model.dtype, kind, torch.__version__, transformers.__version__, files]
    if files is not None:
        facts += [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in sorted(files.iterdir())]
    text = "\0".join(map(str, (*facts, kernels.load(), kernels.forms(), *code, kernels.source_code())))
    return cache_folder() / "plans" / hashlib.sha256(text.encode()).hexdigest()[:24]


@torch.inference_mode()
def _check(bound: Step, model: PreTrainedModel, modules: nn.Module) -> None:
    """Raises: ValueError unless the step gives what the modules give, for other numbers of tokens than traced."""
    vocabulary, chance = model.config.get_text_config().vocab_size, torch.Generator().manual_seed(0)
    for count in (1, 3, 21):
        tokens = torch.randint(vocabulary, (1, count), generator=chance)
        positions, wanted = torch.arange(count).unsqueeze(0), torch.arange(count)
        table = next(buffer for name, buffer in model.named_buffers() if name.endswith("loquent_segments"))
        table[:2] = torch.tensor([[1, 0, 0, 0], [0, count, 0, 0]])
        own = modules(tokens, positions, wanted).float()
        error = float((bound(tokens, positions, wanted).float() - own).norm() / own.norm())
        if not error < (1e-3 if model.dtype is torch.float32 else 0.1):  # relative
            raise ValueError(f"the traced model differs from its modules by {error:.1%}")
