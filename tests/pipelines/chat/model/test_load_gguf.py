"""GGUF files as models: packed straight from the file, or de-quantised, against transformers' own reading of it."""

from pathlib import Path

import psutil
import pytest
import torch
from transformers import AutoModelForCausalLM, GgufConfig, LlamaConfig, PreTrainedModel

from pipelines import kernels
from pipelines.chat.model import gguf_weights, graph, plans
from pipelines.chat.model.gguf import GgufError, read
from pipelines.chat.model.gguf_blocks import dequantise
from pipelines.chat.model.gguf_types import READABLE
from pipelines.chat.model.gguf_weights import LAYOUTS, empty_model
from pipelines.chat.model.interface import Segment
from pipelines.chat.model.load import load
from pipelines.chat.model.transformer import SerialTransformer, Transformer
from pipelines.chat.settings import ChatSettings
from tests.tiny_gguf import tiny_gguf

ARCHITECTURES = ["llama", "qwen2", "qwen3"]
PROMPT = [33, 1, 36, 5, 7, 7, 20, 12, 3, 30]
needs_packing = pytest.mark.skipif(not kernels.forms(), reason="the processor has no products with packed weights")


@pytest.fixture(autouse=True)
def own_plans(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is traced of these models is shared by these tests and goes with them."""
    folder = tmp_path_factory.getbasetemp() / "gguf-cache"
    monkeypatch.setattr(plans, "cache_folder", lambda: folder)
    return folder


def tiny(folder: Path, architecture: str, kind: str, *, tied: bool = False) -> Path:
    head = 128 if architecture == "qwen3" else None  # transformers knows Qwen3's files with such heads only
    return tiny_gguf(
        folder / "m.gguf", architecture=architecture, kind=kind, width=256, heads=4, key_heads=2, head=head, tied=tied
    )


def reference(path: Path) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.eval()
    return model


@torch.inference_mode()
def expected_logits(model: PreTrainedModel, tokens: list[int]) -> torch.Tensor:
    logits: torch.Tensor = model(input_ids=torch.tensor([tokens]), use_cache=False).logits[0]
    return logits


def packed_model(path: Path) -> Transformer:
    model = load(path, ChatSettings(dtype="bfloat16", threads=1, streams=2, kept=0))
    assert isinstance(model, Transformer)
    return model


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", sorted(READABLE))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_exact_decoding_is_greedy_as_transformers_own(architecture: str, kind: str, tied: bool, tmp_path: Path) -> None:
    path = tiny(tmp_path, architecture, kind, tied=tied)
    model, theirs = load(path, ChatSettings(dtype="float32", threads=1, streams=2, kept=0)), reference(path)
    assert isinstance(model, Transformer)
    text = list(PROMPT)
    logits = model.forward([Segment(0, 0, text, 1)])
    for _ in range(8):
        text.append(int(logits[0].argmax()))
        assert text[-1] == int(expected_logits(theirs, text[:-1])[-1].argmax())
        logits = model.forward([Segment(0, len(text) - 1, text[-1:], 1)])


@needs_packing
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", sorted(READABLE))
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_packed_decoding_is_close_to_transformers_own(
    architecture: str, kind: str, tied: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tiny(tmp_path, architecture, kind, tied=tied)
    given = packed_model(path).forward([Segment(0, 0, PROMPT, len(PROMPT))]).float()
    expected = expected_logits(reference(path), PROMPT)
    # Not all: random weights attend to single tokens, and where two weigh nearly the same, 8 bits choose the other.
    assert ((given - expected).norm(dim=1) / expected.norm(dim=1)).median() < 0.05
    assert "not packed" not in caplog.text


@needs_packing
@pytest.mark.parametrize("kind", sorted(LAYOUTS))
def test_packed_weights_are_the_files_but_for_half_precision_factors(kind: str, tmp_path: Path) -> None:
    path = tiny(tmp_path, "llama", kind)
    tensor = read(path).tensors["token_embd.weight"]
    exact = dequantise(tensor.raw(), kind, tensor.shape)
    form, vocabulary = kernels.forms()[0], tensor.shape[0]
    packed = gguf_weights._packed([(tensor, None)], form)
    rows = torch.ops.loquent.embedding(torch.arange(vocabulary), packed, form, vocabulary, torch.float32)
    bound_on_rounding = 2.0**-10 * exact.view(vocabulary, -1, 32).abs().amax(-1, keepdim=True).clamp_min(1e-3) * 16
    assert ((rows - exact).view(vocabulary, -1, 32).abs() <= bound_on_rounding).all()
    assert (rows - exact).norm() < 1e-3 * exact.norm()


@needs_packing
def test_a_file_is_traced_once_and_nothing_but_the_trace_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, cache = tiny(tmp_path, "qwen2", "Q4_K"), tmp_path / "cache"
    monkeypatch.setattr(plans, "cache_folder", lambda: cache)
    first = packed_model(path).forward([Segment(0, 0, PROMPT, 1)])
    files = [file for file in cache.rglob("*") if file.is_file() and not file.name.endswith(".lock")]
    assert [file.name for file in files] == ["plan.json"]
    monkeypatch.setattr(graph, "trace", None)  # so that it can't be traced again
    assert torch.equal(packed_model(path).forward([Segment(0, 0, PROMPT, 1)]), first)


@needs_packing
@pytest.mark.parametrize("damage", ['"listing": [["aten::no", "", [], "x", []]]', '"listing": [["item"]]', "cut"])
def test_a_damaged_trace_is_made_again(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny(tmp_path, "llama", "Q8_0")
    monkeypatch.setattr(plans, "cache_folder", lambda: tmp_path / "cache")
    first = packed_model(path).forward([Segment(0, 0, PROMPT, 1)])
    (kept,) = (tmp_path / "cache").rglob("plan.json")
    text = kept.read_text()
    kept.write_text(
        text[: len(text) // 2] if damage == "cut" else text.replace('"listing": [[', damage + ', "was": [[', 1)
    )
    assert torch.equal(packed_model(path).forward([Segment(0, 0, PROMPT, 1)]), first)
    assert kept.read_text() == text


@needs_packing
def test_what_can_not_be_traced_runs_de_quantised(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tiny(tmp_path, "llama", "Q8_0")
    monkeypatch.setattr(plans, "cache_folder", lambda: tmp_path / "cache")
    monkeypatch.setattr(graph, "trace", None)
    given = packed_model(path).forward([Segment(0, 0, PROMPT, len(PROMPT))]).float()
    expected = expected_logits(reference(path), PROMPT)
    assert (given - expected).norm() < 0.05 * expected.norm()
    assert "are not packed" in caplog.text
    assert "one after another" not in caplog.text


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize(
    ("kind", "name", "at"),
    [("Q4_K", "blk.0.attn_k.weight", 0), ("F16", "output.weight", 8), ("Q6_K", "token_embd.weight", 208)],
)
def test_a_number_that_is_not_finite_is_refused_by_the_tensors_name(
    kind: str, name: str, at: int, dtype: str, tmp_path: Path
) -> None:
    path = tiny(tmp_path, "llama", kind)
    place = read(path).tensors[name].offset + at
    data = bytearray(path.read_bytes())
    data[place : place + 2] = b"\xff\x7f"  # not a number, in half precision
    path.write_bytes(data)
    with pytest.raises(GgufError, match=f"the tensor '{name}' holds numbers that are not finite"):
        load(path, ChatSettings.model_validate({"dtype": dtype, "threads": 1, "streams": 2, "kept": 0}))


def test_an_empty_model_takes_no_memory() -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    config = LlamaConfig(hidden_size=4096, intermediate_size=14336, num_hidden_layers=4, vocab_size=128_000)
    model = empty_model(config, torch.bfloat16)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    assert parameters > 1_500_000_000
    assert process.memory_info().rss - before < 0.1 * parameters


def test_a_file_without_a_traced_form_is_never_served_one_stream_after_another(tmp_path: Path) -> None:
    model = load(tiny(tmp_path, "qwen2", "F32"), ChatSettings(weights="exact", threads=1, streams=2, kept=0))
    assert not isinstance(model, SerialTransformer)
