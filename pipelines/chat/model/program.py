"""A traced graph as instructions that are kept on disk, and made a program of the kernels that runs without Python."""

import operator
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx

# An instruction: an operator's name and overload, or "item"; its arguments; the result's name; what is no more needed
# behind it. An argument: its kind, and what it is.
Instruction = tuple[str, str, list[Any], str, list[str]]
Argument = tuple[str, Any]


class Unknown(Exception):  # noqa: N818 - no error: such a graph runs as Python
    """The graph has something that is no operator."""


def instructions(graph: fx.Graph) -> list[Instruction]:
    """The calls of a graph of operators. Raises: Unknown when it has anything else."""
    last = {argument: node for node in graph.nodes for argument in node.all_input_nodes}
    made: list[Instruction] = []
    for node in graph.nodes:
        if node.op in ("placeholder", "get_attr", "output"):
            continue
        if node.op != "call_function":
            raise Unknown(node.op)
        over = [each.name for each in node.all_input_nodes if last[each] is node and each.op == "call_function"]
        if node.target is operator.getitem:
            made.append(("item", "", [_argument(each) for each in node.args], node.name, over))
        elif isinstance(node.target, torch._ops.OpOverload):
            schema = node.target._schema
            made.append((schema.name, schema.overload_name, _arguments(node, schema), node.name, over))
        else:
            raise Unknown(str(node.target))
    return made


def _arguments(node: fx.Node, schema: Any) -> list[Argument]:
    """All that the operator takes, in order."""
    given = dict(zip((each.name for each in schema.arguments), node.args, strict=False)) | node.kwargs
    return [_argument(given.get(each.name, each.default_value)) for each in schema.arguments]


def _argument(value: Any) -> Argument:
    match value:
        case fx.Node(op="get_attr"):
            return ("tensor", str(value.target))
        case fx.Node():
            return ("register", value.name)
        case None:
            return ("nothing", None)
        case bool():
            return ("truth", value)
        case int():
            return ("number", value)
        case float():
            return ("real", value)
        case str():
            return ("text", value)
        case torch.dtype() | torch.layout() | torch.memory_format():
            return ("constant", str(value).removeprefix("torch."))
        case torch.device():
            return ("device", str(value))
        case list() | tuple():
            return ("list", [_argument(each) for each in value])
    raise Unknown(f"{value!r}")


def result(graph: fx.Graph) -> str:
    """The name of what the graph returns. Raises: Unknown when that is no single tensor."""
    returned = graph.output_node().args[0]
    if not isinstance(returned, fx.Node):
        raise Unknown("several results")
    return returned.name


def assembled(listing: Sequence[Sequence[Any]], inputs: Sequence[str], result: str, tensors: Mapping[str, Any]) -> Any:
    """The program of these instructions: its ``run`` takes the inputs. Only where the kernels are loaded.

    Raises: KeyError, RuntimeError for what are no instructions.
    """
    names = [*inputs, *(name for *_, name, _ in listing)]
    places = {name: place for place, name in enumerate(names)}
    program = torch.classes.loquent.Program(len(names))

    def push(kind: str, value: Any) -> None:
        match kind:
            case "tensor":
                program.tensor(tensors[value])
            case "register":
                program.from_register(places[value])
            case "nothing":
                program.nothing()
            case "constant":
                program.number(getattr(torch, value))
            case "list":
                for each in value:
                    push(*each)
                program.list(len(value))
            case _:
                getattr(program, kind)(value)

    for name, overload, arguments, made, over in listing:
        if name == "item":
            program.item(places[arguments[0][1]], arguments[1][1], places[made])
        else:
            for argument in arguments:
                push(*argument)
            program.call(name, overload, places[made])
        for each in over:
            program.forget(places[each])
    program.returns(places[result])
    return program
