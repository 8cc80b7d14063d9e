"""Cuts Kokoro's graph into what plans a sentence and what makes its sound, once, and stores both in the cache."""

import threading
from collections.abc import Collection, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.downloads.progress import Progress
from pipelines.speech.voices.interface import VoiceError
from pipelines.speech.voices.piper_graph import made_of

if TYPE_CHECKING:
    import onnx

READER, VOCODER = "reader", "vocoder"
CUTTING = 1  # raise it when what was cut before must be cut again
INPUTS = {"tokens", "style", "speed"}
DURATIONS = "/encoder/Clip_output_0"  # (1, ids), frames of each
# What the vocoder reads: the decoder's frames, and the spectrum of the source, whose phase runs through the sentence.
BETWEEN = ("/decoder/decoder/decode.3/Div_4_output_0", "/decoder/decoder/generator/Concat_3_output_0")


def cut(path: Path, stop: threading.Event) -> Generator[Progress, None, Path]:
    """Make sure that the model's parts are in the cache; returns their folder.

    Raises: VoiceError that names the file and says what is wrong with it.
    """
    text = f"preparing the voice {path.stem}, once"
    return (yield from made_of(path, "voices", CUTTING, text, _write, stop))


def _write(path: Path, folder: Path) -> None:
    import onnx

    try:
        model = onnx.load(path)
    except Exception as error:  # what protobuf raises is its own
        raise VoiceError(f"The voice {path} can't be read, it may be truncated: {error}") from None
    inputs = {given.name for given in model.graph.input}
    made = {name for node in model.graph.node for name in node.output}
    if inputs != INPUTS or not made.issuperset((DURATIONS, *BETWEEN)) or len(model.graph.output) != 1:
        raise VoiceError(
            f"{path} is no Kokoro model of an export that is known here: its inputs are "
            f"{', '.join(sorted(inputs)) or 'none'}, or its graph has no {DURATIONS}."
        )
    onnx.save(_part(model, (DURATIONS, *BETWEEN), ()), folder / f"{READER}.onnx")
    onnx.save(_part(model, (model.graph.output[0].name,), BETWEEN), folder / f"{VOCODER}.onnx")


def _part(model: "onnx.ModelProto", outputs: Sequence[str], given: Collection[str]) -> "onnx.ModelProto":
    """The nodes that ``outputs`` need, when ``given`` are there."""
    import onnx

    nodes = _needed(model, outputs, given)
    used = {name for node in nodes for name in node.input}
    inputs = [each for each in model.graph.input if each.name in used] + [_float(name) for name in given]
    initial = [tensor for tensor in model.graph.initializer if tensor.name in used]
    graph = onnx.helper.make_graph(nodes, "part", inputs, [_float(name) for name in outputs], initial)
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _needed(model: "onnx.ModelProto", outputs: Sequence[str], given: Collection[str]) -> "list[onnx.NodeProto]":
    maker = {name: place for place, node in enumerate(model.graph.node) for name in node.output}
    needed: set[int] = set()
    wanted = list(outputs)
    while wanted:
        place = maker.get(name := wanted.pop())
        if place is not None and name not in given and place not in needed:
            needed.add(place)
            wanted += model.graph.node[place].input
    return [model.graph.node[place] for place in sorted(needed)]


def _float(name: str) -> "onnx.ValueInfoProto":
    import onnx

    return onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
