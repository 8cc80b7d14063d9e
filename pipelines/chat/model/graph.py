"""One step of a model as a flat list of operations, traced from the model's own modelling code.

Module calls cost more than the small operations of a decode step. So the code is traced once with ``torch.export``
for any number of tokens, known chains of operations are replaced by kernels that compute the same, and the list is
kept on disk as Python source: tracing takes seconds, reading it back milliseconds. A chain is replaced only where it
is found operation for operation; what is not known stays as it was.
"""

import copy
import functools
import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, fx, nn
from torch.export import Dim, export
from transformers import PreTrainedModel

from pipelines.chat.model import fusion, kernels, quantise
from pipelines.chat.model.fusion import ATEN, OURS, calls, fuse, shorten, tidy, whole
from pipelines.downloads.cache import cache_folder, new_folder

log = logging.getLogger(__name__)

MOST = 1 << 20  # tokens of a step, for the tracer

KEPT = 8  # traced models in the cache folder

PLAN, WEIGHTS = "plan.json", "packed.safetensors"

Step = Callable[[Tensor, Tensor, Tensor], Tensor]


class Modules(nn.Module):
    """The step as the model's own modules compute it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, positions: Tensor, wanted: Tensor) -> Tensor:
        """The logits of the wanted rows, (1, wanted, V)."""
        output = self.model(input_ids=tokens, position_ids=positions, use_cache=False, logits_to_keep=wanted)
        logits: Tensor = output.logits
        return logits


@dataclass(frozen=True)
class Plan:
    """A traced step: Python source of ``forward(self, tokens, positions, wanted)``, and what stands on ``self``."""

    source: str
    tensors: dict[str, str]  # name on ``self``: the model's parameter or buffer
    products: dict[str, list[str]]  # name on ``self``: the weights, stacked, of one product
    bits: dict[str, int] | None = None  # of each product's weights where they are packed

    def to_json(self) -> str:
        """For keeping it on disk."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """What ``to_json`` gave. Raises: ValueError, TypeError for anything else."""
        return cls(**json.loads(text))

    def pack(self, model: nn.Module) -> tuple["Plan", dict[str, Tensor]]:
        """The plan with its products' weights packed, and those."""
        known = _tensors(model)
        packed = {
            name: quantise.pack(torch.cat([known[path].detach() for path in paths]), kernels.forms()[0])
            for name, paths in self.products.items()
        }
        bits = {name: width for name, (_, width) in packed.items()}
        return replace(self, bits=bits), {name: weight for name, (weight, _) in packed.items()}

    def bind(self, model: nn.Module, weights: dict[str, Tensor] | None) -> Step:
        """The step with this model's weights, or for products with the packed ``weights``."""
        known = _tensors(model)
        here: dict[str, Any] = {name: known[path].detach() for name, path in self.tensors.items()}
        for name, paths in self.products.items():
            if weights is not None and self.bits is not None:
                here[name], here[f"{name}_bits"] = weights[name], self.bits[name]
            else:
                here[name] = (
                    torch.cat([known[path].detach() for path in paths]) if paths[1:] else known[paths[0]].detach()
                )
        scope = {"torch": torch, "device": torch.device, "inf": math.inf, "nan": math.nan}
        exec(compile(self.source, "<traced model>", "exec"), scope)  # noqa: S102 - written by this module
        return functools.partial(cast(Callable[..., Tensor], scope["forward"]), SimpleNamespace(**here))

    def free(self, model: nn.Module) -> None:
        """Let go of the model's weights that the step has in a form of its own. Its modules can't run any more."""
        known = _tensors(model)
        kept = {id(known[path]) for path in self.tensors.values()}
        for paths in self.products.values():
            for path in paths:
                if id(known[path]) not in kept and (self.bits is not None or paths[1:]):
                    known[path].data = known[path].data.new_empty(0)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


def step(model: PreTrainedModel, folder: Path, *, packed: bool) -> Step | None:
    """The fused step of the model whose files are in ``folder``, traced now or read back; None where there is none."""
    packed = packed and bool(kernels.forms())
    kept = cache_folder() / "plans" / _key(model, folder, packed=packed)
    try:
        plan = Plan.from_json((kept / PLAN).read_text())
        weights = load_file(kept / WEIGHTS) if packed else None
        bound = plan.bind(model, weights)
    except (OSError, ValueError, TypeError, KeyError, SafetensorError):  # not there, or damaged
        try:
            log.info("tracing the model, once")
            graph, weights = trace(model), None
            plan = _plan(graph, packed=False)
            _check(plan.bind(model, None), model)
            if packed:
                plan, weights = _plan(graph, packed=True).pack(model)
            bound = plan.bind(model, weights)
        except Exception as error:  # tracing meets code of every kind
            log.warning("the model runs through its modules, slower, because it can't be traced: %.500s", error)
            return None
        _keep(kept, plan, weights)
    plan.free(model)
    return bound


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


def _key(model: PreTrainedModel, folder: Path, *, packed: bool) -> str:
    """What the traced step and its weights depend on."""
    code = [path.read_text() for path in (Path(__file__), Path(fusion.__file__), Path(quantise.__file__))]
    files = [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in sorted(folder.iterdir())]
    facts = [model.config.to_json_string(), model.dtype, packed, torch.__version__, transformers.__version__, folder]
    text = "\0".join(map(str, (*facts, *files, kernels.load(), kernels.forms(), *code, kernels.source_code())))
    return hashlib.sha256(text.encode()).hexdigest()[:24]


@torch.inference_mode()
def _check(bound: Step, model: PreTrainedModel) -> None:
    """Raises: ValueError unless the step gives what the modules give, for other numbers of tokens than traced."""
    vocabulary, chance = model.config.get_text_config().vocab_size, torch.Generator().manual_seed(0)
    for count in (1, 3, 21):
        tokens = torch.randint(vocabulary, (1, count), generator=chance)
        positions, wanted = torch.arange(count).unsqueeze(0), torch.arange(count)
        table = next(buffer for name, buffer in model.named_buffers() if name.endswith("loquent_segments"))
        table[:2] = torch.tensor([[1, 0, 0, 0], [0, count, 0, 0]])
        own = Modules(model)(tokens, positions, wanted).float()
        error = float((bound(tokens, positions, wanted).float() - own).norm() / own.norm())
        if not error < (1e-3 if model.dtype is torch.float32 else 0.1):  # relative
            raise ValueError(f"the traced model differs from its modules by {error:.1%}")


def trace(model: nn.Module) -> fx.Graph:
    """The step of ``model``: (1, N) tokens and positions and (R) wanted places to (1, R, V) logits.

    Known chains of operations are fused where the kernels are there.

    Raises: Exception, of many kinds, for code that can't be traced for every N.
    """
    tokens = torch.zeros(1, 8, dtype=torch.long)
    example = (tokens, torch.arange(8).unsqueeze(0), torch.arange(5))
    n, r = Dim("N", min=2, max=MOST), Dim("R", min=2, max=MOST)
    with torch.no_grad():
        program = export(Modules(model), example, dynamic_shapes=({1: n}, {1: n}, {0: r}), strict=False)
    traced = program.module(check_guards=False)
    tidy(traced.graph)
    if kernels.load():
        fuse(traced.graph)
    traced.graph.set_codegen(fx.graph.CodeGen())  # plain arguments and a plain result, where export has trees
    result = traced.graph.output_node()
    if isinstance(result.args[0], list | tuple):
        result.args = (result.args[0][0],)
    return traced.graph


def _plan(traced: fx.Graph, *, packed: bool) -> Plan:
    """The list as source, with the products of one input made one; ``packed``: with weights in 4 or 8 bits."""
    graph = copy.deepcopy(traced)
    tensors: dict[str, str] = {}
    products: dict[str, list[str]] = {}
    attributes: dict[str, fx.Node] = {}
    graph.owning_module = None  # names are given here, and looked up in ``bind``
    inputs = [node for node in graph.nodes if node.op == "placeholder"]

    def attribute(name: str) -> fx.Node:
        if name not in attributes:
            with graph.inserting_after(inputs[-1]):
                attributes[name] = graph.get_attr(name)
        return attributes[name]

    for x, together in _same_input(graph, packed=packed):
        name = f"w{len(products)}"
        products[name] = [str(node.args[1].target) for node in together]
        widths = [node.meta["val"].shape[-1] for node in together]
        with graph.inserting_before(min(together)):
            if packed:
                bits = attribute(f"{name}_bits")
                form = int(kernels.forms()[0])
                made = graph.call_function(OURS.linear.default, (x, attribute(name), form, bits, sum(widths)))
            else:
                made = graph.call_function(ATEN.linear.default, (x, attribute(name)))
            begin = 0
            for node, width in zip(together, widths, strict=True):
                part = made
                if len(together) > 1:
                    part = graph.call_function(ATEN.slice.Tensor, (made, -1, begin, begin + width))
                    begin += width
                part.meta["val"] = node.meta["val"]
                node.replace_all_uses_with(part)
        whole(made)
    graph.eliminate_dead_code()
    if kernels.load():
        shorten(graph)
    for node in list(graph.nodes):
        if node.op == "get_attr" and node not in attributes.values():
            name = f"t{len(tensors)}"
            tensors[name] = _path(str(node.target))
            node.replace_all_uses_with(attribute(name))
    graph.eliminate_dead_code()
    source = graph.python_code("self").src
    paths = {name: [_path(path) for path in targets] for name, targets in products.items()}
    return Plan(source, tensors, paths)


def _path(target: str) -> str:
    return target.removeprefix("model.")


def _same_input(graph: fx.Graph, *, packed: bool) -> Iterator[tuple[fx.Node, list[Any]]]:
    """Products without bias that have their input in common."""
    by_input: dict[fx.Node, list[Any]] = {}
    for node in graph.nodes:
        if not calls(node, ATEN.linear.default) or len(node.args) != 2:
            continue
        x, weight = node.args
        if weight.op == "get_attr" and (not packed or quantise.fits(weight.meta["val"])):
            by_input.setdefault(x, []).append(node)
    yield from by_input.items()
