"""From a GGUF file to what transformers needs of it: the configuration, the tokenizer, and where each parameter lies.

All of it equals what transformers makes of the same file, in a fraction of the time, and no value is de-quantised.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoConfig, PretrainedConfig, PreTrainedTokenizerBase
from transformers.integrations.gguf.gguf_tokenizer_mapping import convert_gguf_tokenizer
from transformers.tokenization_utils_tokenizers import TokenizersBackend

from pipelines.chat.model.gguf import GgufError, GgufFile, GgufTensor
from pipelines.chat.model.gguf_types import ARCHITECTURES, READABLE

# Metadata of an architecture, and the configuration's name for it.
CONFIGURED = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "embedding_length": "hidden_size",
    "rope.freq_base": "rope_theta",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "vocab_size": "vocab_size",
}
REQUIRED = ("context_length", "block_count", "feed_forward_length", "embedding_length", "attention.head_count")
TOKEN_IDS = {
    "bos_token_id": "bos_token_id",
    "eos_token_id": "eos_token_id",
    "unknown_token_id": "unk_token_id",
    "padding_token_id": "pad_token_id",
}
LARGEST = 1 << 24  # of every size that a configuration states

# A tensor's name in the file, the parameter's in transformers, and its shape by the sizes of ``_Sizes``.
OUTER = {
    "token_embd.weight": ("model.embed_tokens.weight", ("vocabulary", "hidden")),
    "output_norm.weight": ("model.norm.weight", ("hidden",)),
}
OUTPUT = ("output.weight", "lm_head.weight", ("vocabulary", "hidden"))
LAYER = {
    "attn_norm.weight": ("input_layernorm.weight", ("hidden",)),
    "attn_q.weight": ("self_attn.q_proj.weight", ("queries", "hidden")),
    "attn_k.weight": ("self_attn.k_proj.weight", ("keys", "hidden")),
    "attn_v.weight": ("self_attn.v_proj.weight", ("keys", "hidden")),
    "attn_output.weight": ("self_attn.o_proj.weight", ("hidden", "queries")),
    "ffn_norm.weight": ("post_attention_layernorm.weight", ("hidden",)),
    "ffn_gate.weight": ("mlp.gate_proj.weight", ("inner", "hidden")),
    "ffn_up.weight": ("mlp.up_proj.weight", ("inner", "hidden")),
    "ffn_down.weight": ("mlp.down_proj.weight", ("hidden", "inner")),
}
BIASES = {f"attn_{name}.bias": (f"self_attn.{name}_proj.bias", (size,)) for name, size in
          (("q", "queries"), ("k", "keys"), ("v", "keys"))}  # fmt: skip
HEAD_NORMS = {f"attn_{name}_norm.weight": (f"self_attn.{name}_norm.weight", ("head",)) for name in ("q", "k")}
UNUSED = ("rope_freqs.weight",)  # transformers takes no notice of it either


@dataclass(frozen=True, slots=True)
class _Architecture:
    """What an architecture has besides ``LAYER``."""

    layer: dict[str, tuple[str, tuple[str, ...]]]
    head_width: str | None = None  # the metadata that states it, where the configuration wants it
    permuted: bool = False  # whether llama.cpp turned the rows of queries and keys for its rotary embedding


DESCRIBED = {
    "llama": _Architecture(LAYER, head_width="rope.dimension_count", permuted=True),
    "qwen2": _Architecture(LAYER | BIASES),
    "qwen3": _Architecture(LAYER | HEAD_NORMS, head_width="attention.key_length"),
}


def config(file: GgufFile, **changed: int | None) -> PretrainedConfig:
    """The configuration of the model in ``file``, with some of its values ``changed``.

    Raises: GgufError when the architecture is none of ``ARCHITECTURES``, or its sizes are missing or senseless.
    """
    architecture = _architecture(file)
    values = _values(file, architecture)
    values["tie_word_embeddings"] = OUTPUT[0] not in file.tensors
    for key, name in TOKEN_IDS.items():
        if (token := file.metadata.get(f"tokenizer.ggml.{key}")) is not None:
            values[name] = token
    if isinstance(title := file.metadata.get("general.name"), str):
        values["_model_name_or_path"] = title
    try:
        made: PretrainedConfig = AutoConfig.for_model(architecture, **values | changed)
    except Exception as error:  # it checks values by raising all sorts of exceptions
        raise GgufError(f"the file's configuration makes no sense ({type(error).__name__}: {error})") from error
    return made


def _architecture(file: GgufFile) -> str:
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise GgufError(f"the architecture {str(architecture)[:80]!r} is none of {known}")
    return architecture


def _values(file: GgufFile, architecture: str) -> dict[str, Any]:
    """The sizes and other numbers of the configuration."""
    names = dict(CONFIGURED)
    if (head_width := DESCRIBED[architecture].head_width) is not None:
        names[head_width] = "head_dim"
    values: dict[str, Any] = {}
    for key, name in names.items():
        value = file.metadata.get(f"{architecture}.{key}")
        if value is None and key in REQUIRED:
            raise GgufError(f"the file does not state {architecture}.{key}")
        if value is None:
            continue
        kind = float if name in ("rope_theta", "rms_norm_eps") else int
        if type(value) is not kind or not 0 < value <= LARGEST * (1024 if kind is float else 1):
            raise GgufError(f"{architecture}.{key} is no sensible number: {str(value)[:40]}")
        values[name] = value
    values.setdefault("num_key_value_heads", values["num_attention_heads"])
    values.setdefault("vocab_size", len(_texts(file, "tokenizer.ggml.tokens") or ()))
    if values["num_hidden_layers"] > len(file.tensors):
        raise GgufError(f"{values['num_hidden_layers']:,} layers are more than the file has tensors")
    return values


def parameters(file: GgufFile, config: PretrainedConfig) -> dict[str, tuple[GgufTensor, Tensor | None]]:
    """Each parameter's name in transformers, its tensor, and which of its rows comes where (int64), None: as they lie.

    Row ``i`` of the parameter is row ``order[i]`` of the tensor. A tied output has no entry of its own.

    Raises: GgufError when a tensor is missing, unknown, of another shape, or coded so that it can't be read.
    """
    architecture = _architecture(file)
    sizes = _sizes(config)
    expected = dict(OUTER)
    if OUTPUT[0] in file.tensors:
        expected[OUTPUT[0]] = OUTPUT[1:]
    for n in range(config.num_hidden_layers):
        for ours, (theirs, shape) in DESCRIBED[architecture].layer.items():
            expected[f"blk.{n}.{ours}"] = (f"model.layers.{n}.{theirs}", shape)
    if unknown := file.tensors.keys() - expected.keys() - set(UNUSED):
        raise GgufError(f"a model of {architecture}'s kind has no tensor {min(unknown)[:80]!r}")
    orders = _orders(config) if DESCRIBED[architecture].permuted else {}
    found = {}
    for name, (parameter, shape) in expected.items():
        tensor = _fitting(file, name, tuple(sizes[size] for size in shape))
        found[parameter] = (tensor, orders.get(name.split(".")[-2]))
    return found


def _fitting(file: GgufFile, name: str, shape: tuple[int, ...]) -> GgufTensor:
    tensor = file.tensors.get(name)
    if tensor is None:
        raise GgufError(f"the tensor {name!r} is missing")
    if tensor.shape != shape:
        raise GgufError(f"the tensor {name!r} is {tensor.shape}, not {shape} as the configuration says")
    if tensor.kind not in READABLE:
        raise GgufError(f"the tensor {name!r} is coded as {tensor.kind}, which can't be read")
    return tensor


def _sizes(config: PretrainedConfig) -> dict[str, int]:
    head = _head_width(config)
    return {
        "vocabulary": config.vocab_size,
        "hidden": config.hidden_size,
        "inner": config.intermediate_size,
        "head": head,
        "queries": config.num_attention_heads * head,
        "keys": config.num_key_value_heads * head,
    }


def _head_width(config: PretrainedConfig) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _orders(config: PretrainedConfig) -> dict[str, Tensor]:
    """The rows of queries and keys as transformers has them: in each head the even ones, then the odd ones."""
    width = _head_width(config)
    if width % 2:
        raise GgufError(f"heads of {width} values can't be rotated in pairs")

    def order(heads: int) -> Tensor:
        return torch.arange(heads * width).view(heads, width // 2, 2).transpose(1, 2).flatten()

    return {"attn_q": order(config.num_attention_heads), "attn_k": order(config.num_key_value_heads)}


def tokenizer(file: GgufFile) -> PreTrainedTokenizerBase:
    """The tokenizer and chat template in ``file``.

    Raises: GgufError when there is none, or it contradicts itself.
    """
    architecture = _architecture(file)
    tokens = _texts(file, "tokenizer.ggml.tokens")
    if not tokens:
        raise GgufError("the file holds no tokenizer")
    described: dict[str, Any] = {"tokens": tokens}
    for key, name in (("model", "tokenizer_type"), ("pre", "pre_tokenizer_type")):
        described[name] = _optional(file, f"tokenizer.ggml.{key}", str)
    for key in ("scores", "token_type"):
        if isinstance(numbers := file.metadata.get(f"tokenizer.ggml.{key}"), np.ndarray):
            described[key] = numbers.tolist()
    if (merges := _texts(file, "tokenizer.ggml.merges")) is not None:
        described["merges"] = merges
    try:
        backend, more = convert_gguf_tokenizer(architecture, described)
        return _Tokenizer(backend, **_settings(file, tokens), **more)
    except GgufError:
        raise
    except Exception as error:  # tokenizers raises plain Exceptions
        raise GgufError(f"the file's tokenizer makes no sense ({type(error).__name__}: {error})") from error


class _Tokenizer(TokenizersBackend):
    """transformers' own, except that it takes its backend over: a copy of it takes half a second."""

    def __init__(self, backend: Tokenizer, **settings: Any) -> None:
        self._tokenizer = backend
        super().__init__(**settings)  # type: ignore[no-untyped-call]


def _settings(file: GgufFile, tokens: list[str]) -> dict[str, Any]:
    """The chat template, the special tokens, and whether the first and the last of them are added to a text."""
    settings: dict[str, Any] = {}
    if (template := _optional(file, "tokenizer.chat_template", str)) is not None:
        settings["chat_template"] = template
    for flag in ("add_bos_token", "add_eos_token"):
        if (value := _optional(file, f"tokenizer.ggml.{flag}", bool)) is not None:
            settings[flag] = value
    if file.metadata.get("tokenizer.ggml.model") == "llama":  # llama.cpp adds it where an old file does not say
        settings.setdefault("add_bos_token", True)
    for name, key in zip(("bos_token", "eos_token", "unk_token", "pad_token"), TOKEN_IDS, strict=True):
        token = _optional(file, f"tokenizer.ggml.{key}", int)
        if token is not None and not 0 <= token < len(tokens):
            raise GgufError(f"tokenizer.ggml.{key} is {token}, and there are {len(tokens):,} tokens")
        settings[name] = None if token is None else tokens[token]
    return settings


def _optional(file: GgufFile, key: str, kind: type) -> Any:
    value = file.metadata.get(key)
    if value is not None and type(value) is not kind:
        raise GgufError(f"{key} is of another type than {kind.__name__}")
    return value


def _texts(file: GgufFile, key: str) -> list[str] | None:
    value = file.metadata.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(type(item) is str for item in value):
        raise GgufError(f"{key} is no list of texts")
    return value
