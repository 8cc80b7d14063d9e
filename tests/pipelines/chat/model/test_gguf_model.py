"""Configuration, tokenizer and parameters of a GGUF file, against what transformers makes of the same file."""

import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

from pipelines.chat.model.gguf import GgufError, GgufFile, read
from pipelines.chat.model.gguf_blocks import dequantise
from pipelines.chat.model.gguf_model import config, parameters, tokenizer
from tests.mutations import mutated
from tests.tiny_gguf import tiny_gguf

ARCHITECTURES = ["llama", "qwen2", "qwen3"]
CONVERSATION = [{"role": "user", "content": "abab"}, {"role": "assistant", "content": "%&<|end|>"}]


def tiny(path: Path, architecture: str, **more: Any) -> Path:
    """A model with fewer heads for keys than for queries; transformers knows Qwen3 with heads of 128 only."""
    return tiny_gguf(
        path, architecture=architecture, heads=4, key_heads=2, head=128 if architecture == "qwen3" else None, **more
    )


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_configuration_is_transformers_own(architecture: str, tied: bool, tmp_path: Path) -> None:
    path = tiny(tmp_path / "m.gguf", architecture, tied=tied)
    ours, theirs = config(read(path)), AutoConfig.from_pretrained(tmp_path, gguf_file=path.name)
    theirs._name_or_path = ours._name_or_path  # the one thing that the file does not say: where it lies
    assert ours.to_dict() == theirs.to_dict()
    assert type(ours) is type(theirs)
    assert ours.tie_word_embeddings is tied


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_tokenizer_reads_and_writes_as_transformers_own(architecture: str, tmp_path: Path) -> None:
    path = tiny(tmp_path / "m.gguf", architecture)
    ours, theirs = tokenizer(read(path)), AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    texts = ["ab%&<|end|>ab", "", *(text.encode("utf-8", "replace").decode() for text in mutated(3, 200))]
    for text in texts:
        ids = ours(text)["input_ids"]
        assert ids == theirs(text)["input_ids"]
        assert ours.decode(ids) == theirs.decode(ids)
    assert ours("ab%&<|end|>", add_special_tokens=False)["input_ids"] == [34, 35, 37]
    assert ours.special_tokens_map == theirs.special_tokens_map
    assert ours.added_tokens_decoder == theirs.added_tokens_decoder
    assert (ours.eos_token_id, ours.bos_token_id, len(ours)) == (37, 0, len(theirs))
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.chat_template == theirs.chat_template
    expected = theirs.apply_chat_template(CONVERSATION, tokenize=False)
    assert ours.apply_chat_template(CONVERSATION, tokenize=False) == expected == "<user>abab<assistant>%&<|end|>"


@pytest.mark.parametrize("kind", ["F32", "Q4_K", "Q6_K"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_each_parameter_has_transformers_values(architecture: str, kind: str, tmp_path: Path) -> None:
    path = tiny(tmp_path / "m.gguf", architecture, kind=kind, width=256)
    file = read(path)
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=path.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    expected = model.state_dict()
    found = parameters(file, config(file))
    assert found.keys() == expected.keys()
    for name, (tensor, order) in found.items():
        rows = tensor.raw().view(tensor.shape[0], -1)
        packed = rows if order is None else rows[order]  # in order before they are decoded
        assert torch.equal(dequantise(packed.flatten(), tensor.kind, tensor.shape), expected[name]), name
    assert {name for name, (_, order) in found.items() if order is not None} == (
        {f"model.layers.0.self_attn.{part}_proj.weight" for part in "qk"} if architecture == "llama" else set()
    )


def test_a_tied_output_has_no_parameter_of_its_own(tmp_path: Path) -> None:
    file = read(tiny(tmp_path / "m.gguf", "qwen2", tied=True))
    assert "lm_head.weight" not in parameters(file, config(file))


def with_metadata(file: GgufFile, **changes: Any) -> GgufFile:
    """The file with other metadata; ``__`` stands for a dot, and None takes a key out."""
    changed = {**file.metadata, **{name.replace("__", "."): value for name, value in changes.items()}}
    return replace(file, metadata={name: value for name, value in changed.items() if value is not None})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"general__architecture": None}, "architecture 'None' is none of llama"),
        ({"general__architecture": "hippo"}, "architecture 'hippo' is none of llama"),
        ({"general__architecture": 7}, "architecture '7' is none"),
        ({"llama__block_count": None}, "does not state llama.block_count"),
        ({"llama__block_count": 2**31}, "block_count is no sensible number: 2147483648"),
        ({"llama__block_count": 1000}, "1,000 layers are more than the file has tensors"),
        ({"llama__embedding_length": 0}, "embedding_length is no sensible number"),
        ({"llama__embedding_length": "16"}, "embedding_length is no sensible number"),
        ({"llama__attention__head_count": np.array([4, 4])}, "head_count is no sensible number"),
        ({"llama__attention__head_count": True}, "head_count is no sensible number"),
        ({"llama__attention__layer_norm_rms_epsilon": float("nan")}, "epsilon is no sensible number"),
        ({"llama__rope__freq_base": -1.0}, "freq_base is no sensible number"),
        ({"tokenizer__ggml__eos_token_id": "end"}, "makes no sense"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    file = with_metadata(read(tiny(tmp_path / "m.gguf", "llama")), **changes)
    with pytest.raises(GgufError, match=why):
        config(file)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"tokenizer__ggml__tokens": None}, "holds no tokenizer"),
        ({"tokenizer__ggml__tokens": np.array([1, 2])}, "tokens is no list of texts"),
        ({"tokenizer__ggml__model": None}, "tokenizer makes no sense"),
        ({"tokenizer__ggml__model": 4}, "model is of another type than str"),
        ({"tokenizer__ggml__merges": ["a z"]}, "tokenizer makes no sense"),
        ({"tokenizer__ggml__merges": ["a"]}, "tokenizer makes no sense"),
        ({"tokenizer__ggml__eos_token_id": 99}, "eos_token_id is 99, and there are 38 tokens"),
        ({"tokenizer__chat_template": ["x"]}, "chat_template is of another type than str"),
    ],
)
def test_a_tokenizer_that_contradicts_itself_is_refused(changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    file = with_metadata(read(tiny(tmp_path / "m.gguf", "llama")), **changes)
    with pytest.raises(GgufError, match=why):
        tokenizer(file)


def test_tensors_that_do_not_make_the_model_are_refused(tmp_path: Path) -> None:
    file = read(tiny(tmp_path / "m.gguf", "llama"))
    norm = file.tensors["output_norm.weight"]

    def refused(tensors: dict[str, Any], why: str) -> None:
        with pytest.raises(GgufError, match=why):
            parameters(replace(file, tensors=tensors), config(file))

    refused({k: v for k, v in file.tensors.items() if v is not norm}, "'output_norm.weight' is missing")
    refused(file.tensors | {"blk.0.attn_q.bias": norm}, "llama's kind has no tensor 'blk.0.attn_q.bias'")
    refused(file.tensors | {"output_norm.weight": replace(norm, shape=(8,))}, r"is \(8,\), not \(16,\)")
    refused(file.tensors | {"output_norm.weight": replace(norm, kind="I32")}, "is coded as I32, which can't be read")
    assert parameters(replace(file, tensors=file.tensors | {"rope_freqs.weight": norm}), config(file))


def test_a_mutated_file_makes_a_model_or_is_refused(tmp_path: Path) -> None:
    data = tiny(tmp_path / "m.gguf", "qwen2").read_bytes()
    read_well = 0
    for at in range(0, 1500, 3):
        path = tmp_path / "mutated.gguf"
        path.write_bytes(data[:at] + struct.pack("<B", data[at] ^ (1 << at % 8)) + data[at + 1 :])
        try:
            file = read(path)
            parameters(file, config(file))
            tokenizer(file)
        except GgufError:
            continue
        read_well += 1
    assert 0 < read_well < 500
