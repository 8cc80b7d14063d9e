"""Chains of operations in a traced graph that one kernel of ours computes: found by pattern, and replaced."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

ATEN = torch.ops.aten

OURS = torch.ops.loquent


def calls(node: Any, target: Any) -> bool:
    """Whether this node of the graph calls ``target``."""
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target is target


def dtype_of(node: Any) -> torch.dtype | None:
    """The dtype of what a node computes, where the tracer knows it."""
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
    if not calls(value, pattern.target) or len(value.args) != len(pattern.arguments) or value.kwargs:
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


def _root_mean_square(wide: Any, scaled: Any = None) -> Call:
    """What is ``scaled``, the same if nothing else is, by its root mean square."""
    return _mul(
        scaled or wide,
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


def _in_heads(x: Any) -> Call:
    return Call(ATEN.transpose.int, (Call(ATEN.view.default, (x, [1, "tokens", "heads", "size"])), 1, 2))


HEADS = _in_heads(Call(ATEN.slice.Tensor, ("x", -1, "begin", "end")))

ALL_HEADS = _in_heads("x")

GATE = _mul(Call(ATEN.silu.default, ("gate",)), "up")

_CUBE = _mul(Call(ATEN.pow.Tensor_Scalar, ("x", 3.0)), 0.044715)

GELU = _mul(_mul("x", 0.5), _add(Call(ATEN.tanh.default, (_mul(_add("x", _CUBE), "root"),)), 1.0))  # Flan-T5's


def fuse(graph: fx.Graph) -> None:
    """Replace every known chain by the kernel that computes it."""
    _replace(graph, _chains)


def shorten(graph: fx.Graph) -> None:
    """Replace what PyTorch takes long to call, or divides among its own threads, once products are stacked."""
    _replace(graph, _single)


def _replace(graph: fx.Graph, known: "Callable[[], Iterator[tuple[Call, Builder]]]") -> None:
    for node in list(graph.nodes):
        for pattern, build in known():
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
    yield _mul("weight", _to(_root_mean_square(wide, narrow), "dtype")), _norm(centred=False)  # T5's
    yield _to(_mul(_root_mean_square(wide), _add(_to("weight", torch.float32), 1.0)), "dtype"), _norm(centred=True)
    yield _mul(_root_mean_square(narrow), _add("weight", 1.0)), _norm(centred=True)
    yield ROTATE, _rotate
    yield GATE, _gate
    yield GELU, _gelu


def _single() -> Iterator[tuple[Call, Builder]]:
    yield Call(ATEN.linear.default, ("x", "weight")), _dense
    yield Call(ATEN.add.Tensor, ("x", "other")), _sum
    yield HEADS, _heads
    yield ALL_HEADS, _all_heads


def _dense(graph: fx.Graph, node: fx.Node, found: dict[str, Any]) -> fx.Node:
    with graph.inserting_before(node):
        return graph.call_function(OURS.dense.default, (found["x"], found["weight"]))


def _sum(graph: fx.Graph, node: fx.Node, found: dict[str, Any]) -> fx.Node | None:
    """Only of tensors that are known to have one shape, and a type that the kernels have."""
    a, b = (each.meta.get("val") if isinstance(each, fx.Node) else None for each in (found["x"], found["other"]))
    if not (isinstance(a, Tensor) and isinstance(b, Tensor) and a.dtype is b.dtype and a.ndim == 3):
        return None
    if a.dtype not in (torch.bfloat16, torch.float32) or a.shape != b.shape:
        return None
    with graph.inserting_before(node):
        return graph.call_function(OURS.add.default, (found["x"], found["other"]))


def _heads(graph: fx.Graph, node: fx.Node, found: dict[str, Any]) -> fx.Node | None:
    begin, end, size = (found[name] for name in ("begin", "end", "size"))
    if not (isinstance(size, int) and isinstance(end, int)):
        return None
    with graph.inserting_before(node):
        return graph.call_function(OURS.heads.default, (found["x"], begin, end, size))


def _all_heads(graph: fx.Graph, node: fx.Node, found: dict[str, Any]) -> fx.Node | None:
    """Only of what our products give: it lies as ``heads`` wants it."""
    x, size = found["x"], found["size"]
    if not (isinstance(size, int) and any(calls(x, made.default) for made in (OURS.linear, OURS.add, OURS.dense))):
        return None
    with graph.inserting_before(node):
        return graph.call_function(OURS.heads.default, (x, 0, x.meta["val"].shape[-1], size))


def _norm(*, centred: bool) -> Builder:
    def build(graph: fx.Graph, node: fx.Node, found: dict[str, Any]) -> fx.Node | None:
        weight = found["weight"]
        if not isinstance(weight, fx.Node) or weight.op != "get_attr" or dtype_of(weight) is not dtype_of(found["x"]):
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
    if not (calls(gate, ATEN.linear.default) and calls(up, ATEN.linear.default)):
        return None
    if gate.args[0] is not up.args[0] or len(gate.args) != 2 or len(up.args) != 2:
        return None
    width = gate.meta["val"].shape[-1]
    if up.meta["val"].shape[-1] != width or len(gate.users) != 1 or len(up.users) != 1:
        return None
    with graph.inserting_before(node):
        both = graph.call_function(ATEN.cat.default, ([gate, up], -1))
        return graph.call_function(OURS.gate.default, (both,))


def _gelu(graph: fx.Graph, node: fx.Node, found: dict[str, Any]) -> fx.Node:
    with graph.inserting_before(node):
        return graph.call_function(ATEN.gelu.default, (found["x"],), {"approximate": "tanh"})


def whole(made: Any) -> None:
    """Where all parts of a product are only stacked again, as for a gate, take the product itself."""
    parts = sorted((user for user in made.users if calls(user, ATEN.slice.Tensor)), key=lambda part: int(part.args[2]))
    for joined in [user for part in parts[:1] for user in part.users]:
        if calls(joined, ATEN.cat.default) and list(joined.args[0]) == parts:
            joined.replace_all_uses_with(made)


def _take_bias_out(graph: fx.Graph, node: fx.Node) -> None:
    """Make a product with a bias a product and a sum, so that it can be stacked with others, and packed."""
    x, weight, bias = node.args
    with graph.inserting_before(node):
        product = graph.call_function(ATEN.linear.default, (x, weight))
        product.meta["val"] = node.meta["val"]
        added = graph.call_function(ATEN.add.Tensor, (product, bias))
        added.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(added)
    graph.erase_node(node)


def tidy(graph: fx.Graph) -> None:
    """Drop what changes nothing and take biases out of products, so that chains lie side by side."""
    for node in list(graph.nodes):
        if calls(node, ATEN.linear.default) and len(node.args) == 3 and node.args[2] is not None:
            _take_bias_out(graph, node)
    for node in list(graph.nodes):
        guard = node.op == "call_module" and node.target == "_guards_fn"
        if guard or calls(node, ATEN._assert_tensor_metadata.default):
            graph.erase_node(node)
        elif (calls(node, ATEN.to.dtype) and dtype_of(node) == dtype_of(node.args[0])) or (
            calls(node, ATEN.dropout.default) and node.args[2] is False
        ):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    graph.eliminate_dead_code()
