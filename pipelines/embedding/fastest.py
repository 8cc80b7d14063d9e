"""The fastest way to run an encoder on this processor."""

import torch

from pipelines import kernels
from pipelines.embedding.encoder import Encoder, Weights
from pipelines.embedding.packed import PackedEncoder, can_be_packed
from pipelines.embedding.plain import PlainEncoder


@torch.inference_mode()
def encoder(weights: Weights, *, exact: bool = False) -> Encoder:
    """The kernels where the processor has products with packed weights, else PyTorch's operators, in bfloat16 where it
    has that; ``exact`` is PyTorch's operators in float32."""
    if not exact and can_be_packed(weights) and (forms := kernels.forms()):
        return PackedEncoder(weights, forms[0])
    fast = not exact and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return PlainEncoder(weights, torch.bfloat16 if fast else torch.float32)
