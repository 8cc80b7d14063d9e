"""A tiny seeded Piper voice: the graph of a real one in miniature, with its three parts and its node names."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from piper.phoneme_ids import DEFAULT_PHONEME_ID_MAP

CHANNELS = 8
HOP = 256
RATE = 22_050


def tiny_voice(folder: Path, *, speakers: tuple[str, ...] = (), vocoder: str = "/dec/", **config: Any) -> Path:
    """Write the voice and its configuration; returns the path of the voice."""
    noise = np.random.default_rng(7)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def weight(name: str, *shape: int) -> str:
        values = noise.standard_normal(shape).astype(np.float32) / np.sqrt(np.prod(shape[1:]) or 1)
        weights.append(numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def whole(name: str, *values: int) -> str:
        weights.append(numpy_helper.from_array(np.array(values, dtype=np.int64), name))
        return name

    def node(kind: str, inputs: list[str], output: str, name: str = "", **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], name or f"/{output}/{kind}", **attributes))
        return output

    if speakers:  # looked up first, as in real voices
        node("Gather", [weight("people", len(speakers), CHANNELS), "sid"], "person")
        node("Unsqueeze", ["person", whole("behind", 2)], "condition")  # (1, C, 1)
    # The reader: every id lasts ceil(2 · length scale) frames.
    node("Gather", [weight("embedding", 256, CHANNELS), "input"], "embedded")  # (1, T, C)
    node("Transpose", ["embedded"], "told", perm=[0, 2, 1])  # (1, C, T)
    node("Slice", ["scales", whole("one", 1), whole("two", 2)], "length")
    node("Add", ["length", "length"], "twice")
    node("Cast", ["input"], "ids", to=TensorProto.FLOAT)
    node("Mul", ["ids", numpy_scalar(weights, "nothing", 0.0)], "zeros")
    node("Add", ["zeros", "twice"], "widths")
    node("Unsqueeze", ["widths", whole("axis", 1)], "widths3")
    node("Ceil", ["widths3"], "durations")  # (1, 1, T)
    node("Round", ["twice"], "each")
    node("Cast", ["each"], "times", to=TensorProto.INT64)
    node("Concat", [whole("c1", 1), whole("c2", 1), whole("c3", 1), "times"], "spread", axis=0)
    node("Unsqueeze", ["told", whole("last", 3)], "told4")
    node("Tile", ["told4", "spread"], "tiled")  # (1, C, T, times)
    node("Reshape", ["tiled", whole("flat", 1, CHANNELS, -1)], "mean")  # (1, C, frames)
    node("RandomNormalLike", ["mean"], "noise", seed=1.0)
    node("Slice", ["scales", whole("zero", 0), "one"], "loudness")
    node("Mul", ["noise", "loudness"], "noisy")
    node("Add", ["mean", "noisy"], "prior")
    node("ReduceMax", ["prior"], "highest", axes=[1], keepdims=1)
    node("Equal", ["highest", "highest"], "same")
    node("Cast", ["same"], "mask", to=TensorProto.FLOAT)  # (1, 1, frames)
    inputs = [
        helper.make_tensor_value_info("input", TensorProto.INT64, [1, None]),
        helper.make_tensor_value_info("input_lengths", TensorProto.INT64, [1]),
        helper.make_tensor_value_info("scales", TensorProto.FLOAT, [3]),
    ]
    if speakers:
        inputs.append(helper.make_tensor_value_info("sid", TensorProto.INT64, [1]))
    # The flow.
    node("Conv", ["prior", weight("flow", CHANNELS, CHANNELS, 5)], "flowing", "/flow/flows.0/Conv", pads=[2, 2])
    node("Mul", ["flowing", "mask"], "latent")
    # The vocoder.
    node("Conv", ["latent", weight("pre", CHANNELS, CHANNELS, 7)], "before", f"{vocoder}conv_pre/Conv", pads=[3, 3])
    if speakers:
        node("Conv", ["condition", weight("cond", CHANNELS, CHANNELS, 1)], "who", f"{vocoder}cond/Conv")
        node("Add", ["before", "who"], "own", f"{vocoder}Add")
    node(
        "ConvTranspose",
        ["own" if speakers else "before", weight("up", CHANNELS, 1, 2 * HOP)],
        "rough",
        f"{vocoder}ups.0/ConvTranspose",
        strides=[HOP],
        pads=[HOP // 2, HOP // 2],
    )
    node("Tanh", ["rough"], "sound", f"{vocoder}Tanh")
    node("Unsqueeze", ["sound", whole("out", 1)], "output", "/Unsqueeze_out")
    outputs = [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, weights)
    path = folder / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8), path)
    settings = {
        "audio": {"sample_rate": RATE},
        "espeak": {"voice": "en-us"},
        "num_symbols": 256,
        "num_speakers": max(len(speakers), 1),
        "speaker_id_map": {name: number for number, name in enumerate(speakers)},
        "phoneme_id_map": DEFAULT_PHONEME_ID_MAP,
        "inference": {"noise_scale": 0.0, "length_scale": 1.0, "noise_w": 0.0},
        **config,
    }
    path.with_name("tiny.onnx.json").write_text(json.dumps(settings))
    return path


def numpy_scalar(weights: list[onnx.TensorProto], name: str, value: float) -> str:
    weights.append(numpy_helper.from_array(np.array([value], dtype=np.float32), name))
    return name
