"""Cuts the graph of a Piper voice into parts, once, and keeps them in the cache."""

import threading
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.downloads.cache import cache_folder, made_once, sha256
from pipelines.downloads.progress import Progress
from pipelines.speech.voices.interface import VoiceError

if TYPE_CHECKING:
    import onnx

PARTS = ("reader", "flow", "vocoder")  # in the order in which they are computed
CUTTING = 2  # raise it when voices that were cut before must be cut again
FLOW, VOCODER = "/flow/", "/dec/"  # how nodes are called in the voices that Piper's training exports
INPUTS = {"input", "input_lengths", "scales"}


def cut(path: Path, stop: threading.Event) -> Generator[Progress, None, Path]:
    """Make sure that the voice's parts are in the cache; returns their folder.

    Raises: VoiceError that names the file and says what is wrong with it.
    """
    text = f"preparing the voice {path.stem}, once"
    return (yield from made_of(path, "voices", CUTTING, text, _write, stop))


def made_of(
    path: Path, kind: str, version: int, text: str, make: Callable[[Path, Path], None], stop: threading.Event
) -> Generator[Progress, None, Path]:
    """The folder in the cache with what ``make`` makes of this voice, made now if it is not there.

    Raises: VoiceError when there is no such file, and what ``make`` raises.
    """
    if not path.is_file():
        raise VoiceError(f"There is no voice {path}: give the path of a Piper voice, an .onnx file.")
    folder = cache_folder() / kind / f"{path.stem}-{sha256(path)[:16]}-{version}"
    return (yield from made_once(folder, text, lambda making: make(path, making), stop))


def _write(path: Path, folder: Path) -> None:
    import onnx

    try:
        model = onnx.load(path)
    except Exception as error:  # what protobuf raises is its own
        raise VoiceError(f"The voice {path} can't be read, it may be truncated: {error}") from None
    inputs = {given.name for given in model.graph.input}
    if not inputs >= INPUTS:
        raise VoiceError(
            f"{path} is no Piper voice: its inputs are {', '.join(sorted(inputs)) or 'none'}, "
            f"and a Piper voice has {', '.join(sorted(INPUTS))}."
        )
    for name, part in zip(PARTS, _parts(path, model), strict=True):
        onnx.save(part, folder / f"{name}.onnx")


def _parts(path: Path, model: "onnx.ModelProto") -> list["onnx.ModelProto"]:
    """Cut the graph before its flow and before its vocoder: its nodes are in the order in which they are computed."""
    nodes = list(model.graph.node)
    cuts = [next((i for i, node in enumerate(nodes) if node.name.startswith(p)), 0) for p in (FLOW, VOCODER)]
    rounded = [node for node in nodes[: cuts[0]] if node.op_type == "Ceil"]
    if not 0 < cuts[0] < cuts[1] or len(rounded) != 1:
        raise VoiceError(f"{path} is no Piper voice of an architecture that is known here: its graph is not VITS.")
    durations = [rounded[0].input[0]]  # before they are rounded up to frames
    constants = {node.output[0]: node for node in nodes if node.op_type == "Constant"}
    parts = []
    for begin, end in zip([0, *cuts], [*cuts, len(nodes)], strict=True):
        made = {name for node in nodes[:begin] for name in node.output}
        mine = nodes[begin:end]
        outside = list(dict.fromkeys(name for node in mine for name in node.input if name in made))
        mine = [*(constants[name] for name in outside if name in constants), *mine]
        inputs = [_float(name) for name in outside if name not in constants] if begin else list(model.graph.input)
        needed = {name for node in nodes[end:] for name in node.input} | {model.graph.output[0].name}
        outputs = [
            name for node in nodes[begin:end] for name in node.output if name in needed and name not in constants
        ]
        parts.append(_graph(model, mine, inputs, outputs if begin else [*durations, *outputs]))
    return parts


def _float(name: str) -> "onnx.ValueInfoProto":
    import onnx

    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)


def _graph(
    model: "onnx.ModelProto",
    nodes: "Sequence[onnx.NodeProto]",
    inputs: "Sequence[onnx.ValueInfoProto]",
    outputs: Sequence[str],
) -> "onnx.ModelProto":
    import onnx

    used = {name for node in nodes for name in node.input}
    initial = [tensor for tensor in model.graph.initializer if tensor.name in used]
    graph = onnx.helper.make_graph(nodes, "part", inputs, [_float(name) for name in outputs], initial)
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
