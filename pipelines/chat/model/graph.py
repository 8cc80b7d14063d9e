"""One step of a model as a flat list of operations, traced from the model's own modelling code.

Module calls cost more than the small operations of a decode step. So the code is traced once with ``torch.export``
for any number of tokens, known chains of operations are replaced by kernels that compute the same, and the list is
kept on disk, as instructions and as Python source: tracing takes seconds, reading it back milliseconds. A chain is
replaced only where it is found operation for operation; what is not known stays as it was.
"""

import copy
import functools
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, export

from pipelines import kernels
from pipelines.chat.model.fusion import ATEN, OURS, calls, fuse, shorten, tidy, whole
from pipelines.chat.model.program import Instruction, Unknown, assembled, instructions, result
from pipelines.kernels import quantise

log = logging.getLogger(__name__)

INPUTS = ("tokens", "positions", "wanted")

MOST = 1 << 20  # tokens of a step, for the tracer

Step = Callable[[Tensor, Tensor, Tensor], Tensor]
PackedWeights = Mapping[str, Tensor]  # of each product


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
    biases: dict[str, list[str]]  # name on ``self``: the biases, stacked, of one product
    products: dict[str, list[str]]  # name on ``self``: the weights, stacked, of one product (or one embedding)
    packed: bool  # whether the products are of packed weights
    listing: list[Instruction] | None = None  # the source as instructions, where it is made of operators alone
    result: str = ""  # of the listing

    def to_json(self) -> str:
        """For keeping it on disk."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """What ``to_json`` gave. Raises: ValueError, TypeError for anything else."""
        return cls(**json.loads(text))

    def pack(self, model: nn.Module) -> dict[str, Tensor]:
        """The products' weights, packed."""
        known, form = tensors_of(model), kernels.forms()[0]
        return {
            name: quantise.pack(torch.cat([known[path].detach() for path in paths]), form)
            for name, paths in self.products.items()
        }

    def bind(self, model: nn.Module, weights: PackedWeights | None) -> Step:
        """The step with this model's weights, or for products with the packed ``weights``."""
        known = tensors_of(model)
        here: dict[str, Any] = {name: known[path].detach() for name, path in self.tensors.items()}
        here |= {name: torch.cat([known[path].detach() for path in paths]) for name, paths in self.biases.items()}
        for name, paths in self.products.items():
            if weights is not None:
                here[name] = weights[name]
            else:
                here[name] = (
                    torch.cat([known[path].detach() for path in paths]) if paths[1:] else known[paths[0]].detach()
                )
        if self.listing is not None and kernels.load():
            run: Step = assembled(self.listing, INPUTS, self.result, here).run
            return run
        scope = {"torch": torch, "device": torch.device, "inf": math.inf, "nan": math.nan}
        exec(compile(self.source, "<traced model>", "exec"), scope)  # noqa: S102 - written by this module
        return functools.partial(cast(Callable[..., Tensor], scope["forward"]), SimpleNamespace(**here))

    def free(self, model: nn.Module) -> None:
        """Let go of the model's weights that the step has in a form of its own. Its modules can't run any more."""
        known = tensors_of(model)
        kept = {id(known[path]) for path in self.tensors.values()}
        for paths in self.products.values():
            for path in paths:
                if id(known[path]) not in kept and (self.packed or paths[1:]):
                    known[path].data = known[path].data.new_empty(0)


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Its parameters and buffers by name, tied ones by each of their names."""
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


def trace(step: nn.Module) -> fx.Graph:
    """The step as modules compute it: (1, N) tokens and positions and (R) wanted places to (1, R, V) logits.

    Known chains of operations are fused where the kernels are there.

    Raises: Exception, of many kinds, for code that can't be traced for every N.
    """
    tokens = torch.zeros(1, 8, dtype=torch.long)
    example = (tokens, torch.arange(8).unsqueeze(0), torch.arange(5))
    n, r = Dim("N", min=2, max=MOST), Dim("R", min=2, max=MOST)
    with torch.no_grad():
        program = export(step, example, dynamic_shapes=({1: n}, {1: n}, {0: r}), strict=False)
    traced = program.module(check_guards=False)
    tidy(traced.graph)
    if kernels.load():
        fuse(traced.graph)
    traced.graph.set_codegen(fx.graph.CodeGen())  # plain arguments and a plain result, where export has trees
    output = traced.graph.output_node()
    if isinstance(output.args[0], list | tuple):
        output.args = (output.args[0][0],)
    return traced.graph


def plan(traced: fx.Graph, *, packed: bool, kinds: Mapping[str, str] | None = None) -> Plan:
    """The list as source, with the products of one input made one; ``packed``: with packed weights.

    ``kinds`` says how each weight is coded: then embeddings are packed too, and only what is coded alike is stacked.
    """
    graph = copy.deepcopy(traced)
    graph.owning_module = None  # names are given here, and looked up in ``bind``
    writer = _Writer(graph)
    if kinds is not None:
        for node in list(graph.nodes):
            if calls(node, ATEN.embedding.default) and quantise.fits(node.args[0].meta["val"]):
                writer.embed(node)
    for x, together in _same_input(graph, kinds or {}, packed=packed):
        writer.multiply(x, together, packed=packed)
    graph.eliminate_dead_code()
    if kernels.load():
        shorten(graph)
    tensors = writer.name_tensors()
    graph.eliminate_dead_code()
    try:
        listing, returned = instructions(graph), result(graph)
    except Unknown as error:
        log.info("the step runs as Python, because of %s", error)
        listing, returned = None, ""
    source = graph.python_code("self").src
    return Plan(source, tensors, writer.biases, writer.products, packed, listing, returned)


class _Writer:
    """Makes a traced graph the source of a plan, where weights have names of their own."""

    def __init__(self, graph: fx.Graph) -> None:
        self.biases: dict[str, list[str]] = {}
        self.products: dict[str, list[str]] = {}
        self._graph = graph
        self._attributes: dict[str, fx.Node] = {}
        self._inputs = [node for node in graph.nodes if node.op == "placeholder"]

    def embed(self, node: fx.Node) -> None:
        """Read the rows of an embedding from packed weights."""
        weight: Any = node.args[0]
        facts = (weight.meta["val"].shape[0], node.meta["val"].dtype)
        with self._graph.inserting_before(node):
            made = self._graph.call_function(OURS.embedding.default, (node.args[1], *self._packed([weight]), *facts))
        made.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(made)

    def multiply(self, x: fx.Node, together: list[Any], *, packed: bool) -> None:
        """Make the products of ``x`` one, and their biases one sum if all of them have a bias."""
        graph, weights = self._graph, [node.args[1] for node in together]
        sums = [_only_sum(node) for node in together]
        widths = [node.meta["val"].shape[-1] for node in together]
        with graph.inserting_before(min(together)):
            if packed:
                made = graph.call_function(OURS.linear.default, (x, *self._packed(weights), sum(widths)))
            else:
                made = graph.call_function(ATEN.linear.default, (x, self._stacked(self.products, "w", weights)))
            if all(sums) and kernels.load():
                bias = self._stacked(self.biases, "b", [each.args[1] for each in sums])
                made, together = graph.call_function(OURS.add.default, (made, bias)), sums
            begin = 0
            for node, width in zip(together, widths, strict=True):
                part = made
                if len(together) > 1:
                    part = graph.call_function(ATEN.slice.Tensor, (made, -1, begin, begin + width))
                    begin += width
                part.meta["val"] = node.meta["val"]
                node.replace_all_uses_with(part)
        whole(made)

    def name_tensors(self) -> dict[str, str]:
        """Give names to whatever else the graph reads; returns what they stand for."""
        tensors: dict[str, str] = {}
        for node in list(self._graph.nodes):
            if node.op == "get_attr" and node not in self._attributes.values():
                name = f"t{len(tensors)}"
                tensors[name] = _path(str(node.target))
                node.replace_all_uses_with(self._attribute(name))
        return tensors

    def _packed(self, weights: Sequence[fx.Node]) -> tuple[fx.Node, int]:
        """The packed form of these weights, and the form's number."""
        return self._stacked(self.products, "w", weights), int(kernels.forms()[0])

    def _stacked(self, known: dict[str, list[str]], letter: str, parts: Sequence[fx.Node]) -> fx.Node:
        name = f"{letter}{len(known)}"
        known[name] = [_path(str(part.target)) for part in parts]
        return self._attribute(name)

    def _attribute(self, name: str) -> fx.Node:
        if name not in self._attributes:
            with self._graph.inserting_after(self._inputs[-1]):
                self._attributes[name] = self._graph.get_attr(name)
        return self._attributes[name]


def _only_sum(product: fx.Node) -> Any:
    """The sum with a bias, where that is all that a product is for."""
    user = next(iter(product.users), None)
    if user is None or len(product.users) > 1 or not calls(user, ATEN.add.Tensor) or user.args[0] is not product:
        return None
    bias: Any = user.args[1]
    return user if isinstance(bias, fx.Node) and bias.op == "get_attr" and bias.meta["val"].ndim == 1 else None


def _path(target: str) -> str:
    return target.removeprefix("model.")


def _same_input(graph: fx.Graph, kinds: Mapping[str, str], *, packed: bool) -> Iterator[tuple[fx.Node, list[Any]]]:
    """Products without bias that have their input in common, and the kind of their weights."""
    found: dict[tuple[fx.Node, str | None], list[Any]] = {}
    for node in graph.nodes:
        if not calls(node, ATEN.linear.default) or len(node.args) != 2:
            continue
        x, weight = node.args
        if weight.op == "get_attr" and (not packed or quantise.fits(weight.meta["val"])):
            found.setdefault((x, kinds.get(_path(str(weight.target)))), []).append(node)
    yield from ((x, together) for (x, _), together in found.items())
