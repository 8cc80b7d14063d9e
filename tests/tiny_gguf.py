"""GGUF files of tiny random models."""

from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter
from gguf.quants import quantize
from numpy.typing import NDArray

WIDTH, HIDDEN = 16, 32
ALPHABET = [chr(ord("!") + n) for n in range(32)]
CHAT_TEMPLATE = "{% for message in messages %}<{{ message['role'] }}>{{ message['content'] }}{% endfor %}"


def tiny_gguf(
    path: Path,
    *,
    tokenizer: bool = True,
    architecture: str = "llama",
    kind: str = "F32",
    width: int = WIDTH,
    heads: int = 2,
    key_heads: int = 2,
    head: int | None = None,
    tied: bool = False,
) -> Path:
    """Write one layer of Llama's, Qwen2's or Qwen3's kind, its matrices coded as ``kind``, its heads ``head`` wide.

    The tokenizer has single characters and three merges of them, and there may be none.
    """
    head = head or width // heads
    writer = GGUFWriter(path, architecture)
    writer.add_name("Tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(width)
    writer.add_block_count(1)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(key_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    if architecture == "llama":
        writer.add_rope_dimension_count(head)
    if architecture == "qwen3":
        writer.add_key_length(head)
    writer.add_rope_freq_base(10000.0)
    vocabulary = _tokenizer(writer) if tokenizer else len(ALPHABET)
    if not tokenizer:
        writer.add_vocab_size(vocabulary)
    random = np.random.default_rng(0)
    shapes = _shapes(width, heads * head, key_heads * head, vocabulary) | _more_shapes(
        architecture, heads, key_heads, head
    )
    if not tied:
        shapes["output.weight"] = (vocabulary, width)
    for name, shape in shapes.items():
        values = random.normal(size=shape).astype(np.float32)
        coding = GGMLQuantizationType[kind if len(shape) == 2 else "F32"]
        writer.add_tensor(name, coded(values, coding.name, random), raw_dtype=coding)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tokenizer(writer: GGUFWriter) -> int:
    """Add the tokenizer; returns how many tokens it has."""
    tokens = [*ALPHABET, "a", "b", "ab", "%&", "ab%&", "<|end|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([1] * (len(tokens) - 1) + [3])
    writer.add_token_merges(["a b", "% &", "ab %&"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_chat_template(CHAT_TEMPLATE)
    return len(tokens)


def _shapes(width: int, queries: int, keys: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    return {
        "token_embd.weight": (vocabulary, width),
        "output_norm.weight": (width,),
        "blk.0.attn_q.weight": (queries, width),
        "blk.0.attn_k.weight": (keys, width),
        "blk.0.attn_v.weight": (keys, width),
        "blk.0.attn_output.weight": (width, queries),
        "blk.0.ffn_gate.weight": (2 * width, width),
        "blk.0.ffn_up.weight": (2 * width, width),
        "blk.0.ffn_down.weight": (width, 2 * width),
        "blk.0.attn_norm.weight": (width,),
        "blk.0.ffn_norm.weight": (width,),
    }


def _more_shapes(architecture: str, heads: int, key_heads: int, head: int) -> dict[str, tuple[int, ...]]:
    """What a layer has that Llama's has not."""
    if architecture == "qwen2":
        sizes = {"q": heads * head, "k": key_heads * head, "v": key_heads * head}
        return {f"blk.0.attn_{name}.bias": (size,) for name, size in sizes.items()}
    if architecture == "qwen3":
        return {f"blk.0.attn_{name}_norm.weight": (head,) for name in ("q", "k")}
    return {}


def coded(values: NDArray[np.float32], kind: str, random: np.random.Generator) -> NDArray[Any]:
    """The values coded as ``kind``; where gguf-py can only read a coding, random blocks take their place."""
    coding = GGMLQuantizationType[kind]
    if kind == "F32":
        return values
    if kind == "F16":
        return values.astype(np.float16)
    try:
        coded_values: NDArray[Any] = quantize(values, coding)
    except NotImplementedError:
        in_block, size = GGML_QUANT_SIZES[coding]
        return random_blocks(kind, values.size // in_block, random).reshape(
            *values.shape[:-1], values.shape[-1] // in_block * size
        )
    return coded_values


HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "Q2_K": (80, 82),
}  # fmt: skip


def random_blocks(kind: str, count: int, random: np.random.Generator) -> NDArray[np.uint8]:
    """``count`` blocks of random bytes (blocks, bytes); only the half-precision factors are finite and small."""
    size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]][1]
    blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
    for at in HALVES[kind]:
        blocks[:, at : at + 2] = (random.normal(size=(count, 1)) / 50).astype(np.float16).view(np.uint8)
    return blocks
