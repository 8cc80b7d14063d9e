"""A GGUF file of a tiny random model."""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter

WIDTH, HIDDEN = 16, 32
ALPHABET = [chr(ord("!") + n) for n in range(32)]


def tiny_gguf(path: Path, *, tokenizer: bool = True) -> Path:
    """Write one layer of Llama's kind, with a tokenizer of single characters or without any."""
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(2)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    writer.add_vocab_size(len(ALPHABET))
    if tokenizer:
        writer.add_tokenizer_model("gpt2")
        writer.add_token_list(ALPHABET)
        writer.add_token_scores([0.0] * len(ALPHABET))
        writer.add_token_types([1] * len(ALPHABET))
        writer.add_token_merges([])
        writer.add_bos_token_id(0)
        writer.add_eos_token_id(1)
    shapes = {
        "token_embd": (len(ALPHABET), WIDTH),
        "output_norm": (WIDTH,),
        "output": (len(ALPHABET), WIDTH),
        **{f"blk.0.attn_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "output")},
        "blk.0.ffn_gate": (HIDDEN, WIDTH),
        "blk.0.ffn_up": (HIDDEN, WIDTH),
        "blk.0.ffn_down": (WIDTH, HIDDEN),
        "blk.0.attn_norm": (WIDTH,),
        "blk.0.ffn_norm": (WIDTH,),
    }
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
