"""The compiled kernels against PyTorch's own operators."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines import kernels
from pipelines.chat.model.attention import attention
from pipelines.kernels import quantise
from pipelines.kernels.quantise import Layout

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler")


def test_the_kernels_compile_where_there_is_a_compiler() -> None:
    assert kernels.load()


@pytest.mark.parametrize("size", [24, 64, 80, 128])
@pytest.mark.parametrize(("window", "cap"), [(0, 0.0), (5, 0.0), (0, 3.0)])
def test_attention_is_what_the_plain_operators_give(size: int, window: int, cap: float) -> None:
    torch.manual_seed(0)
    rows = [(0, 1, 2, 10), (1, 1, 0, 0), (2, 12, 1, 7), (14, 3, 4, 50), (17, 1, 5, 63)]
    segments = torch.tensor([(len(rows), 0, 0, 0), *rows], dtype=torch.int32)
    q = torch.randn(1, 18, 9, size).transpose(1, 2)
    k, v = (torch.randn(1, 18, 3, size).transpose(1, 2) for _ in range(2))
    ours = [torch.randn(6, 3, 64, size) for _ in range(2)]
    plain = [slots.clone() for slots in ours]
    scale = size**-0.5
    given = torch.ops.loquent.attention(q, k, v, *ours, segments, scale, window, cap)
    expected = attention(q, k, v, plain[0], plain[1], segments, scale, window, cap)
    assert torch.allclose(given, expected, atol=1e-5)
    assert all(torch.equal(*pair) for pair in zip(ours, plain, strict=True)), "the slots hold the same"


@pytest.mark.parametrize("size", [64, 80, 128])
@pytest.mark.parametrize(("window", "cap"), [(0, 0.0), (5, 0.0), (40, 0.0), (0, 3.0), (9, 3.0)])
def test_many_tokens_in_bfloat16_are_attended_as_by_the_plain_operators(size: int, window: int, cap: float) -> None:
    torch.manual_seed(0)
    rows = [(0, 50, 1, 37), (50, 1, 0, 3), (51, 13, 2, 0)]
    segments = torch.tensor([(len(rows), 0, 0, 0), *rows], dtype=torch.int32)
    q = torch.randn(1, 64, 6, size).bfloat16().transpose(1, 2)
    k, v = (torch.randn(1, 64, 2, size).bfloat16().transpose(1, 2) for _ in range(2))
    slots = [torch.randn(3, 2, 96, size).bfloat16() for _ in range(2)]
    wide = [each.float() for each in slots]
    given = torch.ops.loquent.attention(q, k, v, *slots, segments, size**-0.5, window, cap)
    expected = attention(q.float(), k.float(), v.float(), wide[0], wide[1], segments, size**-0.5, window, cap)
    assert (given.float() - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize(("window", "cap"), [(0, 0.0), (70, 0.0), (0, 3.0)])
@pytest.mark.parametrize("chunk", [9, 40, 64, 131])
def test_a_prompt_is_attended_alike_however_it_is_cut(chunk: int, window: int, cap: float) -> None:
    torch.manual_seed(0)
    tokens, size = 300, 64
    q = torch.randn(1, tokens, 6, size).bfloat16().transpose(1, 2)
    k, v = (torch.randn(1, tokens, 2, size).bfloat16().transpose(1, 2) for _ in range(2))

    def attended(chunk: int) -> torch.Tensor:
        slots = [torch.zeros(1, 2, 320, size).bfloat16() for _ in range(2)]
        found = []
        for start in range(0, tokens, chunk):
            part = [each[:, :, start : start + chunk] for each in (q, k, v)]
            table = torch.tensor([(1, 0, 0, 0), (0, part[0].shape[2], 0, start)], dtype=torch.int32)
            found.append(torch.ops.loquent.attention(*part, *slots, table, size**-0.5, window, cap))
        return torch.cat(found, dim=1)

    whole, cut = attended(tokens), attended(chunk)
    together = [token for token in range(tokens - 1) if (token + 1) % chunk]  # the last of a chunk is attended alone
    together = [token for token in together if token < tokens // chunk * chunk or tokens % chunk > 8]
    if "avx512_bf16" in Path("/proc/cpuinfo").read_text():  # elsewhere PyTorch attends, which promises nothing
        assert torch.equal(cut[:, together], whole[:, together])
    assert (cut - whole).norm() < 0.01 * whole.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 7])
def test_a_product_divided_among_threads_is_the_whole_one(rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(1, rows, 70).to(dtype), torch.randn(333, 70).to(dtype)
    with torch.inference_mode():
        given = torch.ops.loquent.dense(x, weight)
    assert torch.allclose(given.float(), (x.float() @ weight.float().T), rtol=0.02, atol=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [5, 640])
def test_a_sum_is_that_of_the_plain_operator(width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, other = (torch.randn(1, 90, width).to(dtype) for _ in range(2))
    assert torch.equal(torch.ops.loquent.add(x, other), x + other)
    assert torch.equal(torch.ops.loquent.add(x, other[0, 0]), x + other[0, 0])
    with pytest.raises(RuntimeError, match="differ in shape"):
        torch.ops.loquent.add(x, other[:, :1])


def test_heads_are_a_view_of_a_product() -> None:
    x = torch.randn(1, 7, 320)
    heads = torch.ops.loquent.heads(x, 64, 256, 64)
    assert torch.equal(heads, x[..., 64:256].view(1, 7, -1, 64).transpose(1, 2))
    assert heads.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()


def test_callers_that_compute_at_the_same_time_do_not_mix_their_work() -> None:
    kernels.use_threads(4)  # more than there are cores: some lose theirs amid a piece
    x = torch.randn(1, 24, 512, 64)
    turned = [torch.randn(1, 512, 64) for _ in range(2)]
    expected = torch.ops.loquent.rotate(x, *turned)
    differing: list[int] = []

    def compute() -> None:
        differing.extend(n for n in range(60) if not torch.equal(torch.ops.loquent.rotate(x, *turned), expected))

    callers = [threading.Thread(target=compute) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    kernels.use_threads(2)
    assert not differing


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [5, 16, 1000])
def test_the_likeliest_is_the_first_of_the_largest(size: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits = torch.randn(20, size).to(dtype)
    logits[3] = float("-inf")
    logits[4] = 1.0
    logits[5] = float("nan")
    expected = [max(range(size), key=row.__getitem__) for row in logits.tolist()]
    assert kernels.argmax(logits) == expected
    assert kernels.argmax(logits[:0]) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [1, 31, 64, 1003])
def test_what_a_mask_does_not_allow_is_ruled_out_in_place(size: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(size)
    masks = rng.integers(0, 2**32, (4, -(-size // 32) + 1), dtype=np.uint32)
    masks[1], masks[2] = 0, 2**32 - 1
    logits = torch.randn(4, size).to(dtype)
    allowed = [[bool(int(masks[row, at // 32]) >> at % 32 & 1) for at in range(size)] for row in range(4)]
    expected = torch.where(torch.tensor(allowed), logits, torch.tensor(float("-inf"), dtype=dtype))
    kernels.rule_out(logits, masks)
    assert torch.equal(logits, expected)


def packed_at_random(
    outputs: int, inputs: int, layout: Layout, form: kernels.Form
) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed weights (N, K), and what they stand for."""
    if form not in kernels.forms() or not layout.fits(form):
        pytest.skip("the processor has no such product")
    groups = (outputs, inputs // 32)
    quants = torch.randint(2**layout.bits, (*groups, 32)).to(torch.uint8)
    factors = torch.randn(*groups, len(layout.factors)).half()
    packed = quantise.Packed(outputs, inputs, layout, form)
    for rows in (slice(0, 37), slice(37, outputs)):  # in parts that are no multiples of a block
        packed.add(quants[rows], factors[rows])
    first, last = factors.float()[..., :1], factors.float()[..., -1:]
    if "minimum" in layout.factors:
        return packed.tensor, (quants * first + last).view(outputs, inputs)
    scales = torch.cat((first.expand(*groups, 16), last.expand(*groups, 16)), dim=-1)
    return packed.tensor, ((quants.float() - 2 ** (layout.bits - 1)) * scales).view(outputs, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", kernels.Form)
@pytest.mark.parametrize("layout", quantise.Layout)
def test_embeddings_are_rows_of_packed_weights(layout: Layout, form: kernels.Form, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    packed, weight = packed_at_random(100, 96, layout, form)
    tokens = torch.tensor([[99, 0, 41, 41, 16, 15]])
    given = torch.ops.loquent.embedding(tokens, packed, form, 100, dtype)
    assert torch.allclose(given.float(), weight[tokens], rtol=1e-5 if dtype is torch.float32 else 0.01, atol=1e-5)
    for token in (100, -1):
        with pytest.raises(RuntimeError, match="not in the vocabulary"):
            torch.ops.loquent.embedding(torch.tensor([[0, token]]), packed, form, 100, dtype)


@pytest.mark.parametrize("form", kernels.Form)
@pytest.mark.parametrize("layout", quantise.Layout)
@pytest.mark.parametrize("outputs", [100, 576])
@pytest.mark.parametrize("rows", [1, 5, 6, 33, 100])
def test_a_packed_product_is_that_of_its_weights_and_no_row_depends_on_another(
    rows: int, outputs: int, layout: Layout, form: kernels.Form
) -> None:
    torch.manual_seed(0)
    packed, weight = packed_at_random(outputs, 576, layout, form)
    x = torch.randn(1, rows, 576)
    x[0, 0, 7] = 1000.0  # outweighs the rest of its group
    given = torch.ops.loquent.linear(x, packed, form, outputs)
    rest = weight.clone()
    rest[:, 7] = 0
    error = (given - x @ weight.T).norm(dim=-1) / (x @ rest.T).norm(dim=-1)
    assert error[0, 0] < 0.1, "an outlier does not drown its neighbours"
    assert (error[0, 1:] < 0.01).all()
    alone = torch.cat([torch.ops.loquent.linear(x[:, row : row + 1], packed, form, outputs) for row in range(rows)], 1)
    assert torch.allclose(given, alone, rtol=1e-5, atol=1e-4 * float(given.abs().max()))
    if rows > 2:
        assert torch.equal(given[:, 2:], torch.ops.loquent.linear(x[:, 1:], packed, form, outputs)[:, 1:])
    narrow = torch.ops.loquent.linear(x.bfloat16(), packed, form, outputs)
    assert narrow.dtype == torch.bfloat16
    assert ((narrow.float() - given).norm(dim=-1) < 0.02 * given.norm(dim=-1)).all()


def test_weights_that_are_not_for_the_product_are_refused() -> None:
    packed, _ = packed_at_random(100, 96, Layout.BITS_8, kernels.forms()[0])
    with pytest.raises(RuntimeError, match="not x's"):
        torch.ops.loquent.linear(torch.randn(1, 1, 64), packed, kernels.forms()[0], 100)
    with pytest.raises(RuntimeError, match="groups of 99 bytes"):
        torch.ops.loquent.linear(torch.randn(1, 1, 96), packed[..., :99].contiguous(), kernels.forms()[0], 100)


@pytest.mark.parametrize("layout", [Layout.BITS_4, Layout.BITS_8])
def test_no_rows_give_no_rows(layout: Layout) -> None:
    for form in kernels.forms():
        packed, _ = packed_at_random(100, 96, layout, form)
        assert torch.ops.loquent.linear(torch.randn(1, 0, 96), packed, form, 100).shape == (1, 0, 100)
