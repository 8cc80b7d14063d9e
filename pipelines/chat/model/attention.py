"""Attention over slots: what the models' own modelling code calls in place of its attention.

A step's tokens, whatever streams they belong to, are packed into one row. Each attention layer has two static tensors
that hold the keys and values of every slot; a call writes the new tokens' there and attends each token to its own
slot. The cache is written behind the tracer's back, which is safe because nothing else in a step reads it.
"""

import math
import mmap
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from pipelines import kernels

NAME = "loquent"
FINE = {"dropout", "position_ids", "use_cache", "cache_position", "position_embeddings", "output_attentions"}


class Unsupported(Exception):  # noqa: N818 - not an error: such a model is run another way
    """This model's attention is none that the slots can serve."""


class Slots:
    """The keys and values of every attention layer, and which tokens the step in progress consists of.

    Shared by all layers of one model; the tensors are made when a layer is first called, as only then its shape is
    known.
    """

    def __init__(self, count: int, context: int, *, segments: int) -> None:
        self.count = count
        self.context = context
        # Row 0: the number of segments; then offset, tokens, slot and start of each.
        self.table = torch.zeros(1 + segments, 4, dtype=torch.int32)
        self.tensors: list[Tensor] = []  # keys and values of every layer, (slots, heads, context, size) each

    def attach(self, model: nn.Module) -> None:
        """Let this model's attention layers find their slots."""
        for module in model.modules():
            if hasattr(module, "layer_idx"):
                module.loquent_slots = self  # type: ignore[assignment]

    def allocate(self, layer: nn.Module, key: Tensor, value: Tensor) -> None:
        """Make the tensors of one layer; ``key`` and ``value`` are (1, heads, N, size)."""
        if key.shape[-1] != value.shape[-1]:
            raise Unsupported("keys and values differ in size")
        shape = (self.count, key.shape[1], self.context, key.shape[-1])  # few texts are as long as the context
        for name in ("loquent_keys", "loquent_values"):
            tensor = empty_memory(shape, key.dtype, key.device)
            layer.register_buffer(name, tensor, persistent=False)
            self.tensors.append(tensor)
        layer.register_buffer("loquent_segments", self.table, persistent=False)

    def make(self, model: nn.Module, key_heads: int) -> None:
        """Make the tensors of all layers before one is called."""
        for module in model.modules():
            if hasattr(module, "layer_idx") and hasattr(module, "is_causal"):
                one = torch.empty(1, key_heads, 1, module.head_dim, dtype=model.dtype)  # type: ignore[call-overload]
                self.allocate(module, one, one)

    def copy(self, source: int, target: int, tokens: int) -> None:
        """Give slot ``target`` the first ``tokens`` tokens of slot ``source``."""
        for tensor in self.tensors:
            tensor[target, :, :tokens] = tensor[source, :, :tokens]


def empty_memory(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, which on a CPU take memory only where they are written."""
    if device.type != "cpu" or not hasattr(mmap, "MAP_ANONYMOUS"):
        return torch.zeros(shape, dtype=dtype, device=device)
    pages = mmap.mmap(-1, max(math.prod(shape) * dtype.itemsize, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=dtype, count=math.prod(shape)).view(shape)


def _interface(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What modelling code calls: query (1, heads, N, size), key and value (1, key heads, N, size)."""
    strange = [name for name, value in others.items() if name not in FINE and value is not None]
    if strange or attention_mask is not None or is_causal is False or not getattr(module, "is_causal", True):
        raise Unsupported(f"its attention asks for {', '.join(strange) or 'a mask of its own'}")
    if not hasattr(module, "loquent_keys"):
        module.loquent_slots.allocate(module, key, value)  # type: ignore[union-attr, operator]
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    out = torch.ops.loquent.attention(
        query,
        key,
        value,
        module.loquent_keys,
        module.loquent_values,
        module.loquent_segments,
        scale,
        sliding_window or 0,
        softcap or 0.0,
    )
    return out, None


def _no_mask(*_: Any, **__: Any) -> None:
    """The slots' lengths are the mask."""


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    keys: Tensor,
    values: Tensor,
    segments: Tensor,
    scale: float,
    window: int,
    cap: float,
) -> Tensor:
    """The same as the kernel of that name, on any device: streams that decode are attended together."""
    table: list[list[int]] = segments.tolist()
    rows = table[1 : 1 + table[0][0]]
    out = q.new_zeros((1, q.shape[2], q.shape[1], q.shape[3]))
    for offset, count, slot, start in rows:
        keys[slot, :, start : start + count] = k[0, :, offset : offset + count]
        values[slot, :, start : start + count] = v[0, :, offset : offset + count]
    single = [row for row in rows if row[1] == 1]
    if single:
        offsets = torch.tensor([row[0] for row in single], device=q.device)
        slots = torch.tensor([row[2] for row in single], device=q.device)
        starts = torch.tensor([row[3] for row in single], device=q.device)
        end = max(row[3] for row in single) + 1
        out[0, offsets] = _attend(
            q[0, :, offsets].transpose(0, 1).unsqueeze(2),
            keys[slots, :, :end],
            values[slots, :, :end],
            starts.view(-1, 1),
            scale,
            window,
            cap,
        )[:, :, 0]
    for offset, count, slot, start in rows:
        if count > 1:
            positions = torch.arange(start, start + count, device=q.device).unsqueeze(0)
            end = start + count
            asked = q[:, :, offset : offset + count]
            attended = _attend(
                asked, keys[slot, None, :, :end], values[slot, None, :, :end], positions, scale, window, cap
            )
            out[0, offset : offset + count] = attended[0].transpose(0, 1)
    return out


def _attend(
    q: Tensor, keys: Tensor, values: Tensor, positions: Tensor, scale: float, window: int, cap: float
) -> Tensor:
    """q (B, heads, T, size), keys and values (B, key heads, L, size), positions (B, T): (B, heads, T, size)."""
    streams, heads, tokens, size = q.shape
    shared = q.reshape(streams, keys.shape[1], -1, size)  # the query heads that share a key head, as rows
    scores = (shared @ keys.transpose(2, 3)).float() * scale
    if cap:
        scores = (scores / cap).tanh() * cap
    places = torch.arange(keys.shape[2], device=q.device)
    hidden = places > positions.unsqueeze(-1)  # (B, T, L)
    if window:
        hidden |= places <= positions.unsqueeze(-1) - window
    scores = scores.view(streams, heads, tokens, -1).masked_fill(hidden.unsqueeze(1), float("-inf"))
    weights = scores.softmax(dim=-1).to(q.dtype).view(streams, keys.shape[1], -1, keys.shape[2])
    return (weights @ values).view(streams, heads, tokens, size)


AttentionInterface.register(NAME, _interface)
AttentionMaskInterface.register(NAME, _no_mask)
for _device in ("CPU", "CUDA"):
    if _device != "CPU" or not kernels.load():
        kernels.LIBRARY.impl("attention", attention, _device)
