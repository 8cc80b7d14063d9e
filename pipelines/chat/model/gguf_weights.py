"""The weights of a GGUF file, packed straight from the mapping or de-quantised, a few rows at a time."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from pipelines import kernels
from pipelines.chat.model.attention import empty_memory
from pipelines.chat.model.gguf import GgufError, GgufFile, GgufTensor
from pipelines.chat.model.gguf_blocks import BITS, dequantise, groups, halves
from pipelines.chat.model.gguf_model import parameters
from pipelines.chat.model.graph import PackedWeights, Plan, tensors_of
from pipelines.kernels.quantise import Groups, Layout, Packed, quantise, slices
from pipelines.loading import one_at_a_time

DROP_EVERY = 32  # slices, some megabytes, whose pages are given back together

LAYOUTS = {
    "Q4_0": Layout.SIGNED_4,
    "Q4_1": Layout.BITS_4,
    "Q4_K": Layout.BITS_4,
    "Q5_0": Layout.SIGNED_5,
    "Q5_1": Layout.BITS_5,
    "Q5_K": Layout.BITS_5,
    "Q6_K": Layout.HALVES_6,
    "Q8_0": Layout.SIGNED_8,
}

EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"


def empty_model(config: PretrainedConfig, dtype: torch.dtype) -> PreTrainedModel:
    """The model with parameters of zeros, which take no memory before they are written."""
    with one_at_a_time, torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype)
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(model.config)  # computed once more, where there is memory
    for name, parameter in list(model.named_parameters()):
        owner, _, attribute = name.rpartition(".")
        zeros = empty_memory(tuple(parameter.shape), dtype, torch.device("cpu"))
        setattr(model.get_submodule(owner), attribute, torch.nn.Parameter(zeros, requires_grad=False))
    model.tie_weights()
    model.eval()
    return model


class GgufWeights:
    """Where each parameter lies in the file, and how it is read.

    Raises: GgufError when the tensors do not make the model that ``config`` describes.
    """

    def __init__(self, file: GgufFile, config: PretrainedConfig) -> None:
        self._found = parameters(file, config)
        if OUTPUT not in self._found:  # tied
            self._found[OUTPUT] = self._found[EMBEDDING]

    @property
    def kinds(self) -> dict[str, str]:
        """How each parameter is coded."""
        return {name: tensor.kind for name, (tensor, _) in self._found.items()}

    def write_all(self, model: PreTrainedModel) -> None:
        """De-quantise every parameter of an empty model. Raises: GgufError for numbers that are not finite."""
        once = {tensor.offset: name for name, (tensor, _) in self._found.items()}  # tied ones have one place
        self._write(model, once.values())

    def packed(self, model: PreTrainedModel, plan: Plan, threads: int) -> PackedWeights:
        """The plan's products, packed by so many threads; what else the plan needs is de-quantised into the model.

        Raises: GgufError for numbers that are not finite.
        """
        needed = (*plan.tensors.values(), *(path for paths in plan.biases.values() for path in paths))
        self._write(model, (path for path in needed if path in self._found))
        form = kernels.forms()[0]
        products = {name: [self._found[path] for path in paths] for name, paths in plan.products.items()}
        places = {name: tuple(tensor.offset for tensor, _ in stacked) for name, stacked in products.items()}
        once = {places[name]: stacked for name, stacked in products.items()}  # a tied output is the embedding
        with ThreadPoolExecutor(threads, "packing") as pool:
            made = dict(zip(once, pool.map(lambda stacked: _packed(stacked, form), once.values()), strict=True))
        return {name: made[places[name]] for name in products}

    @torch.inference_mode()
    def _write(self, model: PreTrainedModel, names: Iterable[str]) -> None:
        known = tensors_of(model)
        for name in names:
            tensor, order = self._found[name]
            for rows, raw in _rows(tensor, order):
                values = dequantise(raw, tensor.kind, known[name][rows].shape)
                _check_finite(tensor, values)
                known[name][rows] = values.to(known[name].dtype)


def layout_of(kind: str, form: kernels.Form) -> Layout:
    """How packed weights of this coding are laid out."""
    return LAYOUTS.get(kind, Layout.BITS_8).within(form)


def _packed(stacked: Sequence[tuple[GgufTensor, Tensor | None]], form: kernels.Form) -> Tensor:
    """One product's weights, which are coded alike."""
    layout, inputs = layout_of(stacked[0][0].kind, form), stacked[0][0].shape[1]
    packed = Packed(sum(tensor.shape[0] for tensor, _ in stacked), inputs, layout, form)
    for tensor, order in stacked:
        for rows, raw in _rows(tensor, order):
            quants, factors = _groups(tensor, raw, rows.stop - rows.start, inputs, layout)
            factors = factors.half()
            _check_finite(tensor, factors)
            packed.add(quants, factors)
    return packed.tensor


def _groups(tensor: GgufTensor, raw: Tensor, outputs: int, inputs: int, layout: Layout) -> Groups:
    """Some rows of the tensor, for this layout."""
    if layout is Layout.HALVES_6:
        return halves(raw, outputs, inputs)
    if tensor.kind not in BITS:
        return quantise(dequantise(raw, tensor.kind, (outputs, inputs)), layout.bits)
    quants, scales, minima, _ = groups(raw, tensor.kind, outputs, inputs)
    return quants, torch.cat((scales, minima), dim=-1) if "minimum" in layout.factors else scales


def _rows(tensor: GgufTensor, order: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
    """The tensor's bytes, some of its rows at a time and in the parameter's order; a vector is one row."""
    outputs, inputs = tensor.shape if len(tensor.shape) == 2 else (1, tensor.shape[0])
    lines = tensor.raw().view(outputs, -1)
    for count, rows in enumerate(slices(outputs, inputs), start=1):
        raw = lines[rows] if order is None else lines[order[rows]]
        yield (rows if len(tensor.shape) == 2 else slice(0, inputs)), raw.flatten()
        if count % DROP_EVERY == 0:
            tensor.drop_pages()
    tensor.drop_pages()


def _check_finite(tensor: GgufTensor, *values: Tensor) -> None:
    if not all(bool(each.isfinite().all()) for each in values):
        raise GgufError(f"the tensor {tensor.name!r} holds numbers that are not finite")
