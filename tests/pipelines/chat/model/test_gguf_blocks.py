"""The codings of GGUF's tensors against gguf-py's reference."""

from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from gguf.quants import dequantize

from pipelines.chat.model.gguf import GgufError, read
from pipelines.chat.model.gguf_blocks import BITS, dequantise, groups
from tests.tiny_gguf import coded, random_blocks, tiny_gguf

FLOATS = ("F32", "F16", "BF16")
QUANTISED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K")
WRITABLE = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0")  # gguf-py can only read the others
N, K = 5, 512


def values() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(1).normal(size=(N, K)).astype(np.float32)


def blocks_of(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Random blocks of a (N, K) matrix, and the reference's values."""
    in_block = 256 if kind.endswith("_K") else 32
    blocks = random_blocks(kind, N * K // in_block, np.random.default_rng(2)).reshape(N, -1)
    return torch.from_numpy(blocks).flatten(), torch.from_numpy(dequantize(blocks, GGMLQuantizationType[kind]))


@pytest.mark.parametrize("kind", QUANTISED)
def test_random_blocks_give_exactly_the_references_values(kind: str) -> None:
    raw, expected = blocks_of(kind)
    assert torch.equal(dequantise(raw, kind, (N, K)), expected)
    assert expected.isfinite().all()
    assert expected.unique().numel() > 100


@pytest.mark.parametrize("kind", [*FLOATS, *WRITABLE])
def test_real_values_give_exactly_the_references_values(kind: str) -> None:
    data = coded(values(), kind, np.random.default_rng(0))
    expected = torch.from_numpy(dequantize(data, GGMLQuantizationType[kind]))
    result = dequantise(torch.from_numpy(data.view(np.uint8)).flatten(), kind, (N, K))
    assert torch.equal(result, expected)
    torch.testing.assert_close(result, torch.from_numpy(values()), atol=0.5, rtol=0)  # they are those values


@pytest.mark.parametrize("kind", list(BITS))
def test_groups_are_the_same_values_as_a_line_through_quants(kind: str) -> None:
    raw, expected = blocks_of(kind)
    quants, scales, minima, bits = groups(raw, kind, N, K)
    assert quants.shape == (N, K // 32, 32)
    assert scales.shape == minima.shape == (N, K // 32, 1)
    assert (quants.dtype, scales.dtype, minima.dtype) == (torch.uint8, torch.float32, torch.float32)
    assert int(quants.max()) == 2**bits - 1
    line = (scales * quants + minima).view(N, K)
    size = (scales.abs() * 2**bits + minima.abs()).expand(-1, -1, 32).reshape(N, K)
    assert ((line - expected).abs() <= size * 2**-22).all()


def test_six_bits_have_no_groups_of_32() -> None:
    raw, _ = blocks_of("Q6_K")
    with pytest.raises(GgufError, match="Q6_K have no groups"):
        groups(raw, "Q6_K", N, K)


def test_a_coding_that_is_not_known_is_refused_by_name() -> None:
    with pytest.raises(GgufError, match="IQ2_XXS can't be read"):
        dequantise(torch.zeros(66, dtype=torch.uint8), "IQ2_XXS", (1, 256))


@pytest.mark.parametrize("kind", ["F32", "Q4_0", "Q6_K"])
def test_bytes_that_do_not_fit_the_shape_are_refused(kind: str) -> None:
    with pytest.raises(GgufError, match="do not take"):
        dequantise(torch.zeros(100, dtype=torch.uint8), kind, (2, 256))


@pytest.mark.parametrize("kind", [*FLOATS, *QUANTISED])
def test_a_files_tensors_come_out_as_the_reference_has_them(kind: str, tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "m.gguf", kind=kind, width=256, architecture="qwen2")
    ours = read(path)
    theirs = {tensor.name: tensor for tensor in GGUFReader(path).tensors}
    assert ours.tensors.keys() == theirs.keys()
    for name, tensor in ours.tensors.items():
        expected = torch.from_numpy(dequantize(theirs[name].data, theirs[name].tensor_type).copy())
        assert torch.equal(dequantise(tensor.raw(), tensor.kind, tensor.shape), expected)
