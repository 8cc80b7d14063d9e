"""Attention of encoder-decoders over slots: what their own modelling code calls in place of its attention.

As in ``attention``, a step's tokens are packed into one row, and each of the decoder's self-attention layers has the
keys and values of every slot. A cross-attention layer has those of the encoder's output, which are written once for
each prompt. New prompts are packed into one row for the encoder too, which needs no padding then.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface

from pipelines import kernels
from pipelines.chat.model.attention import FINE, Unsupported, empty_memory

ENCODER, DECODER = "loquent-encoder", "loquent-decoder"


class DecoderSlots:
    """The keys and values of a decoder's layers, and which tokens the pass in progress consists of.

    ``context`` is the longest reply with its start tokens, ``inputs`` the longest encoded text, both in tokens.
    """

    def __init__(self, decoder: nn.Module, count: int, context: int, inputs: int) -> None:
        self.count, self.context, self.inputs = count, context, inputs
        # Row 0: the number of segments; then offset, tokens, slot and start of each.
        self.table = torch.zeros(1 + count, 4, dtype=torch.int32)
        self.lengths = torch.zeros(count, dtype=torch.int32)  # of the encoded texts
        layers = list(_attention_layers(decoder))
        self._cross = [layer for layer in layers if not layer.is_causal]
        if not self._cross or len(self._cross) * 2 != len(layers):
            raise Unsupported("its decoder has other attention layers than one to itself and one to the encoder each")
        for layer in layers:
            self._allocate(layer)

    def _allocate(self, layer: Any) -> None:
        weight = _projections(layer)[0].weight
        heads, size = _heads(layer)
        if weight.shape[0] != heads * size:
            raise Unsupported("its keys are not divided evenly among its heads")
        shape = (self.count, heads, self.context if layer.is_causal else self.inputs, size)
        for name in ("loquent_keys", "loquent_values"):
            layer.register_buffer(name, empty_memory(shape, weight.dtype, weight.device), persistent=False)
        layer.register_buffer("loquent_segments", self.table, persistent=False)
        if not layer.is_causal:
            layer.register_buffer("loquent_lengths", self.lengths, persistent=False)

    @property
    def projections(self) -> list[nn.Linear]:
        """What makes the keys, then the values, of each cross-attention layer from the encoder's output."""
        return [each for layer in self._cross for each in _projections(layer)]

    def write(self, slot: int, projected: Tensor) -> None:
        """Let this slot attend to a text, given what ``projections`` make of it, side by side: (L, their widths)."""
        length = len(projected)
        targets = [to for layer in self._cross for to in (layer.loquent_keys, layer.loquent_values)]
        for to, made in zip(targets, projected.split([to.shape[1] * to.shape[3] for to in targets], -1), strict=True):
            to[slot, :, :length] = made.view(length, to.shape[1], to.shape[3]).transpose(0, 1)
        self.lengths[slot] = length


def attach_encoder(encoder: nn.Module, slots: DecoderSlots) -> None:
    """Let the encoder's layers find the table of what is encoded, and T5's bias by distance where it has one."""
    for layer in _with_bias(encoder, 2 * slots.inputs - 1, slots.inputs - 1):  # from the farthest before to behind
        layer.register_buffer("loquent_segments", slots.table, persistent=False)


def attach_decoder(decoder: nn.Module, context: int) -> None:
    """Give the self-attention layers T5's bias by distance, as far as ``context`` tokens, where the decoder has one."""
    list(_with_bias(decoder, context, context - 1))


def _with_bias(part: nn.Module, keys: int, query: int) -> Iterator[Any]:
    """The layers that attend to their own text, each with its bias (heads, ``keys``) of a ``query``, or an empty one.

    A layer without a bias of its own has that of the layer before it.
    """
    bias = torch.zeros(0)
    layers = list(_attention_layers(part))
    decodes = any(layer.is_causal for layer in layers)
    for layer in (layer for layer in layers if layer.is_causal or not decodes):
        if getattr(layer, "has_relative_attention_bias", False):
            with torch.no_grad():
                bias = layer.compute_bias(1, keys, past_seen_tokens=query)[0, :, 0].float().contiguous()
            layer.has_relative_attention_bias = False  # so that it computes none itself
        layer.register_buffer("loquent_bias", bias, persistent=False)
        yield layer


def _attention_layers(decoder: nn.Module) -> Iterator[Any]:
    return (module for module in decoder.modules() if hasattr(module, "layer_idx") and hasattr(module, "is_causal"))


def _heads(layer: Any) -> tuple[int, int]:
    """How many there are, and their size."""
    if hasattr(layer, "num_heads"):
        return layer.num_heads, layer.head_dim
    return layer.n_heads, layer.key_value_proj_dim


def _projections(layer: Any) -> tuple[nn.Linear, nn.Linear]:
    """What makes keys and values in this attention layer."""
    return (layer.k_proj, layer.v_proj) if hasattr(layer, "k_proj") else (layer.k, layer.v)


def _encoder_interface(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What an encoder's modelling code calls: query, key and value (1, heads, N, size)."""
    scale = _scale(query, attention_mask, scaling, others)
    bias, segments = module.loquent_bias, module.loquent_segments
    return torch.ops.loquent.encoder_attention(query, key, value, segments, bias, scale), None


def _scale(query: Tensor, mask: Tensor | None, scaling: float | None, others: dict[str, Any]) -> float:
    """Of the scores. Raises: Unsupported where the attention is asked for more than a scale."""
    strange = [name for name, value in others.items() if name not in FINE and value is not None]
    if strange or mask is not None:
        raise Unsupported(f"its attention asks for {', '.join(strange) or 'a mask of its own'}")
    return query.shape[-1] ** -0.5 if scaling is None else float(scaling)


def _decoder_interface(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    position_bias: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What a decoder's modelling code calls: query, key and value (1, heads, N, size)."""
    scale = _scale(query, attention_mask, scaling, others)
    keys, values, segments = module.loquent_keys, module.loquent_values, module.loquent_segments
    if not module.is_causal:  # key and value, of a stand-in for the encoder's output, are in the slots already
        out = torch.ops.loquent.cross_attention(query, keys, values, segments, module.loquent_lengths, scale)
    elif module.loquent_bias.numel():
        bias = module.loquent_bias
        out = torch.ops.loquent.biased_attention(query, key, value, keys, values, segments, bias, scale)
    else:
        out = torch.ops.loquent.attention(query, key, value, keys, values, segments, scale, 0, 0.0)
    return out, None


def _no_mask(*_: Any, **__: Any) -> None:
    """The slots' lengths are the mask."""


def biased_attention(
    q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, segments: Tensor, bias: Tensor, scale: float
) -> Tensor:
    """The same as the kernel of that name, on any device."""
    out = q.new_zeros((1, q.shape[2], q.shape[1], q.shape[3]))
    context = bias.shape[1]
    for offset, count, slot, start in _rows(segments):
        end, here = start + count, slice(offset, offset + count)
        keys[slot, :, start:end] = k[0, :, here]
        values[slot, :, start:end] = v[0, :, here]
        scores = (q[0, :, here] @ keys[slot, :, :end].transpose(1, 2)).float() * scale  # (heads, count, end)
        distances = torch.arange(end, device=q.device) - torch.arange(start, end, device=q.device).unsqueeze(1)
        scores += bias[:, (distances + context - 1).clamp(max=context - 1)]
        weights = scores.masked_fill(distances > 0, float("-inf")).softmax(dim=-1).to(q.dtype)
        out[0, here] = (weights @ values[slot, :, :end]).transpose(0, 1)
    return out


def cross_attention(q: Tensor, keys: Tensor, values: Tensor, segments: Tensor, lengths: Tensor, scale: float) -> Tensor:
    """The same as the kernel of that name, on any device."""
    out = q.new_zeros((1, q.shape[2], q.shape[1], q.shape[3]))
    known = lengths.tolist()
    for offset, count, slot, _ in _rows(segments):
        here, length = slice(offset, offset + count), known[slot]
        scores = (q[0, :, here] @ keys[slot, :, :length].transpose(1, 2)).float() * scale
        weights = scores.softmax(dim=-1).to(q.dtype)
        out[0, here] = (weights @ values[slot, :, :length]).transpose(0, 1)
    return out


def encoder_attention(q: Tensor, k: Tensor, v: Tensor, segments: Tensor, bias: Tensor, scale: float) -> Tensor:
    """The same as the kernel of that name, on any device."""
    out = q.new_zeros((1, q.shape[2], q.shape[1], q.shape[3]))
    for offset, count, _, _ in _rows(segments):
        here = slice(offset, offset + count)
        mask = None
        if bias.numel():
            indices = torch.arange(count, device=q.device)
            mask = bias[:, indices - indices.unsqueeze(1) + bias.shape[1] // 2].to(q.dtype)  # (heads, count, count)
        a, b, c = (each[0, :, here] for each in (q, k, v))
        out[0, here] = functional.scaled_dot_product_attention(a, b, c, mask, scale=scale).transpose(0, 1)
    return out


def _rows(segments: Tensor) -> list[list[int]]:
    table: list[list[int]] = segments.tolist()
    return table[1 : 1 + table[0][0]]


AttentionInterface.register(ENCODER, _encoder_interface)
AttentionInterface.register(DECODER, _decoder_interface)
AttentionMaskInterface.register(ENCODER, _no_mask)
AttentionMaskInterface.register(DECODER, _no_mask)
for _device in ("CPU", "CUDA"):
    if _device != "CPU" or not kernels.load():
        for _plain in (biased_attention, cross_attention, encoder_attention):
            kernels.LIBRARY.impl(_plain.__name__, _plain, _device)
