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
from collections.abc import Callable, Iterator, Sequence
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

from pipelines.chat.model import kernels, quantise
from pipelines.downloads.cache import cache_folder, new_folder

log = logging.getLogger(__name__)

ATEN = torch.ops.aten
OURS = torch.ops.loquent
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
    code = [path.read_bytes() for path in (Path(__file__), Path(quantise.__file__), kernels.SOURCE)]
    files = [f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}" for path in sorted(folder.iterdir())]
    facts = [model.config.to_json_string(), model.dtype, packed, torch.__version__, transformers.__version__, folder]
    text = "\0".join(map(str, (*facts, *files, kernels.load(), kernels.forms())))
    return hashlib.sha256(b"\0".join([text.encode(), *code])).hexdigest()[:24]


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
    _tidy(traced.graph)
    if kernels.load():
        _fuse(traced.graph)
    traced.graph.set_codegen(fx.graph.CodeGen())  # plain arguments and a plain result, where export has trees
    result = traced.graph.output_node()
    if isinstance(result.args[0], list | tuple):
        result.args = (result.args[0][0],)
    return traced.graph


def _tidy(graph: fx.Graph) -> None:
    for node in list(graph.nodes):
        guard = node.op == "call_module" and node.target == "_guards_fn"
        if guard or _calls(node, ATEN._assert_tensor_metadata.default):
            graph.erase_node(node)
        elif _calls(node, ATEN.to.dtype) and _type(node) == _type(node.args[0]):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    graph.eliminate_dead_code()


def _calls(node: Any, target: Any) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target is target


def _type(node: Any) -> torch.dtype | None:
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value.dtype if isinstance(value, Tensor) else None


# Chains of operations, as patterns: a string takes whatever stands there, and the same each time it occurs.


@dataclass(frozen=True)
class Call:
    """A call of ``target`` with arguments that match; ``either`` order of two is tried where it makes no difference."""

    target: Any
    arguments: tuple[Any, ...]
    either: bool = False


def _add(a: Any, b: Any) -> Call:
    return Call(ATEN.add.Tensor, (a, b), either=True)


def _mul(a: Any, b: Any) -> Call:
    return Call(ATEN.mul.Tensor, (a, b), either=True)


def _to(a: Any, dtype: Any) -> Call:
    return Call(ATEN.to.dtype, (a, dtype))


def _match(pattern: Any, value: Any, found: dict[str, Any]) -> dict[str, Any] | None:
    """What the pattern's names stand for if ``value`` matches, else None."""
    if isinstance(pattern, str):
        if pattern in found:
            return found if found[pattern] is value or found[pattern] == value else None
        return {**found, pattern: value}
    if isinstance(pattern, list):
        if not isinstance(value, Sequence) or len(pattern) != len(value):
            return None
        return _match_all(pattern, value, found)
    if not isinstance(pattern, Call):
        return found if pattern == value else None
    if not _calls(value, pattern.target) or len(value.args) != len(pattern.arguments) or value.kwargs:
        return None
    matched = _match_all(pattern.arguments, value.args, found)
    if matched is None and pattern.either:
        matched = _match_all(pattern.arguments, tuple(reversed(value.args)), found)
    return matched


def _match_all(patterns: Sequence[Any], values: Sequence[Any], found: dict[str, Any]) -> dict[str, Any] | None:
    matched: dict[str, Any] | None = found
    for pattern, value in zip(patterns, values, strict=True):
        if matched is None:
            return None
        matched = _match(pattern, value, matched)
    return matched


def _root_mean_square(wide: Any) -> Call:
    return _mul(
        wide,
        Call(
            ATEN.rsqrt.default,
            (_add(Call(ATEN.mean.dim, (Call(ATEN.pow.Tensor_Scalar, (wide, 2)), [-1], True)), "eps"),),
        ),
    )


_HALF_LOW = Call(ATEN.slice.Tensor, ("x", 3, 0, "half"))
_HALF_HIGH = Call(ATEN.slice.Tensor, ("x", 3, "half", "end"))
ROTATE = _add(
    _mul("x", Call(ATEN.unsqueeze.default, ("cos", 1))),
    _mul(
        Call(ATEN.cat.default, ([Call(ATEN.neg.default, (_HALF_HIGH,)), _HALF_LOW], -1)),
        Call(ATEN.unsqueeze.default, ("sin", 1)),
    ),
)
GATE = _mul(Call(ATEN.silu.default, ("gate",)), "up")


def _fuse(graph: fx.Graph) -> None:
    for node in list(graph.nodes):
        for pattern, build in _chains():
            found = _match(pattern, node, {})
            made = build(graph, node, found) if found is not None else None
            if made is not None:
                made.meta["val"] = node.meta.get("val")
                node.replace_all_uses_with(made)
                break
    graph.eliminate_dead_code()


Builder = Callable[[fx.Graph, fx.Node, dict[str, Any]], fx.Node | None]


def _chains() -> Iterator[tuple[Call, Builder]]:
    narrow, wide = "x", _to("x", torch.float32)
    # In float32 the conversions are not there (see _tidy).
    yield _mul("weight", _to(_root_mean_square(wide), "dtype")), _norm(centred=False)
    yield _mul("weight", _root_mean_square(narrow)), _norm(centred=False)
    yield _to(_mul(_root_mean_square(wide), _add(_to("weight", torch.float32), 1.0)), "dtype"), _norm(centred=True)
    yield _mul(_root_mean_square(narrow), _add("weight", 1.0)), _norm(centred=True)
    yield ROTATE, _rotate
    yield GATE, _gate


def _norm(*, centred: bool) -> Builder:
    def build(graph: fx.Graph, node: fx.Node, found: dict[str, Any]) -> fx.Node | None:
        weight = found["weight"]
        if not isinstance(weight, fx.Node) or weight.op != "get_attr" or _type(weight) is not _type(found["x"]):
            return None
        with graph.inserting_before(node):
            return graph.call_function(OURS.rms_norm.default, (found["x"], weight, found["eps"], centred))

    return build


def _rotate(graph: fx.Graph, node: fx.Node, found: dict[str, Any]) -> fx.Node | None:
    shape = found["x"].meta["val"].shape
    if shape[0] != 1 or found["half"] * 2 != shape[3] or found["end"] < shape[3]:
        return None
    with graph.inserting_before(node):
        return graph.call_function(OURS.rotate.default, (found["x"], found["cos"], found["sin"]))


def _gate(graph: fx.Graph, node: fx.Node, found: dict[str, Any]) -> fx.Node | None:
    """Only where gate and up are two products of the same input, which then become one."""
    gate, up = found["gate"], found["up"]
    if not (_calls(gate, ATEN.linear.default) and _calls(up, ATEN.linear.default)):
        return None
    if gate.args[0] is not up.args[0] or len(gate.args) != 2 or len(up.args) != 2:
        return None
    width = gate.meta["val"].shape[-1]
    if up.meta["val"].shape[-1] != width or len(gate.users) != 1 or len(up.users) != 1:
        return None
    with graph.inserting_before(node):
        both = graph.call_function(ATEN.cat.default, ([gate, up], -1))
        return graph.call_function(OURS.gate.default, (both,))


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
                    part.meta["val"] = node.meta["val"]
                    begin += width
                node.replace_all_uses_with(part)
        _whole(made)
    graph.eliminate_dead_code()
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
        if not _calls(node, ATEN.linear.default) or len(node.args) != 2:
            continue
        x, weight = node.args
        if weight.op == "get_attr" and (not packed or quantise.fits(weight.meta["val"])):
            by_input.setdefault(x, []).append(node)
    yield from by_input.items()


def _whole(made: Any) -> None:
    """Where all parts of a product are only stacked again, as for a gate, take the product itself."""
    parts = sorted((user for user in made.users if _calls(user, ATEN.slice.Tensor)), key=lambda part: int(part.args[2]))
    for joined in [user for part in parts[:1] for user in part.users]:
        if _calls(joined, ATEN.cat.default) and list(joined.args[0]) == parts:
            joined.replace_all_uses_with(made)
