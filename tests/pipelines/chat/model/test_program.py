"""Traced graphs as programs of the kernels, against the same graphs as Python runs them."""

import operator
import threading

import pytest
import torch
from torch import Tensor, fx

from pipelines import kernels
from pipelines.chat.model.program import Instruction, Unknown, assembled, instructions, result

pytestmark = pytest.mark.skipif(not kernels.load(), reason="there is no C++ compiler")
ATEN = torch.ops.aten
INPUTS = ("tokens", "positions", "wanted")


def graph_of(build: object) -> fx.Graph:
    """A graph of three inputs and an attribute; ``build`` makes its result of their nodes."""
    graph = fx.Graph()
    inputs = [graph.placeholder(name) for name in INPUTS]
    weight = graph.get_attr("weight")
    graph.output(build(graph, *inputs, weight))  # type: ignore[operator]
    return graph


def program_of(graph: fx.Graph, weight: Tensor) -> object:
    return assembled(instructions(graph), INPUTS, result(graph), {"weight": weight}).run


def test_lists_numbers_types_and_elements_are_passed_as_python_passes_them() -> None:
    def build(graph: fx.Graph, tokens: fx.Node, positions: fx.Node, wanted: fx.Node, weight: fx.Node) -> fx.Node:
        call = graph.call_function
        count = call(ATEN.sym_size.int, (tokens, 1))
        wide = call(ATEN.to.dtype, (call(ATEN.to.device, (tokens, torch.device("cpu"), torch.int32)), torch.float64))
        scaled = call(ATEN.mul.Tensor, (wide, 2))  # a number where a tensor may be
        rows = call(ATEN.index.Tensor, (weight, [None, wanted]))
        joined = call(ATEN.cat.default, ([call(ATEN.view.default, (scaled, [count, 1])), rows], 1))
        halves = call(ATEN.split.Tensor, (joined, 2, -1))
        added = call(ATEN.add.Tensor, (call(operator.getitem, (halves, 0)), 1.5), {"alpha": 2})
        return call(ATEN.mean.dim, (added, [0], True))

    weight = torch.randn(4, 6, dtype=torch.float64)
    tokens, wanted = torch.tensor([[3, 1, 4, 1]]), torch.tensor([5, 0, 2])
    found = program_of(graph_of(build), weight)(tokens, tokens, wanted)  # type: ignore[operator]
    joined = torch.cat([tokens.double().T * 2, weight[:, wanted]], 1)
    assert torch.equal(found, (joined[:, :2] + 3.0).mean(0, keepdim=True))


def test_a_number_does_not_change_a_tensors_type() -> None:
    def build(graph: fx.Graph, tokens: fx.Node, positions: fx.Node, wanted: fx.Node, weight: fx.Node) -> fx.Node:
        return graph.call_function(ATEN.mul.Tensor, (weight, 0.3))

    weight = torch.randn(8).bfloat16()
    found = program_of(graph_of(build), weight)(*[torch.zeros(1)] * 3)  # type: ignore[operator]
    assert found.dtype is torch.bfloat16
    assert torch.equal(found, weight * 0.3)


def test_a_program_goes_on_after_an_operator_failed() -> None:
    def build(graph: fx.Graph, tokens: fx.Node, positions: fx.Node, wanted: fx.Node, weight: fx.Node) -> fx.Node:
        return graph.call_function(ATEN.embedding.default, (weight, tokens))

    weight = torch.randn(5, 3)
    run = program_of(graph_of(build), weight)
    with pytest.raises(IndexError, match="out of range"):
        run(torch.tensor([7]), torch.zeros(1), torch.zeros(1))  # type: ignore[operator]
    assert torch.equal(run(torch.tensor([4]), torch.zeros(1), torch.zeros(1)), weight[[4]])  # type: ignore[operator]


def test_other_threads_of_python_run_while_a_program_does() -> None:
    def build(graph: fx.Graph, tokens: fx.Node, positions: fx.Node, wanted: fx.Node, weight: fx.Node) -> fx.Node:
        made = weight
        for _ in range(60):
            made = graph.call_function(ATEN.mm.default, (made, weight))
        return made

    run = program_of(graph_of(build), torch.eye(600))
    turns: list[int] = []
    ended = threading.Event()

    def compute() -> None:
        run(*[torch.zeros(1)] * 3)  # type: ignore[operator]
        ended.set()

    thread = threading.Thread(target=compute)
    thread.start()
    while not ended.is_set():
        turns.append(0)
    thread.join()
    assert len(turns) > 1000


def test_what_is_no_operator_or_argument_is_not_taken() -> None:
    def strange(graph: fx.Graph, tokens: fx.Node, positions: fx.Node, wanted: fx.Node, weight: fx.Node) -> fx.Node:
        return graph.call_function(ATEN.add.Tensor, (weight, torch.Generator()))  # type: ignore[arg-type]

    def function(graph: fx.Graph, tokens: fx.Node, positions: fx.Node, wanted: fx.Node, weight: fx.Node) -> fx.Node:
        return graph.call_function(operator.add, (weight, weight))

    for build in (strange, function):
        with pytest.raises(Unknown):
            instructions(graph_of(build))


def test_a_listing_that_fits_no_operator_is_refused() -> None:
    listing: list[Instruction] = [("aten::add", "Tensor", [("register", "tokens")], "sum", [])]
    with pytest.raises(RuntimeError, match="takes other arguments"):
        assembled(listing, INPUTS, "sum", {})
    with pytest.raises(KeyError):
        assembled([], INPUTS, "sum", {})
